"""What a neighbour's error means, in words of ours.

The answers of health are open to everybody: what a driver said is never passed on, since
it names addresses and users (contract, section 7).
"""

import re
from enum import StrEnum
from typing import Final


class Cause(StrEnum):
    """Why a neighbour can't be used, as it is told."""

    UNTRUSTED = "its certificate is not trusted"
    OTHER_HOST = "its certificate is for another host"
    UNREADABLE = "a certificate file can't be read"
    REFUSED_USER = "the user or the password is refused"
    NO_RIGHT = "the user lacks a right"
    OTHER_PROTOCOL = "it speaks another security protocol"
    REFUSED = "connection refused"
    TIMED_OUT = "timed out"
    UNKNOWN_NAME = "its name is not known"
    NO_WAY = "no way leads there"
    CROWDED = "it has too many clients"
    STARTING = "it starts or stops"
    ABSENT = "it has no such database"
    TLS = "TLS fails"


# What is found in the error: words of librdkafka, of libpq and of the libraries below
# them. The first that fits is told.
_SIGNS: Final = tuple(
    (re.compile(pattern, re.IGNORECASE), cause)
    for pattern, cause in (
        (r"certificate verify failed|not be verified|signature failure", Cause.UNTRUSTED),
        (r"does not match host|hostname mismatch|address mismatch", Cause.OTHER_HOST),
        (r"location failed|certificate file", Cause.UNREADABLE),
        (r"authentication|no password supplied|no pg_hba", Cause.REFUSED_USER),
        (r"authorization|permission denied", Cause.NO_RIGHT),
        (r"security\.protocol|support ssl", Cause.OTHER_PROTOCOL),
        (r"connection refused", Cause.REFUSED),
        (r"timed? ?out", Cause.TIMED_OUT),
        (r"resolve|translate host|name or service", Cause.UNKNOWN_NAME),
        (r"no route|unreachable", Cause.NO_WAY),
        (r"too many (clients|connections)|slots are reserved", Cause.CROWDED),
        (r"starting up|shutting down|recovery mode", Cause.STARTING),
        (r"database .* does not exist", Cause.ABSENT),
        (r"ssl (handshake|error|connection)|tls", Cause.TLS),
    )
)


def find_cause(error: str) -> Cause | None:
    """Return what an error means; None where it is none of those."""
    return next((cause for pattern, cause in _SIGNS if pattern.search(error)), None)


def tell_cause(error: str) -> str:
    """Return the cause in brackets, to be put behind a sentence; empty where unknown."""
    cause = find_cause(error)
    return f" ({cause})" if cause else ""
