"""The invariants that the database alone can answer for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import product

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import OperationalError, connection, transaction
from django.db.models import Model

from autopilot_site.verification.report import Invariant, Report, Violation
from autopilot_site.verification.workspace import Workspace
from scheduling.adapters.event_publisher import process_publisher
from scheduling.conf import age_limit
from scheduling.models import AuditEntry, AuditSeal

# Overdue by more is silence, not work in hand.
GRACE = timedelta(seconds=30)
# Expiry has its turn each minute, and a search of the topic may come first.
EXPIRY_GRACE = timedelta(minutes=3)
# A completion that was read off the topic has the record's timestamp, which the
# publisher estimates between two looks at the database's clock.
CLOCK_ESTIMATE_SECONDS = 0.05
BROKER_SECONDS = 3.0
# What nobody may change, and what it is called.
_GUARDED: dict[type[Model], str] = {AuditEntry: "the audit", AuditSeal: "the seals"}


@dataclass(frozen=True, kw_only=True)
class RowCheck:
    """One question about single rows, of which there are far too many to ask one by one.

    where: SQL of what breaks the invariant.
    shown: SQL of the values that `detail` names, in order.
    """

    invariant: int
    where: str
    detail: str
    shown: str = ""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question that compares rows: its SQL brings what breaks the invariant.

    detail: what is wrong, with the columns behind the job id in order.
    """

    invariant: int
    sql: str
    detail: str


# Each job beside its trail, if it has one.
_JOBS = "verify_job j LEFT JOIN verify_trail t ON t.job_id = j.job_id"
JOB_CHECKS: tuple[RowCheck, ...] = (
    RowCheck(
        invariant=1,
        where="""j.status = 'completed' AND j.forced_at IS NULL
            AND j.started_at < j.due_at""",
        shown="(j.due_at - j.started_at) * 1000",
        detail="was claimed {0:.3f} ms before its due instant",
    ),
    RowCheck(
        invariant=1,
        where="""j.status = 'completed' AND j.forced_at IS NULL
            AND j.started_at >= j.due_at AND j.completed_at < j.due_at - %(estimate)s""",
        shown="(j.due_at - j.completed_at) * 1000",
        detail="was completed {0:.3f} ms before its due instant",
    ),
    RowCheck(
        invariant=2,
        where="j.status = 'completed' AND coalesce(t.completions, 0) <> 1",
        shown="coalesce(t.completions, 0)",
        detail="is completed, with {0} completions in the audit instead of 1",
    ),
    RowCheck(
        invariant=2,
        where="j.status <> 'completed' AND t.completions > 0",
        shown="j.status, t.completions",
        detail="is {0}, but the audit has {1} completions",
    ),
    RowCheck(
        invariant=3,
        where="""CASE WHEN j.completed_at IS NULL THEN 0 ELSE 1 END
                <> CASE WHEN j.status = 'completed' THEN 1 ELSE 0 END
            OR CASE WHEN j.topic_partition IS NULL OR j.topic_offset IS NULL
                THEN 0 ELSE 1 END
                <> CASE WHEN j.status = 'completed' THEN 1 ELSE 0 END""",
        shown="j.status",
        detail="is {0}, which its position on the topic or its completion contradicts",
    ),
    RowCheck(
        invariant=3,
        where="""CASE WHEN j.claim_token IS NULL OR j.lease_until IS NULL
                OR j.started_at IS NULL THEN 0 ELSE 1 END <> 1 AND j.status = 'running'
            OR (j.claim_token IS NOT NULL OR j.lease_until IS NOT NULL)
                AND j.status <> 'running'
            OR CASE WHEN j.finalized_at IS NULL THEN 1 ELSE 0 END
                <> CASE WHEN j.status IN ('scheduled', 'running') THEN 1 ELSE 0 END""",
        shown="j.status",
        detail="is {0}, which its claim or its final instant contradicts",
    ),
    RowCheck(
        invariant=6,
        where="""j.status = 'cancelled' AND t.completions > 0
            AND NOT t.fired_id > coalesce(t.cancelled_id, t.fired_id)""",
        detail="is cancelled, but the audit has its completion",
    ),
    RowCheck(
        invariant=7,
        where="j.status = 'running' AND j.lease_until < %(now)s - %(grace)s",
        shown="%(now)s - j.lease_until",
        detail="is running, but its lease ended {0:.1f} s ago and nobody took it over",
    ),
    RowCheck(
        invariant=7,
        where="""j.status = 'scheduled' AND j.forced_at IS NULL
            AND j.due_at < %(horizon)s - %(expiry_grace)s""",
        shown="(%(now)s - j.due_at) / 3600",
        detail="is overdue by {0:.1f} h, beyond the age limit, and has not been expired",
    ),
    RowCheck(
        invariant=8,
        where="t.job_id IS NULL",
        detail="has no audit entry",
    ),
    RowCheck(
        invariant=8,
        where="j.status <> t.last_status",
        shown="j.status, t.last_status",
        detail="is {0}, but its audit ends with {1}",
    ),
    RowCheck(
        invariant=8,
        where="j.attempts <> t.attempts",
        shown="j.attempts, t.attempts",
        detail="has {0} attempts, but the audit counts {1}",
    ),
    RowCheck(
        invariant=8,
        where="abs(j.due_at - t.end_time) > 0.0005 OR j.event_id <> t.event_id",
        detail="has another due instant or event than the audit says it was made with",
    ),
)

_TRAILS = "verify_trail t"
TRAIL_CHECKS: tuple[RowCheck, ...] = (
    RowCheck(
        invariant=6,
        where="t.fired_id > t.cancelled_id",
        detail="was claimed or completed after it had been cancelled",
    ),
    RowCheck(
        invariant=8,
        where="t.first_action <> 'transition.scheduled' OR t.first_old_status <> ''",
        shown="t.first_action",
        detail="has a history that begins with {0}",
    ),
    RowCheck(
        invariant=8,
        where="t.gap_id IS NOT NULL",
        shown="t.gap_id",
        detail="audit entry {0} starts from another status than the one before it left",
    ),
    RowCheck(
        invariant=8,
        where="t.forbidden_id IS NOT NULL",
        shown="t.forbidden_id",
        detail="audit entry {0} tells of a change that is not allowed",
    ),
    RowCheck(
        invariant=8,
        where="t.authorless_id IS NOT NULL",
        shown="t.authorless_id",
        detail="audit entry {0} names no actor or no role",
    ),
    RowCheck(
        invariant=8,
        where="t.reasonless_id IS NOT NULL",
        shown="t.reasonless_id",
        detail="audit entry {0} is a person's override without a reason",
    ),
    RowCheck(
        invariant=10,
        where="t.stale_id IS NOT NULL",
        shown="t.stale_id",
        detail="audit entry {0} was written by a hand that held nothing any more",
    ),
)

CHECKS: tuple[Check, ...] = (
    Check(
        invariant=1,
        sql="""SELECT j.job_id FROM verify_job j
            LEFT JOIN verify_trail t ON t.job_id = j.job_id
            WHERE j.forced_at IS NOT NULL AND coalesce(t.demands, 0) = 0
            AND NOT EXISTS (SELECT 1 FROM scheduling_auditentry a
                WHERE a.job_id = j.replaces AND a.action = 'transition.retried'
                AND a.changes->>'replacedBy' = j.job_id)""",
        detail="is marked as demanded now, but the audit knows of no run-now or retry",
    ),
    Check(
        invariant=2,
        # Of the jobs with one event, all but the first must be an audited retry.
        sql="""SELECT min(job_id), max(job_id), count(*) FROM (
                SELECT j.job_id, j.event_id FROM verify_job j
                WHERE j.event_id IN (SELECT event_id FROM verify_job
                    GROUP BY event_id HAVING count(*) > 1)
                AND NOT EXISTS (SELECT 1 FROM scheduling_auditentry a
                    WHERE a.job_id = j.replaces AND a.action = 'transition.retried'
                    AND a.changes->>'replacedBy' = j.job_id)) unlinked
            GROUP BY event_id HAVING count(*) > 1""",
        detail="shares its event with {0} without a retry ({1} such jobs)",
    ),
    Check(
        invariant=2,
        sql="""SELECT min(job_id), max(job_id) FROM verify_job WHERE status = 'completed'
            GROUP BY event_id HAVING count(*) > 1""",
        detail="and {0} are both completed with one event",
    ),
    Check(
        invariant=3,
        # A cluster made anew counts from 0 again, but not within a second: what is
        # farther apart is left to the topic, which knows.
        sql="""SELECT job_id, topic_partition, topic_offset, other FROM (
                SELECT job_id, topic_partition, topic_offset, completed_at, event_id,
                    lag(job_id) OVER place AS other,
                    lag(event_id) OVER place AS other_event,
                    lag(completed_at) OVER place AS other_at
                FROM verify_job WHERE status = 'completed'
                WINDOW place AS (PARTITION BY topic_partition, topic_offset
                    ORDER BY completed_at)) placed
            WHERE other_event <> event_id AND completed_at - other_at < 1.0""",
        detail="has the same position ({0}, {1}) as {2}",
    ),
    Check(
        invariant=8,
        sql="""SELECT t.job_id, t.entries FROM verify_trail t LEFT JOIN verify_job j
            ON j.job_id = t.job_id WHERE j.job_id IS NULL""",
        detail="has {0} audit entries, but neither a row nor an archive",
    ),
    Check(
        invariant=8,
        sql="SELECT job_id, count(*) FROM verify_job GROUP BY job_id HAVING count(*) > 1",
        detail="stands {0} times among rows and archives",
    ),
    Check(
        invariant=10,
        sql="""SELECT min(job_id), max(job_id), count(*) FROM verify_job
            WHERE status IN ('scheduled', 'running')
            GROUP BY project_id, phase_id, state HAVING count(*) > 1""",
        detail="is live beside {0} ({1} live jobs of one transition)",
    ),
)

# Jobs of one key go in order: only where the first of them is silent are the others too.
# Demanded ones (run-now, retry) wait for nobody.
_SILENT = """
    SELECT job_id, %(now)s - ready_at FROM (
        SELECT job_id, status, ready_at, first_value(status) OVER place AS head_status,
            first_value(ready_at) OVER place AS head_ready_at
        FROM verify_job
        WHERE status IN ('scheduled', 'running')
        AND (due_at <= %(now)s OR forced_at IS NOT NULL)
        AND (due_at >= %(horizon)s OR forced_at IS NOT NULL OR status = 'running')
        WINDOW place AS (
            PARTITION BY key, CASE WHEN forced_at IS NULL THEN '' ELSE job_id END
            ORDER BY due_at, state, job_id)) queued
    WHERE status = 'scheduled' AND ready_at < %(now)s - %(grace)s
    AND head_status = 'scheduled' AND head_ready_at < %(now)s - %(grace)s
"""

# Which jobs an invariant is about.
_CONCERNED: dict[int, str] = {
    1: "j.status = 'completed'",
    2: "j.job_id IS NOT NULL",
    3: "j.job_id IS NOT NULL",
    6: "j.status = 'cancelled'",
    7: "j.status IN ('scheduled', 'running')",
    10: "j.job_id IS NOT NULL",
}


def check_database(
    report: Report, workspace: Workspace, *, now: datetime, most_shown: int
) -> None:
    """Fill in what the database alone can answer; called inside the snapshot."""
    values = {
        "now": now.timestamp(),
        "horizon": (now - age_limit()).timestamp(),
        "grace": GRACE.total_seconds(),
        "expiry_grace": EXPIRY_GRACE.total_seconds(),
        "estimate": CLOCK_ESTIMATE_SECONDS,
    }
    concerned = workspace.count_each(_JOBS, list(_CONCERNED.values()))
    for number, count in zip(_CONCERNED, concerned, strict=True):
        report.invariants[number].checked = count
    report.invariants[8].checked = workspace.count(f"SELECT sum(entries) FROM {_TRAILS}")  # noqa: S608
    asked = [
        *_broken(workspace, JOB_CHECKS, source=_JOBS, job_id="j.job_id", values=values),
        *_broken(workspace, TRAIL_CHECKS, source=_TRAILS, job_id="t.job_id", values=values),
        *CHECKS,
    ]
    for check in asked:
        note(
            report.invariants[check.invariant],
            workspace,
            sql=check.sql,
            detail=check.detail.format,
            most_shown=most_shown,
            **values,
        )


def _broken(
    workspace: Workspace,
    checks: Sequence[RowCheck],
    *,
    source: str,
    job_id: str,
    values: Mapping[str, float],
) -> list[Check]:
    """Return those that find something, told by one look at the rows for all of them."""
    counts = workspace.count_each(source, [check.where for check in checks], **values)
    return [
        Check(
            invariant=check.invariant,
            sql=f"SELECT {', '.join(filter(None, [job_id, check.shown]))}"  # noqa: S608
            f" FROM {source} WHERE {check.where}",
            detail=check.detail,
        )
        for check, count in zip(checks, counts, strict=True)
        if count
    ]


def check_silence(
    report: Report, workspace: Workspace, *, now: datetime, most_shown: int
) -> None:
    """Look for due jobs that nothing happens to; ask the broker only if there are any.

    While no broker answers they wait as promised, and whether they would else be
    published can't be told.
    """
    values = {
        "now": now.timestamp(),
        "horizon": (now - age_limit()).timestamp(),
        "grace": GRACE.total_seconds(),
    }
    silent = workspace.count(f"SELECT count(*) FROM ({_SILENT}) silent", **values)  # noqa: S608
    if not silent:
        return
    invariant = report.invariants[7]
    if not process_publisher().is_in_reach(timeout_seconds=BROKER_SECONDS):
        servers = settings.KAFKA_CLIENT["bootstrap.servers"]
        invariant.unchecked.append(
            f"{silent} jobs are overdue while no Kafka broker answers at {servers}"
        )
        return
    note(
        invariant,
        workspace,
        sql=_SILENT,
        detail="is scheduled and has been ready for {0:.1f} s".format,
        most_shown=most_shown,
        **values,
    )


def note(
    invariant: Invariant,
    workspace: Workspace,
    *,
    sql: str,
    detail: Callable[..., str],
    most_shown: int,
    **values: object,
) -> None:
    """Add what a query finds to the invariant: the first few, and the count of all."""
    rows = workspace.find(sql, most=most_shown, **values)
    for row in rows[: most_shown - len(invariant.violations)]:
        invariant.violations.append(
            Violation(job_id=row.job_id, detail=detail(*row.values))
        )
    invariant.violation_count += rows[0].total if rows else 0


# Each would change nothing, or is taken back. PostgreSQL's trigger fires without a row.
_FORBIDDEN = {
    "UPDATE": "UPDATE {0} SET {1} = {1} WHERE {1} = (SELECT max({1}) FROM {0})",
    "DELETE": "DELETE FROM {0} WHERE {1} = (SELECT max({1}) FROM {0})",
}


def check_audit_is_guarded(report: Report) -> None:
    """Try to change and to delete an audit entry and a seal; take back what worked."""
    invariant = report.invariants[9]
    for (model, name), verb in product(_GUARDED.items(), _FORBIDDEN):
        try:
            is_refused = _is_refused(verb, model)
        except OperationalError as error:
            invariant.unchecked.append(f"{verb} of {name} could not be tried: {error}")
            continue
        invariant.checked += 1
        if not is_refused:
            invariant.violation_count += 1
            invariant.violations.append(
                Violation(job_id=None, detail=f"the database allows {verb} of {name}")
            )


def _is_refused(verb: str, model: type[Model]) -> bool:
    """Tell whether the database refuses the statement; its effect is undone."""
    table = model._meta.db_table
    # SQLite's triggers fire for rows only.
    if connection.vendor == "sqlite" and not model._default_manager.exists():
        return _has_sqlite_trigger(verb, table)
    try:
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute(_FORBIDDEN[verb].format(table, model._meta.pk.column))
            transaction.set_rollback(True)
    except OperationalError:
        raise
    except DatabaseError:
        return True
    return False


def _has_sqlite_trigger(verb: str, table: str) -> bool:
    """Tell whether the schema has a trigger against the verb."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'trigger'"
            " AND tbl_name = %s AND sql LIKE %s)",
            [table, f"%BEFORE {verb}%RAISE(ABORT%"],
        )
        return bool(cursor.fetchone()[0])
