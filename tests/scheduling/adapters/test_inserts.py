"""Rows that are written in bulk hold what they were given."""

from datetime import UTC, datetime

import pytest
from django.db import IntegrityError

from scheduling.adapters.inserts import copy_text, insert_rows, new_row
from scheduling.models import AuditEntry, DeadLetter, ScheduledTransition

AWKWARD = [
    "plain",
    "tab\tline\nreturn\rback\\slash \\N \\t",
    "Ünï😀",
    "",
    '"quoted"',
    "NULL",
]
AT = datetime(2030, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)


def job(number, **values):
    return new_row(
        ScheduledTransition,
        **{
            "job_id": f"job-{number}",
            "project_id": str(number),
            "phase_id": "7",
            "phase_type_name": "Registration",
            "state": "END",
            "operator": "olivia",
            "project_status": "ACTIVE",
            "key": str(number),
            "due_at": AT,
            "event_at": AT,
            "ready_at": AT,
            "max_attempts": 4,
            "created_at": AT,
            "updated_at": AT,
        }
        | values,
    )


@pytest.mark.django_db
class TestInsertRows:
    def test_stores_every_value_as_it_was_given(self):
        given = [
            job(number, operator=text, metadata={text: [text, 1, None, True]})
            for number, text in enumerate(AWKWARD)
        ]

        insert_rows(given)

        stored = {row.job_id: row.values() for row in ScheduledTransition.objects.all()}
        for row in given:
            assert stored[row.job_id] == row.values() | {"id": stored[row.job_id]["id"]}

    def test_tells_null_from_text_within_a_column(self):
        given = [job(1, challenge_id=None, date=AT), job(2, challenge_id="5", date=None)]

        insert_rows(given)

        rows = ScheduledTransition.objects.order_by("project_id")
        assert list(rows.values_list("challenge_id", "date")) == [(None, AT), ("5", None)]

    def test_tells_true_from_one_in_json(self):
        given = [job(1, metadata={"a": True}), job(2, metadata={"a": 1})]

        insert_rows(given)

        rows = ScheduledTransition.objects.order_by("project_id")
        assert [type(row.metadata["a"]) for row in rows] == [bool, int]

    def test_stores_bytes_and_keys_of_ones_own(self):
        letters = [
            new_row(
                DeadLetter,
                cluster_id="c",
                topic="t",
                partition=0,
                offset=number,
                key=None,
                value=value,
                code="unreadable",
                category="validation",
                message="m",
                set_aside_at=AT,
                status="new",
            )
            for number, value in enumerate([b"\x00\\\n\xff", b""])
        ]

        insert_rows(letters)

        rows = DeadLetter.objects.order_by("offset")
        assert [(row.pk, bytes(row.value)) for row in rows] == [
            (letter.pk, letter.value) for letter in letters
        ]

    @pytest.mark.django_db(transaction=True)
    def test_stores_none_where_a_constraint_refuses_one(self):
        with pytest.raises(IntegrityError):
            insert_rows([job(1), job(2), job(1, job_id="another")])

        assert not ScheduledTransition.objects.exists()


class TestCopyText:
    def test_refuses_what_no_column_holds(self):
        entries = [new_row(AuditEntry, at=AT, action=object()) for _ in range(2)]

        with pytest.raises(TypeError, match="object can't be copied"):
            copy_text(entries)


class TestNewRow:
    def test_gives_each_row_defaults_of_its_own(self):
        first, second = job(1), job(2)

        first.metadata["a"] = 1

        assert second.metadata == {}
        assert first.event_id != second.event_id

    def test_is_a_row_that_is_not_stored_yet(self):
        made = job(1)

        assert made._state.adding
        assert made.pk is None
