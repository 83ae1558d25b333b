"""Whatever happens to jobs, in any order: rows and audit are what a small model says.

The services and the engine's SQL run for real. The clock stands still unless a step moves
it, and the broker is a set of events, so that any run can be repeated. On SQLite only:
PostgreSQL's clock can't be set. By hand longer: LIFECYCLES=2000, which also looks for the
shortest run that fails.
"""

import logging
import os
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import time_machine
from django.db import connection, transaction
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from autopilot_site.verification import verify
from autopilot_site.verification.database_checks import check_database
from autopilot_site.verification.report import Report
from autopilot_site.verification.workspace import Workspace
from scheduling.adapters.claim_ends import give_back, renew, rescue_abandoned
from scheduling.adapters.claims import Claim, complete_and_claim
from scheduling.adapters.event_publisher import Outcome, Verdict
from scheduling.adapters.owner import Owner, host_identity
from scheduling.adapters.topic_search import FoundEvent
from scheduling.conf import scheduler_settings
from scheduling.domain.actors import Role, user_actor
from scheduling.domain.errors import (
    JobNotFoundError,
    SchedulingError,
    ServiceUnavailableError,
)
from scheduling.domain.lifecycle import TransitionStatus
from scheduling.models import AuditEntry, ScheduledTransition
from scheduling.services.batch import Batch
from scheduling.services.cancel import cancel_transition
from scheduling.services.clean_up import clean_up
from scheduling.services.expire import expire_too_old
from scheduling.services.retry import retry_transition
from scheduling.services.run_now import run_transition_now
from scheduling.services.schedule import schedule_transition
from scheduling.services.update import Update, update_transition
from tests.support.job_model import AGE_LIMIT, MOST_ATTEMPTS, MOST_RUNNING, Model
from tests.support.publisher import ScriptedPublisher

LIFECYCLES = int(os.environ.get("LIFECYCLES", "40"))
PHASES = [Phase.generate, *([Phase.shrink] if "LIFECYCLES" in os.environ else [])]
STEPS = 40
# The database's own checks cost as much as ten steps do.
CHECKED_EVERY = 10
START = datetime(2030, 1, 1, tzinfo=UTC)
OLIVIA = user_actor("olivia", role=Role.OPERATOR)
# START and END of one phase, another phase of its key, and other keys.
IDENTITIES = [
    ("1", "1", "START"),
    ("1", "1", "END"),
    ("1", "2", "END"),
    ("2", "1", "END"),
    ("3", "1", "END"),
]
DEAD = Owner(host=host_identity(), process="999999999@1", session="")
# A lease's length and more, the age limit and more, and all ages of clean-up and more.
PAUSES = [1, 1, 2, 2, 4, 4, 8, 11, 11, 11, 11, 3_700, 90_000]
# What is compared; of `forced_at` and `unproven_since`, whether there is an instant.
COLUMNS = (
    "job_id",
    "status",
    "attempts",
    "due_at",
    "ready_at",
    "event_id",
    "forced_at",
    "unproven_since",
    "replaced_by",
    "finalized_at",
    "claim_token",
    "lease_until",
)
# What becomes of a record: the verdict, and whether it stands on the topic.
ANSWERS = [
    (Verdict.ACKNOWLEDGED, True),
    (Verdict.ACKNOWLEDGED, True),
    (Verdict.REFUSED, False),
    (Verdict.NOT_SENT, False),
    (Verdict.UNKNOWN, True),
    (Verdict.UNKNOWN, False),
    (Verdict.TIMED_OUT, True),
    (Verdict.TIMED_OUT, False),
]


class FakeTopic:
    """Stands in for the search of the topic; what is there, the model of the run knows."""

    model: Model

    def find_events(self, wanted, **_):
        if not self.model.is_searchable:
            raise ServiceUnavailableError("the topic can't be read now")
        found = {}
        for event_id, since in wanted.items():
            at = self.model.topic.get(event_id)
            if at is not None:
                assert since <= at, "the search begins behind the record"
                found[event_id] = FoundEvent(0, self.place(event_id), at)
        return found

    def place(self, event_id):
        """Return the offset of an event's record."""
        return list(self.model.topic).index(event_id)


TOPIC = FakeTopic()


@dataclass
class Hand:
    """A batch in some worker's hand, which may be a stale one by now."""

    token: UUID
    jobs: list
    acknowledged: list = field(default_factory=list)


class Lifecycle(RuleBasedStateMachine):
    """The product beside its model."""

    jobs = Bundle("jobs")
    claimed = Bundle("claimed")
    published = Bundle("published")

    def __init__(self):
        super().__init__()
        # Taken back at the end: each run begins with empty tables.
        self._transaction = transaction.atomic()
        self._transaction.__enter__()
        self._travel = time_machine.travel(START, tick=False)
        self._clock = self._travel.start()
        self.model = TOPIC.model = Model(now=START)
        self._steps = 0

    @property
    def now(self):
        return self.model.now

    # --- People -----------------------------------------------------------------------
    @rule(target=jobs, identity=st.sampled_from(IDENTITIES), ahead=st.integers(1, 3))
    def schedule(self, identity, ahead):
        due = self.now + timedelta(seconds=ahead)
        error = self.model.schedule(identity, due)
        standing = self.model.live(identity)

        done = self._ask(
            error,
            lambda: schedule_transition(_phase(identity, due), actor=OLIVIA, now=self.now),
        )

        if done is None:
            return multiple()
        if standing is not None:
            assert (done.is_new, done.job.job_id) == (False, standing.job_id)
            return multiple()
        assert done.is_new
        self.model.add(done.job.job_id, done.job.event_id, identity, due)
        return done.job.job_id

    @rule(job_id=jobs)
    def cancel(self, job_id):
        self._ask(
            self._error(job_id, self.model.cancel),
            lambda: cancel_transition(
                job_id=job_id, actor=OLIVIA, reason="why", now=self.now
            ),
        )

    @rule(target=jobs, job_id=jobs, ahead=st.integers(1, 3))
    def update(self, job_id, ahead):
        due = self.now + timedelta(seconds=ahead)
        error = self._error(job_id, lambda job: self.model.update(job, due))

        new = self._ask(
            error,
            lambda: update_transition(
                job_id=job_id, update=Update(end_time=due), actor=OLIVIA, now=self.now
            ),
        )

        if new is None or new.job_id == job_id:
            assert new is None or self.model.jobs[job_id].due == due
            return multiple()
        self.model.replace(self.model.jobs[job_id], new.job_id, new.event_id, due)
        return new.job_id

    @rule(job_id=jobs)
    def run_now(self, job_id):
        self._ask(
            self._error(job_id, self.model.run_now),
            lambda: run_transition_now(
                job_id=job_id, actor=OLIVIA, reason="why", now=self.now
            ),
        )

    @rule(target=jobs, job_id=jobs)
    def retry(self, job_id):
        new = self._ask(
            self._error(job_id, self.model.retry),
            lambda: retry_transition(
                job_id=job_id, actor=OLIVIA, reason="why", now=self.now
            ),
        )

        if new is None:
            return multiple()
        self.model.succeed(self.model.jobs[job_id], new.job_id)
        return new.job_id

    def _error(self, job_id, ask):
        """Return what the model says of a job; of one that clean-up took it knows none."""
        job = self.model.jobs.get(job_id)
        return ask(job) if job else JobNotFoundError

    def _ask(self, error, act):
        """Do it; where an error is expected it must be just that one."""
        if error is None:
            return act()
        with pytest.raises(SchedulingError) as caught:
            act()
        assert type(caught.value) is error
        return None

    # --- The engine -------------------------------------------------------------------
    @rule(target=claimed, limit=st.integers(1, 4), is_patient=st.booleans())
    def claim(self, limit, is_patient):
        if is_patient:
            self._wait_for_next()
        return self._claim(limit) or multiple()

    @rule(limit=st.integers(1, 4))
    def claim_and_die(self, limit):
        self._wait_for_next()
        self._claim(limit, owner=DEAD)

    def _wait_for_next(self):
        """Sleep until something is ready, as a due-broker does."""
        instants = [job.ready for job in self.model.jobs.values() if not job.final_at]
        ahead = [at for at in instants if at > self.now]
        if ahead and len(ahead) == len(instants):
            self._wait((min(ahead) - self.now).total_seconds())

    def _claim(self, limit, *, owner=None, completing=None):
        """Claim, and complete a batch in the same transaction; return the new batch."""
        claim = Claim(
            owner=owner or Owner.current(),
            limit=limit,
            most_running=MOST_RUNNING,
            age_limit=AGE_LIMIT,
        )
        before = completing or Hand(claim.token, [])

        _, jobs = complete_and_claim(before.token, before.acknowledged, claim)

        expected = self.model.claim(claim.token, limit, is_dead=owner is DEAD)
        assert [job.job_id for job in jobs] == [job.job_id for job in expected]
        return Hand(claim.token, jobs) if jobs else None

    @rule(target=published, hand=consumes(claimed), answers=st.permutations(ANSWERS))
    def publish(self, hand, answers):
        self._publish(hand, answers)
        return hand

    def _publish(self, hand, answers):
        """Publish a batch as a lane does, and let the broker say what is given."""
        batch = Batch(hand.token, hand.jobs, held_since=-float("inf"))
        jobs = [self.model.everything[job.job_id] for job in hand.jobs]
        doubtful = [
            job
            for job, claimed in zip(jobs, hand.jobs, strict=True)
            if claimed.unproven_since
        ]
        found, missing = self.model.look_on_topic(jobs, doubtful, hand.token)
        self.model.renew(hand.token)
        said = {}

        def judge(record):
            job = self.model.jobs[record.headers["job-id"]]
            assert job.token == hand.token, "a stale hand produced a record"
            assert job.is_forced or job.due <= self.now, "a record was produced early"
            assert record.headers["event-id"] == str(job.event_id)
            verdict, is_there = said[job.job_id] = answers[len(said)]
            if is_there:
                self.model.put(job)
            place = TOPIC.place(job.event_id) if is_there else -1
            return Outcome(verdict=verdict, partition=0, offset=place, error="said so")

        batch.publish(ScriptedPublisher(judge), board=None, settings=scheduler_settings())

        assert list(said) == [job.job_id for job in missing]
        # What the broker acknowledged is as old as it seems: the clock stands still.
        hand.acknowledged = [ack._replace(age_seconds=0.0) for ack in batch.acknowledged]
        self._settle(missing, said)
        heard = {
            job.job_id for job in missing if said[job.job_id][0] is Verdict.ACKNOWLEDGED
        }
        known = {ack.job.job_id for ack in hand.acknowledged}
        assert known == heard | {job.job_id for job in found}

    def _settle(self, jobs, said):
        """Let the model take what the broker did not acknowledge."""
        for job in jobs:
            verdict, _ = said[job.job_id]
            is_doubtful = verdict in {Verdict.UNKNOWN, Verdict.TIMED_OUT}
            if verdict in {Verdict.NOT_SENT, Verdict.UNKNOWN}:
                self.model.give_back(job, is_doubtful=is_doubtful)
            elif verdict is not Verdict.ACKNOWLEDGED:
                row = ScheduledTransition.objects.get(job_id=job.job_id)
                self.model.fail(job, is_doubtful=is_doubtful, ready=row.ready_at)

    @rule(target=claimed, hand=consumes(published), limit=st.integers(0, 3))
    def complete(self, hand, limit):
        """Complete what is acknowledged, if this hand holds it still, and claim more."""
        self._complete_in_model(hand)
        if limit:
            return self._claim(limit, completing=hand) or multiple()
        complete_and_claim(hand.token, hand.acknowledged, None)
        return multiple()

    def _complete_in_model(self, hand):
        held = {job.job_id: job for job in self.model.held(hand.token)}
        for ack in hand.acknowledged:
            if ack.job.job_id in held:
                self.model.complete(held[ack.job.job_id])

    @rule(hand=consumes(published))
    def complete_too_late(self, hand):
        """Wake up after others have taken over what this hand had."""
        self._wait(11)
        self._rescue()
        assert self.model.held(hand.token) == []
        complete_and_claim(hand.token, hand.acknowledged, None)

    @rule(target=published, hand=consumes(claimed), answers=st.permutations(ANSWERS))
    def publish_too_late(self, hand, answers):
        self._wait(11)
        self._rescue()
        self._publish(hand, answers)
        return hand

    @rule(hand=consumes(claimed))
    def let_go(self, hand):
        for job in self.model.held(hand.token):
            self.model.give_back(job)

        give_back(hand.token, hand.jobs, error="a stop", unproven=False)

    @rule(hand=claimed)
    def renew(self, hand):
        expected = {job.job_id for job in self.model.renew(hand.token)}

        held = renew(hand.token)

        rows = ScheduledTransition.objects.filter(id__in=held)
        assert set(rows.values_list("job_id", flat=True)) == expected

    # --- Time, and what comes with it -------------------------------------------------
    @rule(seconds=st.sampled_from(PAUSES))
    def wait(self, seconds):
        self._wait(seconds)

    def _wait(self, seconds):
        self._clock.shift(timedelta(seconds=seconds))
        self.model.now += timedelta(seconds=seconds)

    @rule()
    def rescue(self):
        self._rescue()

    def _rescue(self):
        assert rescue_abandoned() == self.model.rescue()

    @rule(is_expiry=st.booleans())
    def do_a_chore(self, is_expiry):
        if is_expiry:
            self._expire()
            return
        expected = self.model.clean_up()
        assert clean_up(now=self.now) == expected

    def _expire(self):
        expected = self.model.expire()
        assert expire_too_old(now=self.now) == expected

    @rule(is_searchable=st.booleans())
    def let_the_topic_come_or_go(self, is_searchable):
        self.model.is_searchable = is_searchable

    # --- What always holds ------------------------------------------------------------
    @invariant()
    def rows_are_as_the_model_has_them(self):
        rows = {row["job_id"]: row for row in ScheduledTransition.objects.values(*COLUMNS)}
        assert rows.keys() == self.model.jobs.keys()
        for job_id, job in self.model.jobs.items():
            row = rows[job_id]
            row["forced_at"] = row["forced_at"] is not None
            row["unproven_since"] = row["unproven_since"] is not None
            assert row == dict(zip(COLUMNS, _columns(job), strict=True))

    @invariant()
    def a_transition_has_one_live_job(self):
        live = ScheduledTransition.objects.live().order_by()
        identities = list(live.values_list("project_id", "phase_id", "state"))
        assert len(identities) == len(set(identities))

    @invariant()
    def the_audit_tells_all_of_it_and_no_more(self):
        trails = defaultdict(list)
        statuses = defaultdict(str)
        entries = AuditEntry.objects.order_by("id").values_list(
            "job_id", "action", "old_status", "new_status"
        )
        for job_id, action, old_status, new_status in entries:
            assert old_status == statuses[job_id]
            statuses[job_id] = new_status
            trails[job_id].append(action)
        everything = self.model.everything
        assert trails == {job_id: job.entries for job_id, job in everything.items()}
        assert statuses == {job_id: job.status for job_id, job in everything.items()}

    @invariant()
    def verification_finds_nothing(self):
        self._steps += 1
        if self._steps % CHECKED_EVERY:
            return
        report, workspace = Report(with_topic=False), Workspace(since=None)
        with workspace.open(), workspace.snapshot():
            check_database(report, workspace, now=self.now, most_shown=5)
        # Here jobs are taken over, and expired, when a step says so, and not in time.
        del report.invariants[7]
        found = {number: one.violations for number, one in report.invariants.items()}
        assert {number: wrong for number, wrong in found.items() if wrong} == {}

    def teardown(self):
        try:
            # Not where a step has failed: its error shall be told.
            if sys.exc_info()[0] is None:
                self._drain()
        finally:
            self._travel.stop()
            transaction.set_rollback(True)
            self._transaction.__exit__(None, None, None)

    def _drain(self):
        """Let all go well for a while: what is live must come to its end, once."""
        self.model.is_searchable = True
        for _ in range(30):
            self._wait(11)
            self._rescue()
            self._expire()
            while hand := self._claim(MOST_RUNNING):
                self._publish(hand, [ANSWERS[0]] * len(ANSWERS))
                self._complete_in_model(hand)
                complete_and_claim(hand.token, hand.acknowledged, None)
            if not ScheduledTransition.objects.live().exists():
                break
        self.rows_are_as_the_model_has_them()
        self.the_audit_tells_all_of_it_and_no_more()
        for job in self.model.jobs.values():
            assert job.status not in {"scheduled", "running"}, "a job stays silent"
            if job.status is TransitionStatus.COMPLETED:
                assert job.event_id in self.model.topic
        assert verify(now=self.now, with_topic=False).holds


def _columns(job):
    """Return what stands in COLUMNS for a job of the model."""
    return (
        job.job_id,
        job.status,
        job.attempts,
        job.due,
        job.ready,
        job.event_id,
        job.is_forced,
        job.is_doubtful,
        job.replaced_by,
        job.final_at,
        job.token,
        job.lease_until,
    )


def _phase(identity, due):
    project, phase, state = identity
    return {
        "projectId": int(project),
        "phaseId": int(phase),
        "phaseTypeName": "Review",
        "state": state,
        "endTime": due,
        "operator": "tests",
        "projectStatus": "ACTIVE",
    }


@pytest.mark.first_start
@pytest.mark.timeout(max(240, 2 * LIFECYCLES))
@pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL's clock can't be set")
@pytest.mark.django_db
class TestAnyLifecycle:
    @pytest.fixture(autouse=True)
    def _world(self, settings, monkeypatch):
        """Let limits be small, the topic a fake one, and the log silent."""
        settings.SCHEDULER = settings.SCHEDULER.model_copy(
            update={"max_retries": MOST_ATTEMPTS - 1, "retry_delay": 1_000}
        )
        settings.RECOVERY = settings.RECOVERY.model_copy(update={"max_phase_age_hours": 1})
        for module in ("batch", "unproven"):
            monkeypatch.setattr(
                f"scheduling.services.{module}.find_events", TOPIC.find_events
            )
        logging.disable(logging.CRITICAL)
        yield
        logging.disable(logging.NOTSET)

    def test_is_as_the_model_has_it(self):
        run_state_machine_as_test(
            Lifecycle,
            settings=settings(
                max_examples=LIFECYCLES,
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                derandomize=True,
                phases=PHASES,
                suppress_health_check=list(HealthCheck),
            ),
        )
