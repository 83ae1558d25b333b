"""Checks the product's promises against the database and, if asked, the Kafka topic.

What holds when `verify` says so, by invariant. A job is looked at as its row, or as
clean-up left it whole in the audit.

1.  No early fire. A completed job was claimed, and acknowledged, at or after its due
    instant, unless an operator demanded it (run-now, retry), which the audit must know.
    With the topic: no record is older than its job's due instant. 50 ms are allowed
    where the instant is a record's timestamp, which is an estimate of the database's.
2.  At most one fire per job. A completed job has exactly one completion in the audit,
    any other none; jobs share an event only along audited retries, and at most one of
    them is completed.
3.  Status and position are one fact. Completed if and only if partition, offset and
    instant of completion are there; running if and only if claimed; final if and only if
    finalized. Two jobs completed within a second stand at two positions (farther apart,
    a cluster made anew may have counted from 0 again; the topic decides).
4.  (topic) Completed means on the topic. Each completed job's event is there, at its
    position, and its repeats are equal to the byte. What retention has deleted, and on
    the embedded broker what an earlier life of it held, is counted as skipped.
5.  (topic) Nothing else is on the topic. Each record with our `job-id` header has its
    job, with that event and key, and one that may have been published; per key the first
    records of the completed jobs stand in the order of due instants, END before START.
    Exempt: demanded jobs, and one made when the later-due one was claimed already.
6.  Cancelled or replaced never fires. No claim and no completion after a cancellation,
    no completion of a cancelled job; with the topic: no record of its event.
7.  Nothing due stays silent. No job within the age limit is ready for more than 30 s
    unclaimed (unless an earlier one of its key is still tried), no lease has ended more
    than 30 s ago, and nothing is older than the age limit by minutes without being
    expired; no answer to a command and no dead letter is owed for more than a minute.
    While no broker answers, what is overdue counts as "could not be checked".
8.  Every change has its audit entry. Each job's entries begin with its creation, each
    starts from the status in which the one before left it, by an allowed change, and the
    last one ends with the row's status; attempts, due instant and event are those the
    audit tells; each entry has actor and role, a person's override a reason; no row is
    without entries, no entries are without a row or archive. Each record that was set
    aside has its dead letter.
9.  The audit is whole. The database refuses UPDATE and DELETE of it and of its seals
    (both are tried, and undone where they worked). Each seal is chained to the one before
    it, no seal is missing, and the entries that it covers hash to what it says: none was
    changed, taken away, or slipped in. While a process that seals is at work, nothing
    stays unsealed for more than a minute; what is not sealed yet is counted as skipped.
10. Stale hands are powerless. One live job per transition; no claim of a job that was
    not scheduled, and nothing done to a job by a hand that held it no more.

With `since`, 1 to 3, 6, 8 and 10 look at the jobs that changed since then, with their
whole history, and at all live ones; 4 and 5 at what was completed or written since then;
9 at the seals made since then.
A row changed behind the product's back without its `updated_at` is found by a run
without `since` only.
"""

from contextlib import ExitStack
from datetime import datetime

from django.conf import settings
from django.db import Error as DatabaseError

from autopilot_site.verification.database_checks import (
    check_audit_is_guarded,
    check_database,
    check_silence,
)
from autopilot_site.verification.record_checks import check_records
from autopilot_site.verification.report import (
    MOST_SHOWN,
    ONLY_ON_THE_TOPIC,
    Invariant,
    Report,
    Violation,
)
from autopilot_site.verification.seal_checks import check_seals
from autopilot_site.verification.topic_checks import check_topic, read_records
from autopilot_site.verification.workspace import Workspace
from scheduling.adapters.topic_reader import TopicReader
from scheduling.domain.errors import ServiceUnavailableError

# What the topic adds to: where it can't be read, these were not checked in full.
_WITH_TOPIC = (1, *sorted(ONLY_ON_THE_TOPIC), 6)


def verify(
    *,
    now: datetime,
    with_topic: bool,
    since: datetime | None = None,
    most_shown: int = MOST_SHOWN,
) -> Report:
    """Check all invariants and report; what can't be checked is part of the report.

    Args:
        now: The database's clock.
        most_shown: How many violations of each invariant are listed; all are counted.
    """
    report = Report(with_topic=with_topic)
    workspace = Workspace(since=since)
    try:
        with workspace.open(), ExitStack() as stack:
            reader, ends_before = _open_topic(report, stack) if with_topic else (None, {})
            with workspace.snapshot():
                check_database(report, workspace, now=now, most_shown=most_shown)
            check_silence(report, workspace, now=now, most_shown=most_shown)
            check_records(report, now=now, most_shown=most_shown)
            check_audit_is_guarded(report)
            check_seals(report.invariants[9], now=now, since=since, most_shown=most_shown)
            if reader is not None:
                _check_topic(
                    report,
                    workspace,
                    reader,
                    ends_before=ends_before,
                    since=since,
                    most_shown=most_shown,
                )
    except DatabaseError as error:
        reason = f"the database can't be used: {str(error).strip()}"
        for invariant in report.invariants.values():
            invariant.unchecked.append(reason)
    return report


def _open_topic(
    report: Report, stack: ExitStack
) -> tuple[TopicReader | None, dict[int, int]]:
    """Return a reader and where the partitions end now, or note why there is none."""
    reader = stack.enter_context(TopicReader(settings.KAFKA_CLIENT))
    try:
        return reader, {number: span.end for number, span in reader.spans().items()}
    except ServiceUnavailableError as error:
        _note_unreadable(report, error)
        return None, {}


def _check_topic(
    report: Report,
    workspace: Workspace,
    reader: TopicReader,
    *,
    ends_before: dict[int, int],
    since: datetime | None,
    most_shown: int,
) -> None:
    """Read the topic and compare, or note why it can't be done."""
    try:
        spans = read_records(reader, workspace, since=since)
    except ServiceUnavailableError as error:
        _note_unreadable(report, error)
        return
    check_topic(
        report,
        workspace,
        spans=spans,
        ends_before=ends_before,
        since=since,
        most_shown=most_shown,
    )


def _note_unreadable(report: Report, error: ServiceUnavailableError) -> None:
    """Note what an unreadable topic leaves unchecked."""
    for number in _WITH_TOPIC:
        report.invariants[number].unchecked.append(error.detail)


__all__ = ["Invariant", "Report", "Violation", "verify"]
