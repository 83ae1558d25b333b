"""Bugs that somebody might write one day, and the tests that must not let them pass.

Each replaces one piece of text, which stands in its file exactly once.
"""

from dataclasses import dataclass

ANY_LIFECYCLE = "tests/scheduling/test_any_lifecycle.py"
PUBLISH = "tests/scheduling/services/test_publish.py"
CLAIMS = "scheduling/adapters/claims.py"
CLAIM_ENDS = "scheduling/adapters/claim_ends.py"
SERVICES = "scheduling/services/"
TESTS = "tests/scheduling/services/"


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One bug.

    before, after: the text that stands in `file`, and what is written in its place.
    tests: files, or single tests, of which one must fail.
    """

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]


MUTANTS = (
    # --- What people ask for ----------------------------------------------------------
    Mutant(
        name="cancelling asks nobody's role",
        file=f"{SERVICES}cancel.py",
        before="    authorize(actor, Operation.CANCEL)\n",
        after="",
        tests=(f"{TESTS}test_cancel.py",),
    ),
    Mutant(
        name="whatever its status, a job is cancelled",
        file=f"{SERVICES}cancel.py",
        before="    if not may_change(job.current_status, TransitionStatus.CANCELLED)"
        " or job.replaced_by:",
        after="    if job.replaced_by:",
        tests=(f"{TESTS}test_cancel.py",),
    ),
    Mutant(
        name="a cancelled job is run again",
        file=f"{SERVICES}run_now.py",
        before="frozenset({TransitionStatus.SCHEDULED, TransitionStatus.EXPIRED})",
        after="frozenset({TransitionStatus.SCHEDULED, TransitionStatus.EXPIRED,"
        " TransitionStatus.CANCELLED})",
        tests=(f"{TESTS}test_run_now.py",),
    ),
    Mutant(
        name="a retry has an event id of its own",
        file=f"{SERVICES}retry.py",
        before="    new.event_id, new.event_at = job.event_id, job.event_at\n",
        after="    new.event_at = job.event_at\n",
        tests=(f"{TESTS}test_retry.py",),
    ),
    Mutant(
        name="an update leaves the old job live",
        file=f"{SERVICES}cancel.py",
        before="    job.status = TransitionStatus.CANCELLED\n",
        after="    if not replaced_by:\n        job.status = TransitionStatus.CANCELLED\n",
        tests=(f"{TESTS}test_update.py",),
    ),
    Mutant(
        name="an outcome that became unknown since the search is taken for known",
        file=f"{SERVICES}unproven.py",
        before="    return job.unproven_since is None or job.unproven_since == searched\n",
        after="    return True\n",
        tests=(f"{TESTS}test_cancel.py", f"{TESTS}test_unproven.py", PUBLISH),
    ),
    Mutant(
        name="an override leaves no audit entry",
        file=f"{SERVICES}run_now.py",
        before='    record(\n        "transition.run_now",\n        job,',
        after='    (lambda *_, **__: None)(\n        "transition.run_now",\n        job,',
        tests=(f"{TESTS}test_run_now.py",),
    ),
    # --- Claims -----------------------------------------------------------------------
    Mutant(
        name="a job is claimed before it is due",
        file=CLAIMS,
        before="t.claim_token IS NULL AND t.ready_at <= {{now}}\n",
        after="t.claim_token IS NULL\n",
        tests=(PUBLISH,),
    ),
    Mutant(
        name="a job overtakes an earlier one of its key that runs",
        file=CLAIMS,
        before="SELECT 1 FROM {{running}} e WHERE e.key = t.key AND",
        after="SELECT 1 FROM {{running}} e WHERE FALSE AND",
        tests=(PUBLISH,),
    ),
    Mutant(
        name="a job overtakes an earlier one of its key that is tried again",
        file=CLAIMS,
        before="WHERE e.key = t.key AND e.status = 'scheduled' AND e.ready_at > e.due_at",
        after="WHERE FALSE AND e.status = 'scheduled' AND e.ready_at > e.due_at",
        tests=(PUBLISH,),
    ),
    Mutant(
        name="the limit of running jobs holds for each claim by itself",
        file=CLAIMS,
        before="%(limit)s, %(most_running)s - (\n"
        "            SELECT count(*) FROM {TABLE} WHERE status = 'running'))))",
        after="%(limit)s, %(most_running)s)))",
        tests=(PUBLISH,),
    ),
    Mutant(
        name="a claim leaves no audit entry",
        file=CLAIMS,
        before="    AuditEntry.objects.bulk_create(\n        engine_entry(\n",
        after="    list(\n        engine_entry(\n",
        tests=(PUBLISH,),
    ),
    Mutant(
        name="a completion leaves no audit entry",
        file=CLAIMS,
        before="    AuditEntry.objects.bulk_create(entries)\n",
        after="",
        tests=(PUBLISH,),
    ),
    Mutant(
        name="a stale hand completes what it holds no more",
        file=CLAIMS,
        before="            id=ack.job.id, claim_token=token\n",
        after="            id=ack.job.id\n",
        tests=(f"{PUBLISH}::TestStaleHand", ANY_LIFECYCLE),
    ),
    Mutant(
        name="a lease never ends",
        file=CLAIM_ENDS,
        before="        if row.lease_until <= now:\n",
        after="        if row.lease_until is None:\n",
        tests=(ANY_LIFECYCLE,),
    ),
    Mutant(
        name="jobs are taken over from the living",
        file=CLAIM_ENDS,
        before="        elif Owner.parse(row.claimed_by).is_dead("
        "claimed_at=row.started_at):\n",
        after="        else:\n",
        tests=(PUBLISH,),
    ),
    Mutant(
        name="what a dead worker held counts as never sent",
        file=CLAIM_ENDS,
        before="        for row in rows:\n            _note_unknown_outcome(row)\n",
        after="        for row in rows:\n",
        tests=(ANY_LIFECYCLE,),
    ),
    Mutant(
        name="waiting for the broker uses up an attempt",
        file=CLAIM_ENDS,
        before="            row.attempts -= 1\n            row.next_attempt_at = now +",
        after="            row.next_attempt_at = now +",
        tests=(PUBLISH,),
    ),
    Mutant(
        name="a job is tried once more than it may be",
        file=CLAIM_ENDS,
        before="            if row.attempts >= row.max_attempts:\n",
        after="            if row.attempts > row.max_attempts:\n",
        tests=(PUBLISH,),
    ),
    # --- Publishing -------------------------------------------------------------------
    Mutant(
        name="a job is completed before the broker acknowledged it",
        file=f"{SERVICES}batch.py",
        before="            if outcome.verdict is Verdict.ACKNOWLEDGED:\n",
        after="            if outcome.verdict is not Verdict.REFUSED:\n",
        tests=(PUBLISH, ANY_LIFECYCLE),
    ),
    Mutant(
        name="a record is repeated without a look on the topic",
        file=f"{SERVICES}batch.py",
        before="        wanted = {job.event_id: job.unproven_since for job in jobs"
        " if job.unproven_since}\n",
        after="        wanted = {}\n",
        tests=(PUBLISH,),
    ),
    Mutant(
        name="after a pause a batch is published whoever holds it now",
        file=f"{SERVICES}batch.py",
        before="        return [job for job in jobs if job.id in mine]\n",
        after="        return list(jobs)\n",
        tests=(ANY_LIFECYCLE,),
    ),
    Mutant(
        name="a stepped clock is trusted",
        file=f"{SERVICES}publish.py",
        before="            if not process_guard.may_fire:\n                return False\n",
        after="",
        tests=("tests/faults/test_clock_steps.py",),
    ),
    # --- Chores -----------------------------------------------------------------------
    Mutant(
        name="clean-up takes failed jobs that nobody dealt with",
        file=f"{SERVICES}clean_up.py",
        before='        & ~Q(replaced_by="")\n',
        after="",
        tests=(f"{TESTS}test_clean_up.py",),
    ),
    Mutant(
        name="a seal is not chained to the one before it",
        file=f"{SERVICES}seals.py",
        before="            previous=head.digest if head else GENESIS,\n",
        after="            previous=GENESIS,\n",
        tests=(f"{TESTS}test_seals.py",),
    ),
    Mutant(
        name="a seal does not cover what its entries say",
        file=f"{SERVICES}seals.py",
        before='        digest.update(b"%d:%b" % (len(content), content))\n',
        after='        digest.update(b"%d" % len(content))\n',
        tests=(f"{TESTS}test_seals.py",),
    ),
    # --- Upstream ---------------------------------------------------------------------
    Mutant(
        name="an empty list is believed against its own total",
        file="scheduling/adapters/challenge_service/listing.py",
        before="        is_empty = total == 0 and last <= 1 and count == 0\n",
        after="        is_empty = count == 0\n",
        tests=("tests/scheduling/adapters/test_challenge_service.py",),
    ),
    Mutant(
        name="recovery cancels what is not listed and can't be read",
        file="recovery/services/reconcile.py",
        before="                self._leave(candidate, reading)\n",
        after="                from scheduling.domain.actors import RECOVERY\n"
        "                from scheduling.models import ScheduledTransition\n"
        "                from scheduling.services.cancel import cancel_scheduled\n"
        "                cancel_scheduled(\n"
        "                    ScheduledTransition.objects.filter(\n"
        "                        challenge_id=candidate.challenge_id\n"
        "                    ),\n"
        '                    actor=RECOVERY, reason="gone", now=database_now(),\n'
        "                )\n"
        "                self._leave(candidate, reading)\n",
        tests=("tests/recovery/services/test_execute.py",),
    ),
    Mutant(
        name="what a person cancelled is made again",
        file="scheduling/domain/plan.py",
        before="        if is_cancelled and (not job.is_overridden or job.replaced_by):\n",
        after="        if is_cancelled:\n",
        tests=("tests/recovery/services/test_execute.py",),
    ),
    # --- The consumer -----------------------------------------------------------------
    Mutant(
        name="the consumer commits offsets before the effect",
        file="scheduling/consumers/loop.py",
        before="        if records and self._persist(consumer, records):\n"
        "            self.handled += len(records)\n"
        "            self._sender.wake()\n"
        "            if is_same:\n"
        "                self._commit(consumer, records)\n",
        after="        if records and is_same:\n"
        "            self._commit(consumer, records)\n"
        "        if records and self._persist(consumer, records):\n"
        "            self.handled += len(records)\n"
        "            self._sender.wake()\n",
        tests=("tests/faults/test_consumer_faults.py::TestKilledConsumer",),
    ),
    Mutant(
        name="a record that comes again is handled again",
        file=f"{SERVICES}incoming.py",
        before="            if record.position in known and take is None:\n",
        after="            if record.position in known and take is not None:\n",
        tests=(f"{TESTS}test_incoming.py",),
    ),
    Mutant(
        name="an event that comes again elsewhere is handled again",
        file=f"{SERVICES}incoming.py",
        before="            if record.event_id and record.event_id in events:\n",
        after="            if record.event_id and record.event_id in events - events:\n",
        tests=(f"{TESTS}test_incoming.py",),
    ),
)
