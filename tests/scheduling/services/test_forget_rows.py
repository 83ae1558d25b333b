"""What is kept for a while only is deleted once that is over, and in batches."""

from datetime import timedelta

import pytest
from axes.models import AccessAttempt
from django.contrib.sessions.models import Session
from django_q.models import Task

from scheduling.models import InboxMessage
from scheduling.services import forget_rows
from scheduling.services.forget import forget_oldest
from scheduling.services.forget_rows import forget_old_rows

pytestmark = pytest.mark.django_db


def receive(*, at, offset):
    return InboxMessage.objects.create(
        cluster_id="c", topic="t", partition=0, offset=offset, handled_at=at, outcome="done"
    )


class TestForgetOldRows:
    def test_deletes_what_was_kept_for_long_enough(self, now):
        old, young = now - timedelta(days=31), now - timedelta(minutes=1)
        for offset, at in enumerate((old, young)):
            receive(at=at, offset=offset)
            AccessAttempt.objects.create(username=f"u{offset}", failures_since_start=1)
            AccessAttempt.objects.filter(username=f"u{offset}").update(attempt_time=at)
            Session.objects.create(
                session_key=f"s{offset}",
                expire_date=old if offset == 0 else now + timedelta(days=1),
            )
            Task.objects.create(
                id=f"t{offset}", name="chore", started=at, stopped=at, success=False
            )

        assert forget_old_rows(now=now) == 4

        assert InboxMessage.objects.get().offset == 1
        assert AccessAttempt.objects.get().username == "u1"
        assert Session.objects.get().session_key == "s1"
        assert Task.objects.get().pk == "t1"

    def test_goes_on_batch_after_batch(self, now, monkeypatch):
        monkeypatch.setattr(forget_rows, "BATCH", 2)
        for offset in range(5):
            receive(at=now - timedelta(days=40 - offset), offset=offset)

        assert forget_old_rows(now=now) == 5


class TestForgetOldest:
    def test_looks_at_one_batch_only_where_nothing_is_old(
        self, now, django_assert_num_queries
    ):
        for offset in range(5):
            receive(at=now, offset=offset)
        rows = InboxMessage.objects.all()

        # Two of them make and release the savepoint.
        with django_assert_num_queries(3):
            assert forget_oldest(rows, field="handled_at", before=now, size=2) == 0
