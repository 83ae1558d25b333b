"""A Challenge service over real HTTP on loopback that does what a test tells it to.

    with ScriptedChallengeService() as service:
        service.challenges = {"0b1e…": {"id": "0b1e…", "status": "ACTIVE", …}}
        service.script("/challenges/0b1e…", [Answer(500), Answer(delay=2), Drop()])

A path without a script, or whose script is used up, is answered as the API answers it
from `challenges`. `requests` has what was asked, in order. `settings_for` gives the
product's settings for it; the fixture `challenge_api` of the tests puts them in force.
"""

import contextlib
import gzip
import itertools
import json
import socket
import threading
import time
import uuid
import zlib
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

from scheduling.domain.phases import format_instant

CLIENT_ID, CLIENT_SECRET, AUDIENCE = "autopilot", "hidden-s3cret", "https://m2m.test/"
TOKEN_PATH = "/oauth/token"  # noqa: S105 -- a path


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer; what is None is as the service would have sent it.

    body: bytes as they are, or a value for JSON.
    delay: seconds before the first byte.
    drip: seconds between the bytes of the body.
    drip_headers: seconds between the bytes of the head, too.
    cut: how many bytes of the body are sent before the connection is closed.
    compress: whether the body is sent gzip-compressed.
    """

    status: int | None = None
    headers: dict = field(default_factory=dict)
    body: object = None
    delay: float = 0.0
    drip: float = 0.0
    drip_headers: float = 0.0
    cut: int | None = None
    compress: bool = False


@dataclass(frozen=True)
class Drop:
    """Close the connection without a byte."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A request as it came in. path: as sent, percent-encoded, without the query."""

    method: str
    path: str
    query: dict
    headers: dict
    body: bytes
    at: float


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def bomb(size=256 * 1024 * 1024):
    """Return so many blanks, gzip-compressed, in about a thousandth of the bytes."""
    packer = zlib.compressobj(9, wbits=31)
    part = b" " * (1024 * 1024)
    pieces = [packer.compress(part) for _ in range(size // len(part))]
    return b"".join([*pieces, packer.flush()])


def api_challenge(number=1, *, now, due_in=3600.0, phases=2, **fields):
    """Return a challenge as the API shows it: phases of an hour, one after the other.

    The first one is open, and ends that many seconds from now.
    """

    def at(seconds):
        return format_instant(now + timedelta(seconds=seconds))

    shown = []
    for place in range(phases):
        end = due_in + 3600 * place
        phase = {
            "id": str(uuid.UUID(int=number * 1000 + place)),
            "phaseId": str(uuid.UUID(int=10**12 + place)),
            "name": f"Phase {place + 1}",
            "isOpen": place == 0,
            "scheduledStartDate": at(end - 3600),
            "scheduledEndDate": at(end),
        }
        if place == 0:
            phase["actualStartDate"] = at(end - 3600)
        else:
            phase["predecessor"] = shown[-1]["phaseId"]
        shown.append(phase)
    return {
        "id": str(uuid.UUID(int=number)),
        "projectId": 70_000 + number,
        "name": f"Challenge {number}",
        "status": "ACTIVE",
        "createdBy": "copilot",
        "phases": shown,
        **fields,
    }


class ScriptedChallengeService:
    """The server; see the module."""

    def __init__(self):
        self.challenges = {}
        self.requests = []
        self.needs_token = True
        # Seconds that a token is good for, as told and as kept to.
        self.token_lifetime = 86_400
        self.most_per_page = 100
        self._tokens = {}
        self._connections = set()
        self._numbers = itertools.count(1)
        self._scripts = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._server = _Server(
            ("127.0.0.1", 0), type("Handler", (_Handler,), {"service": self})
        )
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """Close all connections, and refuse new ones from now on."""
        if not self._stopping.is_set():
            self._stopping.set()
            self._server.shutdown()
            self._server.server_close()
            self._thread.join(5)
            for connection in list(self._connections):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    @property
    def origin(self):
        """Return scheme, host and port."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def url(self):
        """Return what CHALLENGE_SERVICE_URL is to be."""
        return f"{self.origin}/v6"

    @property
    def token_url(self):
        """Return what CHALLENGE_SERVICE_TOKEN_URL is to be."""
        return f"{self.origin}{TOKEN_PATH}"

    def settings(self):
        """Return the product's CHALLENGE_SERVICE setting for this service."""
        return {
            "url": self.url,
            "token_url": self.token_url,
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "audience": AUDIENCE,
        }

    def environment(self):
        """Return the variables for a process of the product."""
        return {f"CHALLENGE_SERVICE_{k.upper()}": v for k, v in self.settings().items()}

    def script(self, path, steps):
        """Answer the next requests to a path so; an endless iterator for ever.

        Args:
            path: `/challenges`, `/challenges/ID` or TOKEN_PATH.
            steps: Answer, Drop, or a callable that takes the Seen and returns one.
        """
        with self._lock:
            self._scripts[path] = iter(steps)

    def forget_tokens(self):
        """Refuse from now on the tokens that were given."""
        with self._lock:
            self._tokens.clear()

    def asked(self, path):
        """Return the requests to a path so far."""
        with self._lock:
            return [one for one in self.requests if self._short(one.path) == path]

    @property
    def tokens_given(self):
        """Return how often a token was asked for."""
        return len(self.asked(TOKEN_PATH))

    @staticmethod
    def _short(path):
        return unquote(path.removeprefix("/v6"))

    def next_step(self, seen):
        """Note a request, and return what its script says, if anything."""
        with self._lock:
            self.requests.append(seen)
            step = next(self._scripts.get(self._short(seen.path), iter(())), None)
        return step(seen) if callable(step) else step

    def answer(self, seen):
        """Return status, headers and body as the API answers."""
        path = self._short(seen.path)
        if path == TOKEN_PATH:
            return self._token(seen)
        if self.needs_token and not self._is_let_in(seen):
            return 401, {}, {"message": "No token provided."}
        if path == "/challenges":
            return self._list(seen.query)
        name = path.removeprefix("/challenges/")
        if not path.startswith("/challenges/"):
            return 404, {"Content-Type": "text/html"}, b"<pre>Cannot GET</pre>"
        if name not in self.challenges:
            return 404, {}, {"message": f"Challenge of id {name} is not found."}
        return 200, {}, self.challenges[name]

    def _list(self, query):
        wanted = [
            one
            for one in list(self.challenges.values())
            if not isinstance(one, dict)
            or (
                one.get("status", "ACTIVE") == query.get("status", "ACTIVE")
                and str(one.get("projectId", ""))
                == query.get("projectId", str(one.get("projectId", "")))
            )
        ]
        size = min(int(query.get("perPage", 20)), self.most_per_page)
        number = int(query.get("page", 1))
        headers = {
            "X-Page": str(number),
            "X-Per-Page": str(size),
            "X-Total": str(len(wanted)),
            "X-Total-Pages": str(-(-len(wanted) // size)),
        }
        return 200, headers, wanted[(number - 1) * size : number * size]

    def _token(self, seen):
        form = dict(parse_qsl(seen.body.decode()))
        expected = {
            "grant_type": "client_credentials",
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "audience": AUDIENCE,
        }
        if form != expected:
            return 401, {}, {"error": "invalid_client", "error_description": "no"}
        with self._lock:
            token = f"token-{next(self._numbers)}"
            self._tokens[token] = time.monotonic() + self.token_lifetime
        return (
            200,
            {},
            {
                "access_token": token,
                "token_type": "Bearer",
                "expires_in": self.token_lifetime,
            },
        )

    def _is_let_in(self, seen):
        kind, _, token = seen.headers.get("authorization", "").partition(" ")
        with self._lock:
            return kind == "Bearer" and self._tokens.get(token, 0) > time.monotonic()


class _Handler(BaseHTTPRequestHandler):
    service: ScriptedChallengeService
    protocol_version = "HTTP/1.1"
    # Otherwise each answer waits 40 ms for the client's acknowledgement.
    disable_nagle_algorithm = True
    timeout = 20

    def setup(self):
        super().setup()
        self.service._connections.add(self.connection)

    def finish(self):
        self.service._connections.discard(self.connection)
        super().finish()

    def log_message(self, *_):
        """Say nothing."""

    def do_GET(self):
        self._serve()

    def do_POST(self):
        self._serve()

    def _serve(self):
        url = urlsplit(self.path)
        seen = Seen(
            method=self.command,
            path=url.path,
            query={name: values[-1] for name, values in parse_qs(url.query).items()},
            headers={name.lower(): value for name, value in self.headers.items()},
            body=self.rfile.read(int(self.headers.get("Content-Length", 0))),
            at=time.monotonic(),
        )
        step = self.service.next_step(seen)
        try:
            self._send(seen, step)
        except OSError:
            self.close_connection = True

    def _send(self, seen, step):
        if isinstance(step, Drop):
            self._hang_up()
            return
        step = step or Answer()
        self.service._stopping.wait(step.delay)
        status, headers, body = self.service.answer(seen)
        if step.status is not None and step.status != status:
            status, headers = step.status, {}
            body = {"message": f"scripted {status}"}
        body = step.body if step.body is not None else body
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        if step.compress:
            data = gzip.compress(data)
            headers = {**headers, "Content-Encoding": "gzip"}
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "Content-Length": str(len(data)),
            **headers,
            **step.headers,
        }
        head = [f"HTTP/1.1 {status} Scripted"]
        head += [f"{name}: {value}" for name, value in headers.items() if value is not None]
        self._write(("\r\n".join([*head, "", ""])).encode("latin-1"), step.drip_headers)
        self._write(data if step.cut is None else data[: step.cut], step.drip)
        if step.cut is not None or headers["Content-Length"] is None:
            self._hang_up()

    def _write(self, data, pause):
        if not pause:
            self.wfile.write(data)
            return
        for place in range(len(data)):
            if self.service._stopping.wait(pause):
                return
            self.wfile.write(data[place : place + 1])
            self.wfile.flush()

    def _hang_up(self):
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
