"""One run's work: read upstream, compare, carry out what differs, look after the rest.

Every page of challenges is compared by a look that neither writes nor locks. Only what
differs is compared again under locks and carried out, see `batches`.
"""

from collections.abc import Mapping, Sequence

from recovery.services import leftovers
from recovery.services.batches import Batches, in_batches
from recovery.services.ledger import Ledger, is_invalid
from recovery.services.observing import Observer
from recovery.services.pages import PageReader, ReadPage
from recovery.services.pulse import (
    LOOK_SECONDS,
    Pulse,
    StopError,
    TimeIsUpError,
    estimated_clock,
)
from recovery.services.runs import HeldRun
from recovery.services.singles import Candidate, candidates, read_singly
from recovery.strategies import decider
from scheduling.adapters.challenge_service import (
    ChallengeService,
    Unreadable,
    challenge_service,
)
from scheduling.adapters.clock import DatabaseClock, database_now
from scheduling.conf import recovery_settings
from scheduling.domain.challenges import Reading
from scheduling.domain.errors import ServiceUnavailableError
from scheduling.services.apply_challenge import Applied, preview_challenges


class Reconciliation:
    """One run at work; `failure` says why the list could not be read whole."""

    def __init__(self, held: HeldRun, *, observer: Observer, pulse: Pulse) -> None:
        self._held = held
        self._observer = observer
        self._pulse = pulse
        self._conf = recovery_settings()
        self._decide = decider(self._conf)
        self._ledger = Ledger(held.tally, observer=observer, is_dry=held.request.dry_run)
        self._batches = Batches(
            held, ledger=self._ledger, pulse=pulse, conf=self._conf, decide=self._decide
        )
        self._source = f"recovery run {held.run.run_id}, the Challenge service"
        self._seen: set[str] = set()
        self._looked_at = 0
        self._compared_at = held.run.created_at
        self.failure = ""

    def run(self) -> None:
        """Do all of it.

        What was read before time ran out, or the service failed, is carried out.

        Raises:
            StopError: It ended before it was through.
            RunLostError: Somebody else has ended this run.
            OperationalError, InterfaceError: The database stays away.
        """
        self._pulse.with_database(lambda: leftovers.rescue(self._held))
        stopped: StopError | None = None
        service = challenge_service()
        if service is not None:
            try:
                self._sweep(service)
            except ServiceUnavailableError as error:
                self.failure = error.detail
            except TimeIsUpError as error:
                stopped = error
            self._batches.flush()
        self._pulse.with_database(
            lambda: leftovers.look_after_overdue(
                self._held, ledger=self._ledger, pulse=self._pulse
            )
        )
        if stopped is not None:
            raise stopped

    def _sweep(self, service: ChallengeService) -> None:
        """Look at every ACTIVE challenge, then at those that have jobs and are not listed.

        Raises:
            ServiceUnavailableError: The list could not be read to its end.
            StopError: It must end now.
        """
        clock = self._pulse.with_database(estimated_clock)
        project_id = self._held.request.project_id
        with PageReader(service, clock=clock, project_id=project_id) as reader:
            for read in reader.pages(every_seconds=LOOK_SECONDS):
                self._pulse.show()
                self._pulse.check_time()
                if read is not None:
                    self._look_at_page(read)
        self._batches.flush()
        self._read_unlisted(service, clock)

    def _look_at_page(self, read: ReadPage) -> None:
        """Compare one page, and carry out what is enough for a batch."""
        page = read.page
        readings = [
            Reading(challenge=one, source=self._source, asked_at=read.asked_at)
            for one in page.challenges
        ]
        left_out: dict[str, list[Unreadable]] = {}
        for unreadable in page.unreadable:
            if unreadable.is_phase:
                left_out.setdefault(unreadable.challenge_id, []).append(unreadable)
            else:
                self._ledger.fail_unreadable(unreadable)
        self._seen.update(one.challenge_id for one in page.challenges)
        self._seen.update(one.challenge_id for one in page.unreadable)
        self._look(readings, left_out)
        self._looked_at += len(page.challenges)
        self._observer.looked_at(self._looked_at, of=page.total)

    def _look(
        self, readings: Sequence[Reading], left_out: Mapping[str, Sequence[Unreadable]]
    ) -> None:
        """Compare the readings, count what is in order, and set the rest aside."""
        for chunk in in_batches(readings, self._conf.max_batch_size):
            for applied in self._batches.attempt(chunk, self._preview):
                challenge_id = applied.reading.challenge.challenge_id
                self._sort_out(applied, left_out.get(challenge_id, ()))

    def _preview(self, readings: Sequence[Reading]) -> list[Applied]:
        """Return what applying the readings would do."""
        self._compared_at = now = database_now()
        return preview_challenges(readings, now=now, decide=self._decide)

    def _sort_out(self, applied: Applied, invalid: Sequence[Unreadable]) -> None:
        """Count a reading that changes nothing; set one aside that does."""
        if (invalid or is_invalid(applied)) and not self._conf.skip_invalid_phases:
            self._ledger.refuse(applied, invalid)
            return
        self._ledger.skip(applied.reading.challenge.challenge_id, invalid)
        if self._held.request.dry_run or not applied.changes_something:
            self._ledger.count(applied, now=self._compared_at)
        else:
            self._batches.add(applied)

    def _read_unlisted(self, service: ChallengeService, clock: DatabaseClock) -> None:
        """Read singly those that have live jobs and are not in the list of ACTIVE ones.

        Not to be listed proves nothing: only what the challenge itself says counts.
        """
        waiting = self._pulse.with_database(
            lambda: candidates(self._seen, project_id=self._held.request.project_id)
        )
        readings = []
        for candidate, reading in read_singly(
            service,
            waiting,
            clock=clock,
            source=self._source,
            at_once=self._conf.max_concurrent_phases,
            patience=self._conf.period("phase_timeout"),
            while_waiting=self._pulse.show,
        ):
            self._pulse.check_time()
            if isinstance(reading, Reading):
                readings.append(reading)
            else:
                self._leave(candidate, reading)
        self._look(readings, {})
        self._batches.flush()

    def _leave(self, candidate: Candidate, why: str) -> None:
        """Count the jobs of a challenge of which nothing is known; they stay."""
        tally = self._held.tally
        if not why:
            tally.counts["unchanged_phases"] += candidate.jobs
            return
        tally.counts["failed_phases"] += candidate.jobs
        tally.name("", f"challenge {candidate.challenge_id}: {why}")
