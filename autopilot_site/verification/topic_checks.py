"""The invariants that need the topic: what stands there against what the jobs say."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.conf import settings

from autopilot_site.verification.database_checks import CLOCK_ESTIMATE_SECONDS, note
from autopilot_site.verification.report import Invariant, Report, Violation
from autopilot_site.verification.workspace import Workspace
from scheduling.adapters.topic_reader import Span, TopicReader, TopicRecord
from scheduling.conf import scheduler_settings
from scheduling.domain.lifecycle import TransitionStatus
from scheduling.messages import write_phase_transition
from scheduling.models import ScheduledTransition

_BATCH = 1_000
# Between a job's creation, as its `created_at` tells it, and the commit after which the
# engine can know of it; longer for one made after its instant, by a run of recovery.
UNKNOWN_SECONDS = 1.0
UNKNOWN_SECONDS_IF_LATE = 5.0


def read_records(
    reader: TopicReader, workspace: Workspace, *, since: datetime | None
) -> dict[int, Span]:
    """Read the topic into the workspace; return what was read of each partition.

    Raises:
        ServiceUnavailableError: It can't be read, or not to its end.
    """
    spans = reader.spans()
    starts = {number: span.low for number, span in spans.items()}
    if since is not None:
        # A record is older than its job's completion by up to an attempt's timeout.
        attempt = scheduler_settings().period("job_timeout") + timedelta(seconds=30)
        starts = reader.offsets_at(since - attempt, spans)
    workspace.make_record_table()
    batch = []
    for record in reader.read(starts, {n: span.end for n, span in spans.items()}):
        batch.append(_row(record))
        if len(batch) == _BATCH:
            workspace.add_records(batch)
            batch.clear()
    if batch:
        workspace.add_records(batch)
    workspace.index_records()
    workspace.make_body_table(_bodies(since))
    return {
        number: Span(min(starts[number], span.end), span.end)
        for number, span in spans.items()
    }


def _digest(key: bytes, value: bytes) -> str:
    """Return what two records have in common only if they are equal."""
    return hashlib.sha256(key + b"\0" + value).hexdigest()


def _bodies(since: datetime | None) -> Iterator[tuple[str, str, str]]:
    """Yield job id, event and digest of what each completed row would publish."""
    rows = ScheduledTransition.objects.filter(status=TransitionStatus.COMPLETED)
    if since is not None:
        rows = rows.filter(completed_at__gte=since)
    for job in rows.order_by().iterator(chunk_size=_BATCH):
        digest = _digest(job.key.encode(), write_phase_transition(job))
        yield job.job_id, job.event_id.hex, digest


def _row(record: TopicRecord) -> tuple[object, ...]:
    """Return what the checks need of a record."""
    digest = _digest(record.key, record.value)
    return (
        record.job_id and record.job_id.replace("\0", ""),
        record.event_id.hex if record.event_id else None,
        record.key.decode(errors="replace").replace("\0", ""),
        record.partition,
        record.offset,
        record.timestamp_ms / 1000,
        digest,
    )


def check_topic(
    report: Report,
    workspace: Workspace,
    *,
    spans: Mapping[int, Span],
    ends_before: Mapping[int, int],
    since: datetime | None,
    most_shown: int,
) -> None:
    """Compare the records read with the jobs of the workspace.

    Args:
        spans: What was read, up to an instant after the jobs' snapshot.
        ends_before: Where the partitions ended before the snapshot: a record from there
            on may belong to a job that was made after it.
    """
    since_seconds = since.timestamp() if since else 0.0
    workspace.add_spans(
        [
            (number, span.low, span.end, ends_before.get(number, 0))
            for number, span in spans.items()
        ]
    )
    _check_completed(report.invariants[4], workspace, since_seconds, most_shown)
    _check_ghosts(report.invariants[5], workspace, since_seconds, most_shown)
    _check_order(report.invariants[5], workspace, since_seconds, most_shown)
    note(
        report.invariants[1],
        workspace,
        sql="""SELECT j.job_id, (j.due_at - r.at) * 1000 FROM verify_record r
            JOIN verify_job j ON j.job_id = r.job_id
            WHERE j.forced_at IS NULL AND r.at < j.due_at - %(estimate)s""",
        detail="stands on the topic since {0:.0f} ms before its due instant".format,
        most_shown=most_shown,
        estimate=CLOCK_ESTIMATE_SECONDS,
    )
    note(
        report.invariants[6],
        workspace,
        sql="""SELECT j.job_id, e.part, e.place FROM verify_job j
            JOIN verify_event e ON e.event_id = j.event_id
            WHERE j.status = 'cancelled'""",
        detail="is cancelled, but stands on the topic at ({0}, {1})".format,
        most_shown=most_shown,
    )


# Retention deletes the oldest records, and what is gone can't be judged. The embedded
# broker forgets everything when it stops: what is older than all it holds was there in
# an earlier life. A real cluster that lost the end of the topic is not excused.
_IS_GONE = """
    (s.low > j.topic_offset OR %(is_embedded)s = 1
        AND (s.oldest IS NULL OR j.completed_at < s.oldest - 0.05))
"""
_COMPLETED = """
    FROM verify_job j LEFT JOIN verify_span s ON s.part = j.topic_partition
    WHERE j.status = 'completed' AND j.topic_offset IS NOT NULL
    AND j.completed_at >= %(since)s
"""


def _check_completed(
    invariant: Invariant,
    workspace: Workspace,
    since: float,
    most_shown: int,
) -> None:
    """Find each completed job's event on the topic, at its position, with equal repeats."""
    values = {"since": since, "is_embedded": int(settings.KAFKA_IS_EMBEDDED)}
    total = workspace.count(f"SELECT count(*) {_COMPLETED}", **values)
    judged = f"AND NOT coalesce({_IS_GONE}, %(is_embedded)s = 1 AND s.part IS NULL)"
    invariant.checked = workspace.count(f"SELECT count(*) {_COMPLETED} {judged}", **values)
    invariant.skipped = total - invariant.checked
    note(
        invariant,
        workspace,
        sql=f"""SELECT j.job_id, j.topic_partition, j.topic_offset {_COMPLETED} {judged}
            AND NOT EXISTS (SELECT 1 FROM verify_event e WHERE e.event_id = j.event_id)""",  # noqa: S608
        detail="is completed at ({0}, {1}), but its event is not on the topic".format,
        most_shown=most_shown,
        **values,
    )
    note(
        invariant,
        workspace,
        sql=f"""SELECT j.job_id, j.topic_partition, j.topic_offset {_COMPLETED} {judged}
            AND EXISTS (SELECT 1 FROM verify_event e WHERE e.event_id = j.event_id)
            AND NOT EXISTS (SELECT 1 FROM verify_record r WHERE r.event_id = j.event_id
                AND r.part = j.topic_partition AND r.place = j.topic_offset)""",  # noqa: S608
        detail="says ({0}, {1}), where another record stands than its own".format,
        most_shown=most_shown,
        **values,
    )
    note(
        invariant,
        workspace,
        sql="""SELECT min(j.job_id), min(repeated.records) FROM (
                SELECT event_id, count(*) AS records FROM verify_record
                WHERE event_id IS NOT NULL
                GROUP BY event_id HAVING count(DISTINCT digest) > 1) repeated
            JOIN verify_job j ON j.event_id = repeated.event_id
            GROUP BY repeated.event_id""",
        detail="has {0} records, and they are not equal".format,
        most_shown=most_shown,
    )
    note(
        invariant,
        workspace,
        sql="""SELECT b.job_id, min(r.place) FROM verify_body b
            JOIN verify_record r ON r.event_id = b.event_id
            GROUP BY b.job_id HAVING min(r.digest) <> min(b.digest)
                AND count(DISTINCT r.digest) = 1""",
        detail="is not what its record says, at offset {0}".format,
        most_shown=most_shown,
    )


def _check_ghosts(
    invariant: Invariant, workspace: Workspace, since: float, most_shown: int
) -> None:
    """Find each of our records' job, and that it may have been published."""
    ours = """FROM verify_record r JOIN verify_span s ON s.part = r.part
        AND r.place < s.ended_before WHERE r.job_id IS NOT NULL AND r.at >= %(since)s"""
    invariant.checked = workspace.count(f"SELECT count(*) {ours}", since=since)
    note(
        invariant,
        workspace,
        sql=f"""SELECT r.job_id, r.part, r.place {ours}
            AND NOT EXISTS (
                SELECT 1 FROM scheduling_scheduledtransition t WHERE t.job_id = r.job_id)
            AND NOT EXISTS (SELECT 1 FROM scheduling_auditentry a
                WHERE a.job_id = r.job_id AND a.action = 'transition.archived')""",  # noqa: S608
        detail="stands on the topic at ({0}, {1}), but there is no such job".format,
        most_shown=most_shown,
        since=since,
    )
    note(
        invariant,
        workspace,
        sql=f"""SELECT r.job_id, r.part, r.place, j.status, j.key
            FROM ({"SELECT r.* " + ours}) r JOIN verify_job j ON j.job_id = r.job_id
            WHERE r.event_id IS NULL OR r.event_id <> j.event_id OR r.key <> j.key
            OR j.status = 'expired'
            OR j.status = 'scheduled' AND j.unproven_since IS NULL""",  # noqa: S608
        detail=(
            "stands at ({0}, {1}), but it is {2} with key {3}: another event or key, or"
            " it was never published"
        ).format,
        most_shown=most_shown,
        since=since,
    )


@dataclass(slots=True)
class _Published:
    """The latest-due records of one key so far, as far as they still matter.

    front: claim instant, due instant and state, and job id; of two, the one claimed
        and due later says all that the other does, so that few remain.
    """

    key: str = ""
    front: list[tuple[float, tuple[float, str], str]] = field(default_factory=list)

    def overtaker(self, *, due: tuple[float, str], known_at: float) -> str | None:
        """Return a job that went first although it was due later and this one known."""
        for claimed_at, other_due, job_id in self.front:
            if other_due > due and claimed_at >= known_at:
                return job_id
        return None

    def add(self, *, claimed_at: float, due: tuple[float, str], job_id: str) -> None:
        """Take the next record of the key."""
        if any(at >= claimed_at and other >= due for at, other, _ in self.front):
            return
        self.front = [
            item for item in self.front if not (item[0] <= claimed_at and item[1] <= due)
        ]
        self.front.append((claimed_at, due, job_id))


def _check_order(
    invariant: Invariant, workspace: Workspace, since: float, most_shown: int
) -> None:
    """See that each key's records stand in the order of their due instants.

    Exempt are demanded jobs, and one that was made when the later-due one was on its
    way already. Judged are the first records of completed jobs; one whose first record
    retention has deleted would be judged by a repeat, and is left out.
    """
    rows = workspace.stream(
        """SELECT j.key, j.job_id, j.due_at, j.state, j.created_at, j.started_at, e.at
        FROM verify_event e JOIN verify_job j ON j.event_id = e.event_id
            AND j.status = 'completed'
        JOIN verify_span s ON s.part = e.part
        WHERE j.forced_at IS NULL AND j.completed_at >= %(since)s
            AND j.topic_partition = e.part AND j.topic_offset >= s.low
            AND j.topic_offset < s.ends
        ORDER BY j.key, e.part, e.place""",
        since=since,
    )
    published = _Published()
    for key, job_id, due_at, state, created_at, started_at, at in rows:
        if key != published.key:
            published = _Published(key=key)
        due = (due_at, state)
        is_late = created_at > due_at
        unknown = UNKNOWN_SECONDS_IF_LATE if is_late else UNKNOWN_SECONDS
        other = published.overtaker(due=due, known_at=created_at + unknown)
        if other is not None:
            invariant.violation_count += 1
            if len(invariant.violations) < most_shown:
                detail = f"stands on the topic behind {other}, which is due later"
                invariant.violations.append(Violation(job_id=job_id, detail=detail))
        # A job that was taken over was claimed once more after its record was written.
        claimed_at = min(started_at if started_at is not None else at, at)
        published.add(claimed_at=claimed_at, due=due, job_id=job_id)
