"""Each log line of a request names it."""

import json
import logging

import pytest
from django.conf import settings
from django.test import Client

from scheduling.api.log_context import (
    ConsoleFormatter,
    RequestIdFilter,
    current_request_id,
)


@pytest.fixture
def seen():
    """Return the records that reach a handler with the filter, as the product has it."""

    class Keeper(logging.Handler):
        records = []

        def emit(self, record):
            self.records.append(record)

    keeper = Keeper()
    keeper.addFilter(RequestIdFilter())
    logging.getLogger().addHandler(keeper)
    yield keeper.records
    logging.getLogger().removeHandler(keeper)


class TestRequestIdFilter:
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
        assert current_request_id.get() == ""

    @pytest.mark.parametrize("given", ["", "a b", "x" * 65, "a\r\nb", "é"])
    def test_names_none_of_a_form_that_no_log_should_hold(self, client, given):
        response = client.get("/livez", headers={"X-Request-Id": given})

        assert len(response.headers["X-Request-Id"]) == 32

    def test_is_on_the_product_s_handler(self):
        assert settings.LOGGING["handlers"]["stderr"]["filters"] == ["request_id"]


class TestConsoleFormatter:
    @pytest.mark.parametrize(("request_id", "line"), [("r-9", "done [r-9]"), ("", "done")])
    def test_ends_a_line_with_the_request(self, request_id, line):
        record = logging.LogRecord("a", logging.INFO, "", 0, "done", (), None)
        if request_id:
            record.request_id = request_id

        assert ConsoleFormatter("{message}", style="{").format(record) == line
