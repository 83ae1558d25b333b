"""What drivers say, in words that name nobody."""

import pytest

from autopilot_site.health.causes import Cause, tell_cause

SAID = {
    "sasl_ssl://joe@10.0.0.7:9093/bootstrap: SASL authentication error: Authentication "
    "failed during authentication due to invalid credentials with SASL mechanism "
    "SCRAM-SHA-512 (after 312ms in state AUTH_REQ)": Cause.REFUSED_USER,
    "sasl_ssl://10.0.0.7:9093/bootstrap: SSL handshake failed: error:0A000086:SSL "
    "routines::certificate verify failed: broker certificate could not be verified, "
    "verify that ssl.ca.location is correctly configured (after 5ms)": Cause.UNTRUSTED,
    "10.0.0.7:9093/bootstrap: Disconnected while requesting ApiVersion: might be caused "
    "by incorrect security.protocol configuration (connecting to a SSL listener?)": (
        Cause.OTHER_PROTOCOL
    ),
    "ssl.ca.location failed: error:80000002:system library::No such file": Cause.UNREADABLE,
    "10.0.0.7:9092/1: Connect to 10.0.0.7:9092 failed: Connection refused": Cause.REFUSED,
    "Failed to resolve 'db.example:9092': Name or service not known": Cause.UNKNOWN_NAME,
    'connection to server at "10.0.0.7", port 5432 failed: SSL error: certificate verify '
    "failed": Cause.UNTRUSTED,
    # As libpq says it of another authority of the same name.
    "SSL error: provider signature failure": Cause.UNTRUSTED,
    'server certificate for "db" does not match host name "10.0.0.7"': Cause.OTHER_HOST,
    'root certificate file "/no/ca.pem" does not exist': Cause.UNREADABLE,
    'FATAL:  password authentication failed for user "joe"': Cause.REFUSED_USER,
    'FATAL:  database "autopilot" does not exist': Cause.ABSENT,
    "FATAL:  sorry, too many clients already": Cause.CROWDED,
    "FATAL:  the database system is starting up": Cause.STARTING,
    "server does not support SSL, but SSL was required": Cause.OTHER_PROTOCOL,
}


class TestTellCause:
    @pytest.mark.parametrize(("said", "cause"), SAID.items())
    def test_says_what_is_to_be_mended(self, said, cause):
        assert tell_cause(said) == f" ({cause})"

    def test_says_nothing_of_what_it_does_not_know(self):
        assert tell_cause('for user "joe" at 10.0.0.7: who knows') == ""
