"""One cheap look at the tables: when is something due, does something run or wait."""

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from django.db import connection

from scheduling.adapters.claims import TABLE, sqlite_instant
from scheduling.adapters.clock import database_now
from scheduling.adapters.postgres import execute_together


class Look(NamedTuple):
    """What one look at the tables tells the due-broker.

    next_ready_at: earliest instant at which something may be claimed; None without.
    has_task: whether a django-q2 task of another kind waits.
    """

    now: datetime
    next_ready_at: datetime | None
    running: int
    has_task: bool


_LOOK = f"""
SELECT {{now}},
    (SELECT ready_at FROM {TABLE}
     WHERE status = 'scheduled' AND claim_token IS NULL AND ready_at > %(after)s
     AND (due_at > {{horizon}} OR forced_at IS NOT NULL)
     ORDER BY ready_at, state, id LIMIT 1),
    (SELECT count(*) FROM {TABLE} WHERE status = 'running'),
    EXISTS (SELECT 1 FROM django_q_ormq WHERE "key" = %(queue)s AND "lock" < {{now}})
"""  # noqa: S608


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def look(*, queue: str, age_limit: timedelta, after: datetime | None = None) -> Look:
    """Look at the tables once; cheap at any size of them.

    Args:
        queue: django-q2's queue whose tasks count.
        age_limit: Jobs overdue by more are nothing to wait for.
        after: Leaves out what was ready by then.
    """
    since = after or EPOCH
    if connection.vendor == "postgresql":
        now, horizon = "statement_timestamp()", "statement_timestamp() - %(age)s"
        values: dict[str, Any] = {"queue": queue, "age": age_limit, "after": since}
        statement = _LOOK.format(now=now, horizon=horizon)
        ((row,),) = execute_together([(statement, values)])
        return Look(*row)
    instant = database_now()
    values = {
        "queue": queue,
        "now": sqlite_instant(instant),
        "horizon": sqlite_instant(instant - age_limit),
        "after": sqlite_instant(since),
    }
    with connection.cursor() as cursor:
        cursor.execute(_LOOK.format(now="%(now)s", horizon="%(horizon)s"), values)
        _, ready, running, has_task = cursor.fetchone()
    return Look(instant, ready and ready.replace(tzinfo=UTC), running, bool(has_task))
