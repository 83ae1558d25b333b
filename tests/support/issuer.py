"""An outside issuer on loopback: keys over HTTP, tokens to order, and ways to fail."""

import json
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm

ISSUER = "https://issuer.example/"
AUDIENCE = "https://autopilot.example"
ROLES_CLAIM = "https://issuer.example/claims/roles"


def private_key(name, *, bits=2048):
    """Return the key of that name."""
    return _private_key(name, bits)


@cache
def _private_key(name, bits):
    """Make a key, once: it takes a while."""
    return rsa.generate_private_key(public_exponent=65_537, key_size=bits)


def public_pem(name):
    """Return a key's public half, as anybody may have it."""
    public = private_key(name).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def describe(name, *, bits=2048, **fields):
    """Return a public key as a key set names it."""
    key = json.loads(RSAAlgorithm.to_jwk(private_key(name, bits=bits).public_key()))
    return {key_: key[key_] for key_ in ("kty", "n", "e")} | {
        "kid": name,
        "use": "sig",
        "alg": "RS256",
        **fields,
    }


class Issuer:
    """What the issuer publishes, and how it answers.

    keys: what the key set holds.
    answer: replaces the key set: a function of the request's handler.
    fetches: how often it was asked.
    """

    def __init__(self, port):
        self.address = f"http://127.0.0.1:{port}/.well-known/jwks.json"
        self.keys = [describe("first")]
        self.answer = None
        self.fetches = 0

    def token(self, *, kid="first", key=None, headers=None, algorithm="RS256", **claims):
        """Return a token for Olivia, an operator, unless told otherwise; None drops."""
        now = int(datetime.now(UTC).timestamp())
        true = {
            "iss": ISSUER,
            "sub": "auth0|olivia",
            "aud": [AUDIENCE, "https://issuer.example/userinfo"],
            "iat": now,
            "exp": now + 600,
            ROLES_CLAIM: ["Topcoder User", "operator"],
        }
        said = {name: value for name, value in (true | claims).items() if value is not None}
        return jwt.encode(
            said,
            private_key(key or kid),
            algorithm=algorithm,
            headers={"kid": kid, **(headers or {})},
        )

    def respond(self, handler):
        """Answer one request."""
        self.fetches += 1
        if self.answer is not None:
            self.answer(handler)
        else:
            send(handler, json.dumps({"keys": self.keys}).encode())


def send(handler, body, *, status=200, **headers):
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def drip(handler, *, seconds):
    """Send a byte of the body now and then, and never come to an end."""
    handler.send_response(200)
    handler.end_headers()
    _send_again_and_again(handler, b" ", seconds=seconds)


def drip_headers(handler, *, seconds):
    """Send a header now and then, so that no single read takes long."""
    handler.send_response(200)
    handler.flush_headers()
    _send_again_and_again(handler, b"X-Drop: 1\r\n", seconds=seconds)


def _send_again_and_again(handler, drop, *, seconds):
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        try:
            handler.wfile.write(drop)
        except OSError:
            return
        time.sleep(0.05)


@contextmanager
def running_issuer():
    """Run an issuer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            issuer.respond(self)

        def log_message(self, *args):
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    issuer = Issuer(server.server_port)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
