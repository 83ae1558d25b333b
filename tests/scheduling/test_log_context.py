"""Each log line of a request names it."""

import io
import json
import logging

import pytest
from django.conf import settings
from django.test import Client
from django.utils.module_loading import import_string
from structlog.contextvars import get_contextvars

from scheduling.domain.records import Record
from scheduling.log_context import (
    ConsoleFormatter,
    ContextFilter,
    bound_contextvars,
    keep_secret,
)
from scheduling.services.incoming import handle_records


@pytest.fixture
def seen():
    """Return the records that reach a handler with the filter, as the product has it."""

    class Keeper(logging.Handler):
        records = []

        def emit(self, record):
            self.records.append(record)

    keeper = Keeper()
    keeper.addFilter(ContextFilter())
    logging.getLogger().addHandler(keeper)
    yield keeper.records
    logging.getLogger().removeHandler(keeper)


class TestContextFilter:
    @pytest.mark.django_db
    def test_names_the_request_in_what_it_has_caused(self, seen):
        client = Client(raise_request_exception=False)

        client.post(
            "/api/v1/auth/token/",
            json.dumps({"username": "nobody", "password": "x"}),
            content_type="application/json",
            headers={"X-Request-Id": "r-7"},
        )

        named = {record.name: record.request_id for record in seen}
        assert named["django.request"] == "r-7"
        assert named["axes.handlers.database"] == "r-7"

    def test_names_none_outside_of_requests(self, seen, client):
        client.get("/livez", headers={"X-Request-Id": "r-8"})

        logging.getLogger("autopilot.test").warning("alone")

        (record,) = [record for record in seen if record.name == "autopilot.test"]
        assert not hasattr(record, "request_id")
        assert get_contextvars() == {}

    @pytest.mark.parametrize("given", ["", "a b", "x" * 65, "a\r\nb", "é"])
    def test_names_none_of_a_form_that_no_log_should_hold(self, client, given):
        response = client.get("/livez", headers={"X-Request-Id": given})

        assert len(response.headers["X-Request-Id"]) == 32

    def test_is_on_the_product_s_handler(self):
        assert settings.LOGGING["handlers"]["stderr"]["filters"] == ["context"]


class TestConsoleFormatter:
    @pytest.mark.parametrize(("request_id", "line"), [("r-9", "done [r-9]"), ("", "done")])
    def test_ends_a_line_with_the_request(self, request_id, line):
        record = logging.LogRecord("a", logging.INFO, "", 0, "done", (), None)
        if request_id:
            record.request_id = request_id

        assert ConsoleFormatter("{message}", style="{").format(record) == line

    def test_ends_a_line_with_the_ids_that_it_does_not_say(self):
        record = logging.LogRecord("a", logging.INFO, "", 0, "fired job-1", (), None)
        record.job_id, record.event_id, record.challenge_id = "job-1", "e-2", "a\nb"

        line = ConsoleFormatter("{message}", style="{").format(record)

        assert line == "fired job-1 [event_id=e-2]"


@pytest.fixture
def lines():
    """Return a handler as the product has it, in each format, with what it wrote."""
    written = {}
    root = logging.getLogger()
    handlers = []
    for name in ("console", "json"):
        config = dict(settings.LOGGING["formatters"][name])
        config.setdefault("()", "logging.Formatter")
        path = config.pop("()")
        if "format" in config:
            config["fmt"] = config.pop("format")
        handler = logging.StreamHandler(io.StringIO())
        handler.setFormatter(import_string(path)(**config))
        handler.addFilter(ContextFilter())
        root.addHandler(handler)
        handlers.append(handler)
        written[name] = handler.stream
    level = root.level
    root.setLevel(logging.DEBUG)
    yield written
    root.setLevel(level)
    for handler in handlers:
        root.removeHandler(handler)


def last_json(lines):
    return json.loads(lines["json"].getvalue().splitlines()[-1])


class TestIds:
    def test_that_are_bound_stand_on_every_line(self, lines):
        with bound_contextvars(run_id="run-1", request_id="r-1"):
            logging.getLogger("autopilot.test").warning("inside")
            inside = last_json(lines)
        logging.getLogger("autopilot.test").warning("outside")

        assert (inside["run_id"], inside["request_id"]) == ("run-1", "r-1")
        assert "run_id" not in last_json(lines)

    def test_of_a_path_are_bound_for_its_request(self, client, lines):
        client.get("/api/v1/transitions/job-1-2-3/", headers={"X-Request-Id": "r-9"})

        refused = last_json(lines)

        assert refused["request_id"] == "r-9"
        assert refused["level"] == "warning"

    def test_of_a_record_stand_on_its_lines(self, lines):
        record = Record(
            cluster_id="c",
            topic="autopilot.command",
            partition=0,
            offset=7,
            value=b"{",
            headers=(("event-id", b"e-1"), ("correlation-id", b"c-1")),
        )

        logging.getLogger("autopilot.test").warning("set aside", extra=record.log_ids)

        told = last_json(lines)
        assert (told["event_id"], told["correlation_id"]) == ("e-1", "c-1")
        assert told["record"] == "autopilot.command[0]@7"


class TestSecrets:
    CANARY = "canary-4f1c2d9e8b7a6050"

    def test_of_this_process_are_in_no_line(self, lines):
        keep_secret([self.CANARY])
        try:
            int(self.CANARY)
        except ValueError:
            logging.getLogger("autopilot.test").exception("with %s", self.CANARY)

        for stream in lines.values():
            assert self.CANARY not in stream.getvalue()
            assert "ValueError" in stream.getvalue()

    @pytest.mark.parametrize(
        "text",
        [
            "postgres://joe:{}@db.example/x is refused",
            "Authorization: Bearer {}",
            "eyJhbGciOiJI.eyJzdWIiOi.{} is no token",
        ],
    )
    def test_that_show_by_their_place_are_in_no_line(self, lines, text):
        logging.getLogger("somebody.else").error(text.format(self.CANARY))

        for stream in lines.values():
            assert self.CANARY not in stream.getvalue()

    def test_that_came_in_are_in_no_line(self, client, lines, transactional_db, now):
        canary = self.CANARY
        as_bearer = {"Authorization": f"Bearer {canary}"}
        for path, body in (
            ("/api/v1/auth/token/", {"username": "u", "password": canary}),
            ("/api/v1/auth/token/refresh/", {"refresh": canary}),
            ("/api/v1/transitions/", {"metadata": {"apiKey": canary}, canary: 1}),
        ):
            client.post(
                path, json.dumps(body), content_type="application/json", headers=as_bearer
            )
        client.post("/admin/login/", {"username": "u", "password": canary})
        client.get(f"/api/v1/transitions/?token={canary}", headers=as_bearer)
        for number, (topic, value) in enumerate(
            [
                ("autopilot.command", canary.encode()),
                ("autopilot.command", json.dumps({"payload": {"x": canary}}).encode()),
                (
                    "autopilot.phase.transition",
                    json.dumps({"topic": canary, "payload": {"state": canary}}).encode(),
                ),
            ]
        ):
            record = Record(
                cluster_id="c",
                topic=topic,
                partition=0,
                offset=number,
                value=value,
                headers=(("authorization", canary.encode()),),
            )
            handle_records([record], now=now)

        written = lines["json"].getvalue() + lines["console"].getvalue()

        assert "set aside" in written
        assert canary not in written
