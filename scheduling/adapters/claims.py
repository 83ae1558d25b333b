"""Claim what is due, and complete what is acknowledged: the engine's two hot changes.

A claim is a lease on the database's clock, held by a token. Whoever acts on a claimed
job says `WHERE claim_token = mine`: a worker that was paused past its lease changes
nothing. Every change writes its audit entry in the same transaction.

Each is SQL of its own for each database; how a claim ends otherwise is in `claim_ends`.
"""

import functools
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from django.db import connection, transaction

from scheduling.adapters.clock import database_now
from scheduling.adapters.owner import Owner
from scheduling.adapters.postgres import execute_together
from scheduling.domain.actors import SCHEDULER
from scheduling.domain.lifecycle import TransitionStatus
from scheduling.models import AuditEntry, ScheduledTransition

# Short, so that the jobs of an owner who can't be proven dead are free soon; renewed by
# the living three times within it.
LEASE = timedelta(seconds=10)
# Claims of all hosts pass one by one, so that their sum keeps to the limit.
CLAIM_LOCK = 7_062_001


# Neither frozen nor by name only: a burst makes thousands a second, from rows.
@dataclass(slots=True)
class ClaimedJob:
    """What publishing needs of a job that this process holds."""

    id: int
    job_id: str
    event_id: uuid.UUID
    key: str
    project_id: str
    phase_id: str
    challenge_id: str | None
    phase_type_name: str
    state: str
    operator: str
    project_status: str
    due_at: datetime
    event_at: datetime
    attempts: int
    max_attempts: int
    unproven_since: datetime | None
    started_at: datetime
    forced_at: datetime | None
    trace_parent: str


class Acknowledged(NamedTuple):
    """A record on the topic: where it stands, and how long ago that became known.

    age_seconds: since the broker's acknowledgement; the completion is dated back by it.
    """

    job: ClaimedJob
    partition: int
    offset: int
    age_seconds: float


_COLUMNS = tuple(f.name for f in fields(ClaimedJob))
TABLE = "scheduling_scheduledtransition"
AUDIT = "scheduling_auditentry"

# What is due and may go: young enough or demanded, and with no earlier-due job of its
# key running or waiting for its next attempt (order per key; END before START where
# equal, which is also the alphabet's order). Demanded jobs neither wait nor hold up.
_CLAIMABLE = f"""
    t.status = 'scheduled' AND t.claim_token IS NULL AND t.ready_at <= {{now}}
    AND (t.forced_at IS NOT NULL OR (
        t.due_at > {{horizon}}
        AND NOT EXISTS (
            SELECT 1 FROM {{running}} e WHERE e.key = t.key AND e.due_at <= t.due_at
            AND (e.due_at < t.due_at OR e.state < t.state))
        AND NOT EXISTS (
            SELECT 1 FROM {TABLE} e
            WHERE e.key = t.key AND e.status = 'scheduled' AND e.ready_at > e.due_at
            AND e.forced_at IS NULL AND e.due_at <= t.due_at
            AND (e.due_at < t.due_at OR e.state < t.state))))
"""  # noqa: S608 -- no value is spliced in, only names of ours

# Of each key only the earliest running job matters; asked of the table for each candidate,
# a backlog of one key would be compared with all that run.
_EARLIEST_RUNNING = f"""
    SELECT DISTINCT ON (key) key, due_at, state FROM {TABLE}
    WHERE status = 'running' AND forced_at IS NULL ORDER BY key, due_at, state
"""  # noqa: S608
_RUNNING = f"""
    (SELECT key, due_at, state FROM {TABLE} WHERE status = 'running' AND forced_at IS NULL)
"""  # noqa: S608

# STABLE statement_timestamp() and not VOLATILE clock_timestamp() decides what is due: only
# so can the index on ready_at end the search, instead of passing every pending row.
# `status || ''` keeps partial indexes out of the search by id: the planner, whose figures
# lag behind a burst, would rather read every live row of one.
# A row that an operator holds locked is skipped, and with it whatever of its key is due
# later: their order must not depend on how that operator's transaction ends.
_POSTGRES_CLAIM = f"""
WITH running AS MATERIALIZED ({_EARLIEST_RUNNING}),
candidate AS MATERIALIZED (
    SELECT * FROM (
        SELECT t.id, t.key, t.due_at, t.forced_at, t.ready_at, t.state FROM {TABLE} t
        WHERE {
    _CLAIMABLE.format(
        now="statement_timestamp()",
        horizon="statement_timestamp() - %(age)s",
        running="running",
    )
}
        ORDER BY t.ready_at, t.state, t.id LIMIT __MOST__) AS first
    ORDER BY ready_at, state, id LIMIT greatest(0, %(most_running)s - (
        SELECT count(*) FROM {TABLE} WHERE status = 'running'))),
locked AS MATERIALIZED (
    SELECT id FROM {TABLE} WHERE id = ANY(ARRAY(SELECT id FROM candidate))
    AND status || '' = 'scheduled' AND ready_at <= statement_timestamp()
    FOR UPDATE SKIP LOCKED),
skipped AS MATERIALIZED (
    SELECT key, due_at FROM candidate
    WHERE forced_at IS NULL AND id NOT IN (SELECT id FROM locked)),
claimed AS (
    UPDATE {TABLE} t SET
        status = 'running', attempts = attempts + 1, claim_token = %(token)s,
        claimed_by = %(owner)s, lease_until = clock_timestamp() + %(lease)s,
        started_at = clock_timestamp(), updated_at = clock_timestamp(),
        next_attempt_at = NULL
    WHERE id = ANY(ARRAY(SELECT id FROM locked)) AND NOT EXISTS (
        SELECT 1 FROM skipped s
        WHERE s.key = t.key AND s.due_at <= t.due_at AND t.forced_at IS NULL)
    RETURNING {", ".join(f"t.{column}" for column in _COLUMNS)}),
audited AS (
    INSERT INTO {AUDIT} (at, action, job_id, project_id, phase_id, state, actor, role,
        old_status, new_status, changes, reason, request_id)
    SELECT started_at, 'transition.claimed', job_id, project_id, phase_id, state,
        %(actor)s, %(role)s, 'scheduled', 'running',
        jsonb_build_object('attempt', attempts), '', '' FROM claimed)
SELECT * FROM claimed ORDER BY due_at, state, id
"""  # noqa: S608 -- no value is spliced in, only names of ours

_POSTGRES_COMPLETE = f"""
WITH acknowledged AS (
    SELECT * FROM unnest(%(ids)s::bigint[], %(partitions)s::int[], %(offsets)s::bigint[],
        %(ages)s::float8[]) AS x (id, partition, "offset", age)),
completed AS (
    UPDATE {TABLE} t SET
        status = 'completed', claim_token = NULL, lease_until = NULL, last_error = '',
        unproven_since = NULL, topic_partition = a.partition, topic_offset = a."offset",
        completed_at = clock_timestamp() - a.age * interval '1 second',
        finalized_at = clock_timestamp(), updated_at = clock_timestamp(),
        lateness_ms = round((extract(epoch FROM
            clock_timestamp() - a.age * interval '1 second' - t.due_at) * 1000)::numeric,
            3)
    FROM acknowledged a WHERE t.id = a.id AND t.claim_token = %(token)s
    RETURNING t.id, t.job_id, t.project_id, t.phase_id, t.state, t.finalized_at,
        t.lateness_ms, t.topic_partition, t.topic_offset, t.forced_at,
        round((extract(epoch FROM t.completed_at - t.started_at) * 1000)::numeric, 3)
            AS execution_ms),
audited AS (
    INSERT INTO {AUDIT} (at, action, job_id, project_id, phase_id, state, actor, role,
        old_status, new_status, changes, reason, request_id)
    SELECT finalized_at, 'transition.completed', job_id, project_id, phase_id, state,
        %(actor)s, %(role)s, 'running', 'completed',
        jsonb_build_object('partition', topic_partition, 'offset', topic_offset,
            'latenessMs', lateness_ms, 'executionMs', execution_ms,
            'isForced', forced_at IS NOT NULL), '', '' FROM completed)
SELECT id, lateness_ms FROM completed
"""  # noqa: S608

_SQLITE_CLAIM = f"""
UPDATE {TABLE} SET
    status = 'running', attempts = attempts + 1, claim_token = %(token)s,
    claimed_by = %(owner)s, lease_until = %(lease_until)s, started_at = %(now)s,
    updated_at = %(now)s, next_attempt_at = NULL
WHERE status = 'scheduled' AND id IN (
    SELECT t.id FROM {TABLE} t
    WHERE {_CLAIMABLE.format(now="%(now)s", horizon="%(horizon)s", running=_RUNNING)}
    ORDER BY t.ready_at, t.state, t.id LIMIT max(0, min(
        %(limit)s, %(most_running)s - (
            SELECT count(*) FROM {TABLE} WHERE status = 'running'))))
"""  # noqa: S608


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What a lane asks for.

    limit: Most jobs of this claim.
    most_running: SCHEDULER_MAX_CONCURRENT_JOBS, over the whole system.
    age_limit: Jobs overdue by more are left to recovery.
    """

    owner: Owner
    limit: int
    most_running: int
    age_limit: timedelta
    token: uuid.UUID = field(default_factory=uuid.uuid4)


def complete_and_claim(
    token: uuid.UUID, acknowledged: Sequence[Acknowledged], claim: Claim | None
) -> tuple[dict[int, float], list[ClaimedJob]]:
    """Complete what the token holds and claim more, in one transaction.

    Returns:
        The lateness in ms of each completed job by row id, where a job that the token no
        longer holds is left alone and missing; and the claimed jobs in due order.
    """
    if not acknowledged and claim is None:
        return {}, []
    if connection.vendor == "postgresql":
        return _on_postgres(token, acknowledged, claim)
    with transaction.atomic():
        done = _complete_on_sqlite(token, acknowledged) if acknowledged else {}
        return done, _claim_on_sqlite(claim) if claim else []


def _on_postgres(
    token: uuid.UUID, acknowledged: Sequence[Acknowledged], claim: Claim | None
) -> tuple[dict[int, float], list[ClaimedJob]]:
    """Send it all at once; from the lock to the commit no other claim passes.

    What is sent at once is one transaction of PostgreSQL's own, so that not even BEGIN and
    COMMIT take a round trip (PostgreSQL, "Pipeline Mode").
    """
    statements: list[tuple[str, dict[str, Any]]] = []
    if acknowledged:
        statements.append((_POSTGRES_COMPLETE, _completion_values(token, acknowledged)))
    if claim:
        statements.extend(
            [
                ("SELECT pg_advisory_xact_lock(%(lock)s)", {"lock": CLAIM_LOCK}),
                (_claim_statement(claim.limit), _claim_values(claim)),
            ]
        )
    results = execute_together(statements)
    done: dict[int, float] = dict(results[0]) if acknowledged else {}
    claimed = results[-1] if claim else []
    return done, [ClaimedJob(*row) for row in claimed]


@functools.cache
def _claim_statement(limit: int) -> str:
    """Return the claiming statement with its limit written into it.

    Of a limit that is a parameter the planner assumes a tenth of all rows, and sorts them.
    """
    return _POSTGRES_CLAIM.replace("__MOST__", str(limit))


def _completion_values(
    token: uuid.UUID, acknowledged: Sequence[Acknowledged]
) -> dict[str, Any]:
    """Return the values of the completing statement."""
    return {
        "token": token,
        "ids": [ack.job.id for ack in acknowledged],
        "partitions": [ack.partition for ack in acknowledged],
        "offsets": [ack.offset for ack in acknowledged],
        "ages": [ack.age_seconds for ack in acknowledged],
        "actor": SCHEDULER.name,
        "role": SCHEDULER.role.value,
    }


def _claim_values(claim: Claim) -> dict[str, Any]:
    """Return the values of the claiming statement."""
    return {
        "most_running": claim.most_running,
        "token": claim.token,
        "owner": str(claim.owner),
        "age": claim.age_limit,
        "lease": LEASE,
        "actor": SCHEDULER.name,
        "role": SCHEDULER.role.value,
    }


def _claim_on_sqlite(claim: Claim) -> list[ClaimedJob]:
    """Claim, read back and audit; the IMMEDIATE transaction keeps other writers out."""
    now = database_now()
    values: dict[str, Any] = {
        "limit": claim.limit,
        "most_running": claim.most_running,
        "token": claim.token.hex,
        "owner": str(claim.owner),
        "now": sqlite_instant(now),
        "horizon": sqlite_instant(now - claim.age_limit),
        "lease_until": sqlite_instant(now + LEASE),
    }
    with connection.cursor() as cursor:
        cursor.execute(_SQLITE_CLAIM, values)
        if cursor.rowcount <= 0:
            return []
    rows = ScheduledTransition.objects.filter(claim_token=claim.token)
    jobs = [
        ClaimedJob(**values)
        for values in rows.order_by("due_at", "state", "id").values(*_COLUMNS)
    ]
    AuditEntry.objects.bulk_create(
        engine_entry(
            job,
            "transition.claimed",
            now=now,
            old=TransitionStatus.SCHEDULED,
            new=TransitionStatus.RUNNING,
            changes={"attempt": job.attempts},
        )
        for job in jobs
    )
    return jobs


def sqlite_instant(instant: datetime) -> str:
    """Return the text that Django's SQLite backend stores, so that texts compare."""
    return str(connection.ops.adapt_datetimefield_value(instant.astimezone(UTC)))


def _complete_on_sqlite(
    token: uuid.UUID, acknowledged: Sequence[Acknowledged]
) -> dict[int, float]:
    """Complete one by one inside the caller's transaction."""
    now = database_now()
    done: dict[int, float] = {}
    entries = []
    for ack in acknowledged:
        at = now - timedelta(seconds=ack.age_seconds)
        lateness = round((at - ack.job.due_at).total_seconds() * 1000, 3)
        is_mine = ScheduledTransition.objects.filter(
            id=ack.job.id, claim_token=token
        ).update(
            status=TransitionStatus.COMPLETED,
            claim_token=None,
            lease_until=None,
            last_error="",
            unproven_since=None,
            topic_partition=ack.partition,
            topic_offset=ack.offset,
            completed_at=at,
            finalized_at=now,
            updated_at=now,
            lateness_ms=lateness,
        )
        if is_mine:
            done[ack.job.id] = lateness
            took_ms = (at - ack.job.started_at).total_seconds() * 1000
            changes = {
                "partition": ack.partition,
                "offset": ack.offset,
                "latenessMs": lateness,
                "executionMs": round(took_ms, 3),
                "isForced": ack.job.forced_at is not None,
            }
            entries.append(
                engine_entry(
                    ack.job,
                    "transition.completed",
                    now=now,
                    old=TransitionStatus.RUNNING,
                    new=TransitionStatus.COMPLETED,
                    changes=changes,
                )
            )
    AuditEntry.objects.bulk_create(entries)
    return done


def engine_entry(
    job: ClaimedJob | ScheduledTransition,
    action: str,
    *,
    now: datetime,
    old: TransitionStatus,
    new: TransitionStatus,
    changes: dict[str, Any],
) -> AuditEntry:
    """Return the engine's audit entry for a job, not yet saved."""
    return AuditEntry(
        at=now,
        action=action,
        job_id=job.job_id,
        project_id=job.project_id,
        phase_id=job.phase_id,
        state=job.state,
        actor=SCHEDULER.name,
        role=SCHEDULER.role.value,
        old_status=old,
        new_status=new,
        changes=changes,
    )
