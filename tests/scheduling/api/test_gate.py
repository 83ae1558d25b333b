"""The gate before Django: bounded bodies, and so many requests at a time."""

import asyncio
import json
import re

import pytest

from scheduling.api import gate
from scheduling.api.gate import Gate

LIMIT = 1_000


@pytest.fixture(autouse=True)
def _small_limit(settings):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = LIMIT


def scope_of(path="/api/v1/transitions/", **headers):
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()],
    }


def run(application, *, scope, messages=(), seconds=5):
    """Serve one request of these messages; return what was sent."""
    sent, left = [], list(messages)

    async def receive():
        return left.pop(0) if left else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    async def serve():
        await asyncio.wait_for(Gate(application)(scope, receive, send), seconds)

    asyncio.run(serve())
    return sent


def chunks(*sizes):
    return [
        {"type": "http.request", "body": b"x" * size, "more_body": n < len(sizes)}
        for n, size in enumerate(sizes, start=1)
    ]


class Recorder:
    """An application that keeps what it is given."""

    def __init__(self):
        self.scope, self.messages = None, []

    async def __call__(self, scope, receive, send):
        self.scope = scope
        self.messages = [await receive(), await receive()]


class TestGate:
    @pytest.mark.parametrize(
        ("said", "is_taken"),
        [
            ("multipart/form-data; boundary=x", True),
            ("multipart/form-data; boundary=x; charset=UTF-8", True),
            ('multipart/form-data; boundary=x; charset="utf8"', True),
            ("application/json; charset=latin-1", True),
            ("multipart/form-data; boundary=x; charset=base64", False),
            ("Multipart/Form-Data; boundary=x; CHARSET=utf-7", False),
            ("multipart/form-data; boundary=x; charset*=utf-8''unicode_escape", False),
        ],
    )
    def test_refuses_a_form_in_a_charset_that_is_none_of_texts(self, said, is_taken):
        application = Recorder()
        scope = scope_of("/admin/login/", content_type=said)

        sent = run(application, scope=scope, messages=chunks(10))

        assert (application.scope is not None) is is_taken
        if not is_taken:
            assert sent[0]["status"] == 415
            assert json.loads(sent[1]["body"])["detail"] == "A form must be in UTF-8."

    @pytest.mark.parametrize("sizes", [(0,), (10,), (500, 500), (400, 0, 600)])
    def test_hands_on_a_body_within_the_limit_whole(self, sizes):
        application = Recorder()

        run(application, scope=scope_of(), messages=chunks(*sizes))

        first, second = application.messages
        assert first == {
            "type": "http.request",
            "body": b"x" * sum(sizes),
            "more_body": False,
        }
        assert second == {"type": "http.disconnect"}

    def test_tells_the_length_that_the_client_did_not(self):
        chunked, told = Recorder(), Recorder()

        run(chunked, scope=scope_of(), messages=chunks(3, 4))
        run(told, scope=scope_of(content_length="7"), messages=chunks(7))

        length = [(b"content-length", b"7")]
        assert chunked.scope["headers"] == told.scope["headers"] == length

    @pytest.mark.parametrize("sizes", [(1001,), (500, 501), (1000, 0, 1), (5000, 5000)])
    def test_answers_413_in_the_application_s_place(self, sizes):
        application = Recorder()

        sent = run(application, scope=scope_of(), messages=chunks(*sizes))

        assert application.scope is None
        assert sent[0]["status"] == 413
        assert json.loads(sent[1]["body"])["code"] == "payload_too_large"

    @pytest.mark.parametrize(
        ("given", "is_kept"), [("", False), ("mine-1", True), ("no id\r\n", False)]
    )
    def test_names_the_request_in_its_own_answers(self, given, is_kept):
        scope = scope_of(**({"x_request_id": given} if given else {}))

        sent = run(Recorder(), scope=scope, messages=chunks(1001))

        told = dict(sent[0]["headers"])[b"x-request-id"].decode()
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", told)
        assert (told == given) is is_kept

    def test_answers_while_a_client_would_send_for_ever(self, monkeypatch):
        monkeypatch.setattr(gate, "MOST_DISCARDED", 10_000)
        endless = [{"type": "http.request", "body": b"x" * 5_000, "more_body": True}] * 9

        sent = run(Recorder(), scope=scope_of(), messages=endless)

        assert sent[0]["status"] == 413

    def test_tells_who_stops_midway_that_it_waited_in_vain(self):
        application = Recorder()
        half = [{"type": "http.request", "body": b"x", "more_body": True}]

        sent = run(application, scope=scope_of(), messages=half)

        assert application.scope is None
        assert sent[0]["status"] == json.loads(sent[1]["body"])["status"] == 408

    @pytest.mark.parametrize(
        ("path", "largest"),
        [
            ("/api/v1/transitions/bulk/", 4 * 1024 * 1024),
            ("/api/v1/schedule-adjustments/", 4 * 1024 * 1024),
            ("/admin/login/", 4 * 1024 * 1024),
            ("/api/v1/transitions/", 256 * 1024),
            ("/api/v1/auth/token/", 256 * 1024),
            ("/api/v1/nowhere/", 256 * 1024),
        ],
    )
    def test_reads_as_much_as_the_path_takes(self, settings, path, largest):
        settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 4 * 1024 * 1024
        fits, is_over = Recorder(), Recorder()

        run(fits, scope=scope_of(path), messages=chunks(largest))
        sent = run(is_over, scope=scope_of(path), messages=chunks(largest + 1))

        assert (len(fits.messages[0]["body"]), is_over.scope) == (largest, None)
        assert sent[0]["status"] == 413
        assert f"{largest:,} bytes" in json.loads(sent[1]["body"])["detail"]

    @pytest.mark.parametrize(("is_trusted", "scheme"), [(False, "http"), (True, "https")])
    def test_leaves_the_scheme_to_whom_is_trusted(self, settings, is_trusted, scheme):
        settings.TRUST_PROXY = is_trusted
        application = Recorder()
        scope = scope_of(x_forwarded_proto="https") | {"scheme": "https"}

        run(application, scope=scope, messages=chunks(0))

        assert application.scope["scheme"] == scheme

    def test_closes_a_websocket(self):
        connects = [{"type": "websocket.connect"}]

        sent = run(Recorder(), scope={"type": "websocket"}, messages=connects)

        assert sent == [{"type": "websocket.close"}]

    @pytest.mark.parametrize("path", ["/api/v1/transitions/", "/health"])
    def test_sends_no_body_to_head(self, path):
        async def application(scope, receive, send):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"told"})

        sent = {
            method: run(
                application, scope=scope_of(path) | {"method": method}, messages=chunks(0)
            )
            for method in ("GET", "HEAD")
        }

        assert [message.get("body") for message in sent["GET"]] == [None, b"told"]
        assert [message.get("body") for message in sent["HEAD"]] == [None, b""]

    def test_lets_so_many_in_at_a_time_and_livez_always(self, monkeypatch):
        monkeypatch.setattr(gate, "MOST_REQUESTS", 2)
        inside, most = 0, 0
        answered = []

        async def application(scope, receive, send):
            nonlocal inside, most
            if scope["path"] == "/livez":
                answered.append("livez")
                return
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.05)
            inside -= 1
            answered.append("job")

        async def body():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def serve():
            door = Gate(application)
            paths = ["/api/v1/transitions/"] * 6 + ["/livez"]
            await asyncio.gather(*(door(scope_of(path), body, None) for path in paths))

        asyncio.run(asyncio.wait_for(serve(), 5))

        assert most == 2
        assert answered == ["livez"] + ["job"] * 6
