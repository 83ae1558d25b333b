"""Tokens of an outside issuer: whom they let in, and what its keys may look like."""

import json
import threading
import time
from functools import partial

import jwt
import pytest
from drf_spectacular.generators import SchemaGenerator
from jwt.algorithms import RSAAlgorithm
from rest_framework.test import APIClient

from scheduling.adapters import outside_issuer
from scheduling.adapters.outside_issuer import UnacceptableTokenError
from scheduling.api.tokens import RolesTokenSerializer
from scheduling.domain.errors import ServiceUnavailableError
from scheduling.models import AuditEntry, ScheduledTransition
from tests.scheduling.api.forged import change_part, hmac_with, in_seconds, part, sign
from tests.scheduling.api.support import PASSWORD, TRANSITIONS, assert_problem
from tests.support.issuer import (
    AUDIENCE,
    ISSUER,
    ROLES_CLAIM,
    describe,
    drip,
    drip_headers,
    private_key,
    public_pem,
    running_issuer,
    send,
)

OLIVIA = f"{ISSUER}|auth0|olivia"


@pytest.fixture
def issuer(settings, db):
    """Return a running issuer whose tokens are accepted in place of our own."""
    with running_issuer() as running:
        settings.JWT_ISSUER = ISSUER
        settings.JWT_AUDIENCE = AUDIENCE
        settings.JWT_JWKS_URL = running.address
        settings.JWT_ROLES_CLAIM = ROLES_CLAIM
        yield running


@pytest.fixture
def clock(monkeypatch):
    """Return a clock that the test moves, for the age of keys."""

    class Clock:
        seconds = 1_000.0

        def monotonic(self):
            return self.seconds

    moved = Clock()
    monkeypatch.setattr(outside_issuer, "time", moved)
    return moved


def client_with(token):
    return APIClient(HTTP_AUTHORIZATION=f"Bearer {token}")


def get(token):
    return client_with(token).get(TRANSITIONS)


def claims_of(token):
    return jwt.decode(token, options={"verify_signature": False})


# Kind: the token that a maker gives for an issuer and a true token of it.
FORGED = {
    "none": lambda _, true: jwt.encode(
        claims_of(true), None, algorithm="none", headers={"kid": "first"}
    ),
    "HS256 with the public key": lambda _, true: hmac_with(
        public_pem("first"),
        header={"alg": "HS256", "kid": "first", "typ": "JWT"},
        claims=claims_of(true),
    ),
    "RS256 that is an HMAC with the public key": lambda _, true: hmac_with(
        public_pem("first"),
        header={"alg": "RS256", "kid": "first", "typ": "JWT"},
        claims=claims_of(true),
    ),
    "HS256 with our signing key": lambda _, true: sign(claims_of(true)),
    "RS512": lambda issuer, _: issuer.token(algorithm="RS512"),
    "PS256": lambda issuer, _: issuer.token(algorithm="PS256"),
    "another key": lambda issuer, _: issuer.token(key="thief"),
    "an unknown key": lambda issuer, _: issuer.token(kid="thief"),
    "a key it brings along": lambda issuer, _: issuer.token(
        kid="thief", headers={"jwk": describe("thief")}
    ),
    "a key's address it brings along": lambda issuer, _: issuer.token(
        kid="thief", headers={"jku": issuer.address}
    ),
    "a key without a name": lambda issuer, _: jwt.encode(
        claims_of(issuer.token()), private_key("first"), algorithm="RS256"
    ),
    "a key whose name is no text": lambda _, true: ".".join(
        [part({"alg": "RS256", "kid": 1}), *true.split(".")[1:]]
    ),
    "a byte of the claims changed": lambda _, true: change_part(true, index=1),
    "a byte of the signature changed": lambda _, true: change_part(true, index=2),
    "no signature": lambda _, true: true.rpartition(".")[0] + ".",
    "wrong issuer": lambda issuer, _: issuer.token(iss="https://issuer.example"),
    "no issuer": lambda issuer, _: issuer.token(iss=None),
    "wrong audience": lambda issuer, _: issuer.token(aud="https://other.example"),
    "no audience": lambda issuer, _: issuer.token(aud=None),
    "expired": lambda issuer, _: issuer.token(exp=in_seconds(-1)),
    "no expiry": lambda issuer, _: issuer.token(exp=None),
    "not yet valid": lambda issuer, _: issuer.token(nbf=in_seconds(60)),
    "no subject": lambda issuer, _: issuer.token(sub=None),
    "an empty subject": lambda issuer, _: issuer.token(sub=" "),
    "a subject with a NUL": lambda issuer, _: issuer.token(sub="a\x00b"),
    "a subject beyond the column": lambda issuer, _: issuer.token(sub="x" * 255),
    "empty": lambda *_: "",
    "garbage": lambda *_: "a.b.c",
}


class TestOutsideToken:
    def test_lets_its_subject_in_and_the_audit_names_issuer_and_subject(
        self, issuer, phase_data
    ):
        data = phase_data()
        del data["operator"]

        response = client_with(issuer.token()).post(TRANSITIONS, data, format="json")

        assert response.status_code == 201
        assert response.json()["operator"] == OLIVIA
        entry = AuditEntry.objects.get()
        assert (entry.actor, entry.role) == (f"user:{OLIVIA}", "operator")

    @pytest.mark.parametrize("kind", FORGED)
    def test_that_is_none_opens_nothing(self, issuer, kind):
        token = FORGED[kind](issuer, issuer.token())

        response = get(token)

        assert_problem(response, 401, "not_authenticated")
        assert response.headers["WWW-Authenticate"] == (
            'Bearer realm="api", error="invalid_token"'
        )

    def test_of_our_own_opens_nothing(self, issuer, make_user):
        token = RolesTokenSerializer.get_token(make_user("adam", group="admin"))

        assert_problem(get(token.access_token), 401, "not_authenticated")

    @pytest.mark.parametrize(
        ("roles", "read", "schedule"),
        [
            (["viewer"], 200, 403),
            (["operator"], 200, 201),
            (["admin"], 200, 201),
            (["viewer", "admin", "x"], 200, 201),
            ("viewer", 200, 403),
            ("openid operator", 200, 201),
            ([], 403, 403),
            (None, 403, 403),
            (["Admin", "administrator", "superuser", 1, None, ["admin"]], 403, 403),
            ({"admin": True}, 403, 403),
            (5, 403, 403),
            (True, 403, 403),
        ],
    )
    def test_has_the_highest_of_our_roles_in_its_claim(
        self, issuer, phase_data, roles, read, schedule
    ):
        client = client_with(issuer.token(**{ROLES_CLAIM: roles}))

        assert client.get(TRANSITIONS).status_code == read
        response = client.post(TRANSITIONS, phase_data(), format="json")
        assert response.status_code == schedule

    def test_has_no_role_by_a_user_of_the_same_name(self, issuer, make_user, phase_data):
        make_user(OLIVIA[:150], group="admin", is_superuser=True)
        client = client_with(issuer.token(**{ROLES_CLAIM: ["viewer"], "roles": ["admin"]}))

        assert client.post(TRANSITIONS, phase_data(), format="json").status_code == 403
        assert not ScheduledTransition.objects.exists()
        refusal = AuditEntry.objects.get()
        assert (refusal.action, refusal.actor) == ("access.refused", f"user:{OLIVIA}")

    @pytest.mark.parametrize("path", ["", "refresh/", "blacklist/"])
    def test_comes_from_outside_alone(self, issuer, make_user, path):
        make_user("olivia", group="operator")
        data = {"username": "olivia", "password": PASSWORD, "refresh": "x"}

        response = APIClient().post(f"/api/v1/auth/token/{path}", data, format="json")

        assert_problem(response, 404, "not_found")
        assert not AuditEntry.objects.exists()

    def test_is_all_that_the_document_describes(self, issuer):
        paths = SchemaGenerator().get_schema(request=None, public=True)["paths"]

        assert not [path for path in paths if "auth/token" in path]


class TestKeySet:
    def test_is_read_once_for_many_tokens(self, issuer):
        for _ in range(5):
            assert get(issuer.token()).status_code == 200

        assert issuer.fetches == 1

    def test_is_not_asked_for_by_garbage(self, issuer):
        for token in ("a.b.c", sign({"sub": "x"}), FORGED["none"](issuer, issuer.token())):
            assert get(token).status_code == 401

        assert issuer.fetches == 0

    def test_unknown_keys_make_it_be_read_again_now_and_then(self, issuer, clock):
        get(issuer.token())
        for number in range(20):
            assert get(issuer.token(kid=f"k{number}", key="thief")).status_code == 401
        assert issuer.fetches == 1

        clock.seconds += outside_issuer.COOLDOWN_SECONDS
        for number in range(20):
            assert get(issuer.token(kid=f"k{number}", key="thief")).status_code == 401

        assert issuer.fetches == 2

    def test_a_new_key_is_found_after_the_cooldown(self, issuer, clock):
        get(issuer.token())
        issuer.keys = [describe("first"), describe("second")]

        assert get(issuer.token(kid="second")).status_code == 401
        clock.seconds += outside_issuer.COOLDOWN_SECONDS
        assert get(issuer.token(kid="second")).status_code == 200
        assert get(issuer.token(kid="first")).status_code == 200

    def test_a_withdrawn_key_ends_when_the_keys_are_no_longer_fresh(self, issuer, clock):
        get(issuer.token())
        issuer.keys = [describe("second")]

        assert get(issuer.token()).status_code == 200
        clock.seconds += outside_issuer.FRESH_SECONDS
        assert get(issuer.token()).status_code == 401
        assert get(issuer.token(kid="second")).status_code == 200

    def test_the_keys_read_last_serve_through_an_outage_of_the_issuer(self, issuer, clock):
        get(issuer.token())
        issuer.answer = lambda handler: send(handler, b"", status=500)

        clock.seconds += outside_issuer.FRESH_SECONDS
        for _ in range(5):
            assert get(issuer.token()).status_code == 200
        assert issuer.fetches == 2

        clock.seconds += outside_issuer.STALE_SECONDS
        response = get(issuer.token())
        assert_problem(response, 503, "service_unavailable")
        assert response.headers["Retry-After"] == "5"

    def test_an_issuer_that_comes_back_is_asked_soon(self, issuer, clock):
        issuer.answer = lambda handler: send(handler, b"", status=503)
        for _ in range(3):
            assert_problem(get(issuer.token()), 503, "service_unavailable")
        assert issuer.fetches == 1
        issuer.answer = None

        clock.seconds += outside_issuer.RETRY_SECONDS

        assert get(issuer.token()).status_code == 200

    @pytest.mark.parametrize(
        "answer",
        [
            lambda handler: send(handler, b"", status=404),
            lambda handler: send(handler, b"not json"),
            lambda handler: send(handler, b"[]"),
            lambda handler: send(handler, b'{"keys": 5}'),
            lambda handler: send(handler, b'{"keys": {"a": 1}}'),
            lambda handler: send(handler, b'{"keys": []}'),
            lambda handler: send(handler, b'{"keys": [null, 1, {}, {"kid": 1}]}'),
            lambda handler: send(handler, b"[" * 100_000),
            lambda handler: handler.connection.close(),
        ],
        ids=range(9),
    )
    def test_that_is_none_is_an_outage(self, issuer, answer):
        issuer.answer = answer

        assert_problem(get(issuer.token()), 503, "service_unavailable")

    def test_is_not_sought_elsewhere(self, issuer):
        with running_issuer() as other:
            issuer.answer = lambda handler: send(
                handler, b"", status=302, Location=other.address
            )

            assert_problem(get(issuer.token()), 503, "service_unavailable")
            assert other.fetches == 0

    def test_is_not_read_beyond_a_sane_size(self, issuer):
        padding = "x" * outside_issuer.LARGEST_BYTES
        issuer.answer = lambda handler: send(
            handler, json.dumps({"keys": issuer.keys, "padding": padding}).encode()
        )

        assert_problem(get(issuer.token()), 503, "service_unavailable")

    def test_is_not_waited_for_without_end(self, issuer, monkeypatch):
        monkeypatch.setattr(outside_issuer, "FETCH_SECONDS", 0.3)
        issuer.answer = partial(drip, seconds=20)
        began = time.monotonic()

        assert_problem(get(issuer.token()), 503, "service_unavailable")
        assert time.monotonic() - began < 10

    @pytest.mark.parametrize(
        "key",
        [
            {"use": "enc"},
            {"alg": "RS512"},
            {"alg": "HS256"},
            {"kty": "oct", "k": "AAAA"},
            {"kty": "EC"},
            {"kid": 5},
            {"n": "AAAA"},
            {"n": None},
            {"e": "%%%"},
        ],
    )
    def test_leaves_out_keys_that_are_for_something_else(self, issuer, key):
        issuer.keys = [describe("first", **key), describe("second")]

        assert get(issuer.token()).status_code == 401
        assert get(issuer.token(kid="second")).status_code == 200

    def test_leaves_out_a_key_that_everybody_can_sign_with(self, issuer):
        private = json.loads(RSAAlgorithm.to_jwk(private_key("first")))
        issuer.keys = [describe("first") | private, describe("second")]

        assert get(issuer.token()).status_code == 401
        assert get(issuer.token(kid="second")).status_code == 200

    def test_leaves_out_keys_that_are_too_short(self, issuer):
        weak = describe("weak", bits=1024)
        issuer.keys = [weak, describe("second")]
        key = private_key("weak", bits=1024)
        with pytest.warns(UserWarning, match="2048"):
            token = jwt.encode(
                claims_of(issuer.token()), key, algorithm="RS256", headers={"kid": "weak"}
            )

        assert get(token).status_code == 401

    def test_nobody_with_a_key_at_hand_waits_for_the_issuer(self, issuer, clock):
        get(issuer.token())
        clock.seconds += outside_issuer.FRESH_SECONDS
        asked, may_answer = threading.Event(), threading.Event()

        def answer(handler):
            asked.set()
            may_answer.wait(10)
            send(handler, json.dumps({"keys": issuer.keys}).encode())

        issuer.answer = answer
        keys = outside_issuer.outside_issuer()
        first = threading.Thread(target=keys.read, args=(issuer.token().encode(),))
        first.start()
        try:
            assert asked.wait(10)
            assert keys.read(issuer.token().encode()).name == OLIVIA
            assert first.is_alive()
        finally:
            may_answer.set()
            first.join(10)
        assert issuer.fetches == 2

    def test_few_wait_for_keys_that_nobody_knows(self, issuer, clock):
        get(issuer.token())
        clock.seconds += outside_issuer.COOLDOWN_SECONDS
        may_answer = threading.Event()

        def answer(handler):
            may_answer.wait(10)
            send(handler, json.dumps({"keys": issuer.keys}).encode())

        issuer.answer = answer
        keys = outside_issuer.outside_issuer()
        refused = []

        def ask(number):
            try:
                keys.read(issuer.token(kid=f"unknown {number}", key="thief").encode())
            except ServiceUnavailableError as error:
                refused.append(error)
            except UnacceptableTokenError:
                pass

        many = outside_issuer.MOST_WAITING + 4
        waiting = [threading.Thread(target=ask, args=(number,)) for number in range(many)]
        try:
            for thread in waiting:
                thread.start()
            deadline = time.monotonic() + 10
            while len(refused) < 3 and time.monotonic() < deadline:
                time.sleep(0.01)
            assert len(refused) == 3
            assert keys.read(issuer.token().encode()).name == OLIVIA
        finally:
            may_answer.set()
            for thread in waiting:
                thread.join(10)
        assert (len(refused), issuer.fetches) == (3, 2)

    def test_is_not_asked_for_ever_more_while_it_hangs(self, issuer, monkeypatch):
        monkeypatch.setattr(outside_issuer, "FETCH_SECONDS", 0.1)
        monkeypatch.setattr(outside_issuer, "RETRY_SECONDS", 0.0)
        issuer.answer = partial(drip_headers, seconds=5)
        keys = outside_issuer.KeySet(issuer.address)

        for _ in range(outside_issuer.MOST_HANGING + 2):
            with pytest.raises(ServiceUnavailableError):
                keys.find("first")

        assert issuer.fetches == outside_issuer.MOST_HANGING
