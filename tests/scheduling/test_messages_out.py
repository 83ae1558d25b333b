"""What the records say that answer commands and hold dead letters."""

import base64
import json
from datetime import UTC, datetime

import pytest

from scheduling.domain.commands import CommandResult
from scheduling.messages import show_dead_letter, write_command_result, write_dead_letter
from scheduling.models import DeadLetter

AT = datetime(2026, 3, 2, 12, 0, 0, 123_456, tzinfo=UTC)


def letter(**fields):
    return DeadLetter(
        **{
            "cluster_id": "cluster",
            "topic": "autopilot.command",
            "partition": 2,
            "offset": 41,
            "key": b"12345",
            "value": b"\xff{",
            "code": "invalid_request",
            "category": "validation",
            "message": "the record: is not UTF-8 (at byte 0)",
            "errors": [{"field": "", "message": "is not UTF-8 (at byte 0)"}],
            "set_aside_at": AT,
            **fields,
        }
    )


class TestWriteCommandResult:
    def test_says_what_was_done(self):
        result = CommandResult(
            command="Cancel_Schedule",
            correlation_id="a-1",
            message="2 cancelled",
            job_ids=["job-1", "job-2"],
        )

        assert json.loads(write_command_result(result, at=AT)) == {
            "topic": "autopilot.command.result",
            "originator": "auto_pilot",
            "timestamp": "2026-03-02T12:00:00.123Z",
            "mimeType": "application/json",
            "payload": {
                "command": "Cancel_Schedule",
                "correlationId": "a-1",
                "success": True,
                "code": None,
                "message": "2 cancelled",
                "jobIds": ["job-1", "job-2"],
            },
        }

    def test_says_why_not(self):
        result = CommandResult(command="", correlation_id="", message="ä", code="conflict")

        value = write_command_result(result, at=AT)

        assert "ä".encode() in value
        assert json.loads(value)["payload"] == {
            "command": None,
            "correlationId": None,
            "success": False,
            "code": "conflict",
            "message": "ä",
            "jobIds": [],
        }


class TestWriteDeadLetter:
    def test_has_the_exact_bytes_and_the_reason(self):
        value = write_dead_letter("autopilot.command.dlq", letter(), is_truncated=False)

        envelope = json.loads(value)
        assert envelope["topic"] == "autopilot.command.dlq"
        assert envelope["payload"] == {
            "originalTopic": "autopilot.command",
            "originalPartition": 2,
            "originalOffset": 41,
            "originalKey": "12345",
            "originalMessage": base64.b64encode(b"\xff{").decode(),
            "error": {
                "code": "invalid_request",
                "category": "validation",
                "message": "the record: is not UTF-8 (at byte 0)",
                "errors": [{"field": "", "message": "is not UTF-8 (at byte 0)"}],
            },
            "timestamp": "2026-03-02T12:00:00.123Z",
        }

    @pytest.mark.parametrize(
        ("fields", "is_truncated", "message", "truncated"),
        [
            ({"value": b"abc"}, False, "YWJj", None),
            ({"value": b"abc"}, True, None, True),
            ({"value": None}, False, None, None),
            ({"value": b""}, False, "", None),
            ({"value": memoryview(b"abc")}, False, "YWJj", None),
        ],
    )
    def test_leaves_the_bytes_out_only_where_it_must(
        self, fields, is_truncated, message, truncated
    ):
        shown = show_dead_letter(letter(**fields), is_truncated=is_truncated)

        assert shown["originalMessage"] == message
        assert shown.get("truncated") == truncated

    @pytest.mark.parametrize(
        ("key", "shown"),
        [
            (None, None),
            (b"", ""),
            ("ä".encode(), "ä"),
            (b"\xffa", "\\xffa"),
            (memoryview(b"k"), "k"),
        ],
    )
    def test_shows_the_key_as_text(self, key, shown):
        assert show_dead_letter(letter(key=key))["originalKey"] == shown

    def test_cuts_a_long_key_together_with_the_bytes(self):
        long = letter(key=b"k" * 5_000)

        whole, cut = show_dead_letter(long), show_dead_letter(long, is_truncated=True)

        assert len(whole["originalKey"]) == 5_000
        assert cut["originalKey"] == "k" * 1_000
