"""What may become of jobs, said once more without SQL: a model to compare the product with.

It is plain Python on one clock. A method changes the model as the product must change its
rows, or returns the error by which the product must refuse; `entries` of a job are the
actions that its audit must hold, in order.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from scheduling.domain.errors import (
    DuplicateJobError,
    JobNotCancellableError,
    JobNotRetryableError,
    JobNotRunnableError,
    JobNotUpdatableError,
    ServiceUnavailableError,
)
from scheduling.domain.lifecycle import TransitionStatus as S

LEASE = timedelta(seconds=10)
UNSEARCHABLE_WAIT = timedelta(seconds=3)
MOST_RUNNING = 2
MOST_ATTEMPTS = 2
RETRY_WAIT = (timedelta(seconds=0.5), timedelta(seconds=1))
AGE_LIMIT = timedelta(hours=1)
FINISHED_AGE = timedelta(hours=1)
FAILED_AGE = timedelta(hours=24)
Identity = tuple[str, str, str]


@dataclass(eq=False)
class Job:
    """A job as the model has it.

    is_doubtful: an attempt had an unknown outcome. token: who holds it, if it runs.
    """

    number: int
    job_id: str
    event_id: UUID
    identity: Identity
    due: datetime
    ready: datetime
    status: S = S.SCHEDULED
    attempts: int = 0
    is_forced: bool = False
    is_doubtful: bool = False
    replaced_by: str = ""
    final_at: datetime | None = None
    token: UUID | None = None
    lease_until: datetime | None = None
    is_holder_dead: bool = False
    entries: list[str] = field(default_factory=lambda: ["transition.scheduled"])

    @property
    def key(self):
        """Whose records stand in order: the project's, as there are no challenges here."""
        return self.identity[0]

    @property
    def place(self):
        """Its place in the order of its key: END before START at one instant."""
        return self.due, self.identity[2]


@dataclass
class Model:
    """All jobs, the clock, and what stands on the topic.

    gone: those that clean-up took away. topic: event to the instant of its record.
    """

    now: datetime
    jobs: dict[str, Job] = field(default_factory=dict)
    gone: dict[str, Job] = field(default_factory=dict)
    topic: dict[UUID, datetime] = field(default_factory=dict)
    is_searchable: bool = True

    @property
    def everything(self):
        """Every job there ever was."""
        return {**self.jobs, **self.gone}

    def live(self, identity):
        """The live job of a transition, if there is one."""
        return next(
            (
                job
                for job in self.jobs.values()
                if job.identity == identity and job.status in {S.SCHEDULED, S.RUNNING}
            ),
            None,
        )

    def held(self, token):
        """What a token holds."""
        return [job for job in self.jobs.values() if job.token == token]

    # --- What people do ---------------------------------------------------------------
    def add(self, job_id, event_id, identity, due):
        """Add a job that the product made."""
        known = self.everything
        assert job_id not in known, "a job id was given twice"
        assert event_id not in {one.event_id for one in known.values()}
        return self._add(job_id, event_id, identity, due)

    def _add(self, job_id, event_id, identity, due):
        number = len(self.everything)
        job = self.jobs[job_id] = Job(number, job_id, event_id, identity, due, ready=due)
        return job

    def schedule(self, identity, due):
        """Return the error of scheduling; where there is none a job stands or is made."""
        standing = self.live(identity)
        return DuplicateJobError if standing and standing.due != due else None

    def cancel(self, job):
        if error := self._search(job):
            return error
        if job.status not in {S.SCHEDULED, S.EXPIRED, S.FAILED} or job.replaced_by:
            return JobNotCancellableError
        self._end(job, S.CANCELLED, "transition.cancelled")
        return None

    def update(self, job, due):
        """Return the error of moving; where there is none `replace` follows."""
        if error := self._search(job):
            return error
        return None if job.status is S.SCHEDULED else JobNotUpdatableError

    def replace(self, job, job_id, event_id, due):
        self._end(job, S.CANCELLED, "transition.updated")
        job.replaced_by = job_id
        self.add(job_id, event_id, job.identity, due)

    def run_now(self, job):
        if job.status not in {S.SCHEDULED, S.EXPIRED}:
            return JobNotRunnableError
        if error := self._search(job):
            return error
        rival = self.live(job.identity)
        if job.status not in {S.SCHEDULED, S.EXPIRED} or rival not in {None, job}:
            return JobNotRunnableError
        job.status, job.ready, job.final_at = S.SCHEDULED, self.now, None
        job.is_forced, job.is_doubtful = True, False
        job.entries.append("transition.run_now")
        return None

    def retry(self, job):
        """Return the error of trying again; where there is none `succeed` follows."""
        if error := self._search(job):
            return error
        is_free = self.live(job.identity) is None
        is_retryable = job.status is S.FAILED and not job.replaced_by and is_free
        return None if is_retryable else JobNotRetryableError

    def succeed(self, job, job_id):
        """Add the job that tries a failed one's event again."""
        assert job_id not in self.everything
        job.replaced_by = job_id
        job.entries.append("transition.retried")
        new = self._add(job_id, job.event_id, job.identity, job.due)
        new.ready, new.is_forced, new.is_doubtful = self.now, True, True

    # --- What the engine does ---------------------------------------------------------
    def claim(self, token, limit, *, is_dead):
        """Claim what may go, and return it in due order."""
        running = [job for job in self.jobs.values() if job.status is S.RUNNING]
        most = max(0, min(limit, MOST_RUNNING - len(running)))
        waiting = [job for job in self.jobs.values() if self._may_go(job)]
        waiting.sort(key=lambda job: (job.ready, job.identity[2], job.number))
        chosen = waiting[:most]
        for job in chosen:
            job.status, job.token = S.RUNNING, token
            job.attempts += 1
            job.lease_until, job.is_holder_dead = self.now + LEASE, is_dead
            job.entries.append("transition.claimed")
        return sorted(chosen, key=lambda job: (*job.place, job.number))

    def _may_go(self, job):
        if job.status is not S.SCHEDULED or job.ready > self.now:
            return False
        if job.is_forced:
            return True
        return job.due > self.now - AGE_LIMIT and not any(
            other.key == job.key
            and not other.is_forced
            and other.place < job.place
            and (
                other.status is S.RUNNING
                or (other.status is S.SCHEDULED and other.ready > other.due)
            )
            for other in self.jobs.values()
        )

    def renew(self, token):
        """Prolong what a token holds, and return it."""
        held = self.held(token)
        for job in held:
            job.lease_until = self.now + LEASE
        return held

    def look_on_topic(self, jobs, doubtful, token):
        """Return which of a batch were found there, and which have to be produced.

        Where the topic can't be read, those in doubt wait, with the rest of their keys.
        """
        if doubtful and not self.is_searchable:
            keys = {job.key for job in doubtful}
            for job in jobs:
                if job.key in keys and job.token == token:
                    self.give_back(job, wait=UNSEARCHABLE_WAIT)
            return [], [job for job in jobs if job.key not in keys and job.token == token]
        found = [job for job in doubtful if job.event_id in self.topic]
        missing = [job for job in jobs if job not in found and job.token == token]
        return found, missing

    def put(self, job):
        """Note that a job's record is on the topic now."""
        assert job.event_id not in self.topic, "a record was produced twice"
        self.topic[job.event_id] = self.now

    def complete(self, job):
        self._end(job, S.COMPLETED, "transition.completed")

    def give_back(self, job, *, is_doubtful=False, wait=None):
        if wait:
            job.ready = max(job.ready, self.now + wait)
        job.attempts -= 1
        self._release(job, "transition.given_back", is_doubtful=is_doubtful)

    def fail(self, job, *, is_doubtful, ready):
        """End an attempt that counts; `ready` is when the product tries again."""
        if job.attempts >= MOST_ATTEMPTS:
            job.is_doubtful = job.is_doubtful or is_doubtful
            self._end(job, S.FAILED, "transition.failed", is_settled=False)
            return
        assert RETRY_WAIT[0] <= ready - self.now <= RETRY_WAIT[1]
        job.ready = ready
        self._release(job, "transition.attempt_failed", is_doubtful=is_doubtful)

    def rescue(self):
        """Take over what the dead hold; return how many."""
        lost = [
            job
            for job in self.jobs.values()
            if job.token and (job.is_holder_dead or job.lease_until <= self.now)
        ]
        for job in lost:
            job.attempts -= 1
            self._release(job, "transition.rescued", is_doubtful=True)
        return len(lost)

    def _release(self, job, action, *, is_doubtful):
        job.status, job.token, job.lease_until = S.SCHEDULED, None, None
        job.is_doubtful = job.is_doubtful or is_doubtful
        job.entries.append(action)

    # --- Chores -----------------------------------------------------------------------
    def expire(self):
        """Expire what is too old; return how many were."""
        horizon = self.now - AGE_LIMIT
        old = [
            job
            for job in self.jobs.values()
            if job.status is S.SCHEDULED and not job.is_forced and job.due < horizon
        ]
        expired = 0
        for job in old:
            if self._search(job) is None and job.status is S.SCHEDULED:
                self._end(job, S.EXPIRED, "transition.expired")
                expired += 1
        return expired

    def clean_up(self):
        """Take away what was finished long ago; return how many were."""
        old = [job for job in self.jobs.values() if self._is_forgotten(job)]
        for job in old:
            job.entries.append("transition.archived")
            self.gone[job.job_id] = self.jobs.pop(job.job_id)
        return len(old)

    def _is_forgotten(self, job):
        if job.status in {S.COMPLETED, S.CANCELLED}:
            return job.final_at <= self.now - FINISHED_AGE
        is_old = job.status is S.FAILED and job.final_at <= self.now - FAILED_AGE
        return is_old and bool(job.replaced_by)

    # --- Both -------------------------------------------------------------------------
    def _search(self, job):
        """Settle an unknown outcome first; return the error where that can't be done."""
        is_open = job.status in {S.SCHEDULED, S.FAILED} and not job.replaced_by
        if not (job.is_doubtful and is_open):
            return None
        if not self.is_searchable:
            return ServiceUnavailableError
        if job.event_id in self.topic:
            self.complete(job)
        return None

    def _end(self, job, status, action, *, is_settled=True):
        job.status, job.final_at = status, self.now
        job.token = job.lease_until = None
        job.is_doubtful = job.is_doubtful and not is_settled
        job.entries.append(action)
