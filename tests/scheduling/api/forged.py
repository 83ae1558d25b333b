"""Tokens that are none: each kind is made of the claims and the text of a true one."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime
from functools import cache

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from django.conf import settings


def sign(claims, *, key=None, algorithm="HS256", **options):
    return jwt.encode(
        claims, key or settings.JWT_SIGNING_KEY, algorithm=algorithm, **options
    )


def part(value):
    return _base64(json.dumps(value).encode())


def without(claims, name):
    return {key: value for key, value in claims.items() if key != name}


def hmac_with(secret, *, header, claims):
    """Return a token with an HMAC made of any bytes: PyJWT itself refuses a public key."""
    text = f"{part(header)}.{part(claims)}"
    mac = hmac.new(secret, text.encode(), hashlib.sha256).digest()
    return f"{text}.{_base64(mac)}"


def change_byte(text):
    """Return a text with one sign of its middle changed."""
    middle = len(text) // 2
    return text[:middle] + ("A" if text[middle] != "A" else "B") + text[middle + 1 :]


def change_part(token, *, index):
    """Return a token with one byte of its header, claims or signature changed."""
    parts = token.split(".")
    parts[index] = change_byte(parts[index])
    return ".".join(parts)


def in_seconds(seconds):
    return int(datetime.now(UTC).timestamp()) + seconds


@cache
def other_key():
    """Return an RSA key that nobody trusts."""
    return rsa.generate_private_key(public_exponent=65_537, key_size=2048)


@cache
def other_public_key():
    """Return its public half, as it would be published."""
    return (
        other_key()
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )


def _base64(content):
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


FORGED = {
    "none": lambda claims, _: jwt.encode(claims, None, algorithm="none"),
    "none with the signature of another": lambda _, token: ".".join(
        [part({"alg": "none", "typ": "JWT"}), *token.split(".")[1:]]
    ),
    "nOnE": lambda claims, _: f"{part({'alg': 'nOnE'})}.{part(claims)}.",
    "wrong key": lambda claims, _: sign(
        claims, key="another-key-of-more-than-thirty-two-bytes"
    ),
    "empty key": lambda claims, _: hmac_with(b"", header={"alg": "HS256"}, claims=claims),
    "the site's secret": lambda claims, _: sign(claims, key=settings.SECRET_KEY),
    "another algorithm": lambda claims, _: sign(
        claims, key=settings.JWT_SIGNING_KEY.ljust(64, "x"), algorithm="HS512"
    ),
    "RS256": lambda claims, _: sign(claims, key=other_key(), algorithm="RS256"),
    "HS256 with a public key": lambda claims, _: hmac_with(
        other_public_key(), header={"alg": "HS256", "typ": "JWT"}, claims=claims
    ),
    "a key of its own": lambda claims, _: sign(
        claims, key=other_key(), algorithm="RS256", headers={"jku": "https://evil.example/"}
    ),
    "no signature": lambda _, token: token.rpartition(".")[0] + ".",
    "a byte of the header changed": lambda _, token: change_part(token, index=0),
    "a byte of the claims changed": lambda _, token: change_part(token, index=1),
    "a byte of the signature changed": lambda _, token: change_part(token, index=2),
    "changed claims": lambda claims, token: ".".join(
        [token.split(".")[0], part(claims | {"jti": "x"}), token.split(".")[2]]
    ),
    "expired": lambda claims, _: sign(claims | {"exp": in_seconds(-1)}),
    "no expiry": lambda claims, _: sign(without(claims, "exp")),
    "expiry that is no number": lambda claims, _: sign(claims | {"exp": "never"}),
    "expiry that is a text": lambda claims, _: sign(claims | {"exp": str(in_seconds(60))}),
    "expiry beyond the calendar": lambda claims, _: sign(claims | {"exp": 10**30}),
    "expiry beyond all numbers": lambda claims, _: sign(claims | {"exp": 1e308}),
    "a name with a NUL": lambda claims, _: sign(claims | {"jti": "a\0b"}),
    "a name that is too long": lambda claims, _: sign(claims | {"jti": "x" * 300}),
    "a family that is none": lambda claims, _: sign(claims | {"family": "\ud800"}),
    "not yet valid": lambda claims, _: sign(claims | {"nbf": in_seconds(60)}),
    "wrong issuer": lambda claims, _: sign(claims | {"iss": "somebody"}),
    "no issuer": lambda claims, _: sign(without(claims, "iss")),
    "wrong audience": lambda claims, _: sign(claims | {"aud": "somebody"}),
    "no audience": lambda claims, _: sign(without(claims, "aud")),
    "refresh token": lambda claims, _: sign(claims | {"token_type": "refresh"}),
    "no type": lambda claims, _: sign(without(claims, "token_type")),
    "unknown user": lambda claims, _: sign(claims | {"user_id": "999999"}),
    "no user": lambda claims, _: sign(without(claims, "user_id")),
    "user that is no number": lambda claims, _: sign(claims | {"user_id": {"$gt": 0}}),
    "empty": lambda *_: "",
    "garbage": lambda *_: "a.b.c",
    "bytes": lambda *_: "\xff.\xfe.\x80",
}
