"""The invariants that the database alone can answer for."""

from collections.abc import Callable
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
class Check:
    """One question: its SQL brings what breaks the invariant, job id first.

    detail: what is wrong, with the further columns in order.
    """

    invariant: int
    sql: str
    detail: str


CHECKS: tuple[Check, ...] = (
    Check(
        invariant=1,
        sql="""SELECT job_id, (due_at - started_at) * 1000 FROM verify_job
            WHERE status = 'completed' AND forced_at IS NULL AND started_at < due_at""",
        detail="was claimed {0:.3f} ms before its due instant",
    ),
    Check(
        invariant=1,
        sql="""SELECT job_id, (due_at - completed_at) * 1000 FROM verify_job
            WHERE status = 'completed' AND forced_at IS NULL AND started_at >= due_at
            AND completed_at < due_at - %(estimate)s""",
        detail="was completed {0:.3f} ms before its due instant",
    ),
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
        sql="""SELECT j.job_id, coalesce(t.completions, 0) FROM verify_job j
            LEFT JOIN verify_trail t ON t.job_id = j.job_id
            WHERE j.status = 'completed' AND coalesce(t.completions, 0) <> 1""",
        detail="is completed, with {0} completions in the audit instead of 1",
    ),
    Check(
        invariant=2,
        sql="""SELECT j.job_id, j.status, t.completions FROM verify_job j
            JOIN verify_trail t ON t.job_id = j.job_id
            WHERE j.status <> 'completed' AND t.completions > 0""",
        detail="is {0}, but the audit has {1} completions",
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
        sql="""SELECT job_id, status FROM verify_job WHERE
            CASE WHEN completed_at IS NULL THEN 0 ELSE 1 END
                <> CASE WHEN status = 'completed' THEN 1 ELSE 0 END
            OR CASE WHEN topic_partition IS NULL OR topic_offset IS NULL THEN 0 ELSE 1 END
                <> CASE WHEN status = 'completed' THEN 1 ELSE 0 END""",
        detail="is {0}, which its position on the topic or its completion contradicts",
    ),
    Check(
        invariant=3,
        sql="""SELECT job_id, status FROM verify_job WHERE
            CASE WHEN claim_token IS NULL OR lease_until IS NULL OR started_at IS NULL
                THEN 0 ELSE 1 END <> 1 AND status = 'running'
            OR (claim_token IS NOT NULL OR lease_until IS NOT NULL)
                AND status <> 'running'
            OR CASE WHEN finalized_at IS NULL THEN 1 ELSE 0 END
                <> CASE WHEN status IN ('scheduled', 'running') THEN 1 ELSE 0 END""",
        detail="is {0}, which its claim or its final instant contradicts",
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
        invariant=6,
        sql="""SELECT job_id FROM verify_trail WHERE fired_id > cancelled_id""",
        detail="was claimed or completed after it had been cancelled",
    ),
    Check(
        invariant=6,
        sql="""SELECT j.job_id FROM verify_job j JOIN verify_trail t ON t.job_id = j.job_id
            WHERE j.status = 'cancelled' AND t.completions > 0
            AND NOT t.fired_id > coalesce(t.cancelled_id, t.fired_id)""",
        detail="is cancelled, but the audit has its completion",
    ),
    Check(
        invariant=7,
        sql="""SELECT job_id, %(now)s - lease_until FROM verify_job
            WHERE status = 'running' AND lease_until < %(now)s - %(grace)s""",
        detail="is running, but its lease ended {0:.1f} s ago and nobody took it over",
    ),
    Check(
        invariant=7,
        sql="""SELECT job_id, (%(now)s - due_at) / 3600 FROM verify_job
            WHERE status = 'scheduled' AND forced_at IS NULL
            AND due_at < %(horizon)s - %(expiry_grace)s""",
        detail="is overdue by {0:.1f} h, beyond the age limit, and has not been expired",
    ),
    Check(
        invariant=8,
        sql="""SELECT j.job_id FROM verify_job j LEFT JOIN verify_trail t
            ON t.job_id = j.job_id WHERE t.job_id IS NULL""",
        detail="has no audit entry",
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
        invariant=8,
        sql="""SELECT job_id, first_action FROM verify_trail
            WHERE first_action <> 'transition.scheduled' OR first_old_status <> ''""",
        detail="has a history that begins with {0}",
    ),
    Check(
        invariant=8,
        sql="SELECT job_id, gap_id FROM verify_trail WHERE gap_id IS NOT NULL",
        detail="audit entry {0} starts from another status than the one before it left",
    ),
    Check(
        invariant=8,
        sql="SELECT job_id, forbidden_id FROM verify_trail WHERE forbidden_id IS NOT NULL",
        detail="audit entry {0} tells of a change that is not allowed",
    ),
    Check(
        invariant=8,
        sql="""SELECT job_id, authorless_id FROM verify_trail
            WHERE authorless_id IS NOT NULL""",
        detail="audit entry {0} names no actor or no role",
    ),
    Check(
        invariant=8,
        sql="""SELECT job_id, reasonless_id FROM verify_trail
            WHERE reasonless_id IS NOT NULL""",
        detail="audit entry {0} is a person's override without a reason",
    ),
    Check(
        invariant=8,
        sql="""SELECT j.job_id, j.status, t.last_status FROM verify_job j
            JOIN verify_trail t ON t.job_id = j.job_id WHERE j.status <> t.last_status""",
        detail="is {0}, but its audit ends with {1}",
    ),
    Check(
        invariant=8,
        sql="""SELECT j.job_id, j.attempts, t.attempts FROM verify_job j
            JOIN verify_trail t ON t.job_id = j.job_id WHERE j.attempts <> t.attempts""",
        detail="has {0} attempts, but the audit counts {1}",
    ),
    Check(
        invariant=8,
        sql="""SELECT j.job_id FROM verify_job j JOIN verify_trail t ON t.job_id = j.job_id
            WHERE abs(j.due_at - t.end_time) > 0.0005 OR j.event_id <> t.event_id""",
        detail="has another due instant or event than the audit says it was made with",
    ),
    Check(
        invariant=10,
        sql="""SELECT min(job_id), max(job_id), count(*) FROM verify_job
            WHERE status IN ('scheduled', 'running')
            GROUP BY project_id, phase_id, state HAVING count(*) > 1""",
        detail="is live beside {0} ({1} live jobs of one transition)",
    ),
    Check(
        invariant=10,
        sql="SELECT job_id, stale_id FROM verify_trail WHERE stale_id IS NOT NULL",
        detail="audit entry {0} was written by a hand that held nothing any more",
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

_COUNTS: dict[int, str] = {
    1: "SELECT count(*) FROM verify_job WHERE status = 'completed'",
    2: "SELECT count(*) FROM verify_job",
    3: "SELECT count(*) FROM verify_job",
    6: "SELECT count(*) FROM verify_job WHERE status = 'cancelled'",
    7: "SELECT count(*) FROM verify_job WHERE status IN ('scheduled', 'running')",
    8: "SELECT sum(entries) FROM verify_trail",
    10: "SELECT count(*) FROM verify_job",
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
    for number, sql in _COUNTS.items():
        report.invariants[number].checked = workspace.count(sql)
    for check in CHECKS:
        note(
            report.invariants[check.invariant],
            workspace,
            sql=check.sql,
            detail=check.detail.format,
            most_shown=most_shown,
            **values,
        )


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
