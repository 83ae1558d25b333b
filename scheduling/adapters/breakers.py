"""Circuit breakers whose state all processes share: pybreaker's rules on a table's row.

Each process keeps a copy of the row, so that a call while the breaker is closed costs no
round trip; the copy is at most `CLOSED_TTL_SECONDS` old. What changes the state is a
guarded update in one transaction with its audit entry, so of several processes that come
to the same end one changes it and the audit tells it once.

Half open, one process at a time may try: it holds the row's probe, a short lease.

A breaker never breaks what it guards: where its own table is out of reach, the copy
decides.
"""

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pybreaker
from django.db import Error as DatabaseError
from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models import F, Q
from typing_extensions import override

from scheduling.adapters.clock import database_now
from scheduling.adapters.owner import Owner
from scheduling.conf import BREAKER_SETTINGS, BreakerSettings, breaker_settings
from scheduling.domain.actors import CONSUMER, RECOVERY, SCHEDULER, Actor
from scheduling.domain.errors import ServiceUnavailableError
from scheduling.domain.texts import printable
from scheduling.models import AuditEntry
from scheduling.models import CircuitBreaker as Row
from scheduling.models.circuit_breaker import CLOSED, HALF_OPEN, OPEN

logger = logging.getLogger("autopilot.breakers")

# How old the copy may be; one that is not closed is about to change.
CLOSED_TTL_SECONDS: Final = 5.0
TROUBLE_TTL_SECONDS: Final = 0.25
# A probe whose holder fell silent is free so soon, and one whose holder is dead on this
# host at once; the living prolong it.
PROBE_LEASE: Final = timedelta(seconds=10)
LONGEST_ERROR: Final = 500

_TO_ROW = {
    pybreaker.STATE_CLOSED: CLOSED,
    pybreaker.STATE_OPEN: OPEN,
    pybreaker.STATE_HALF_OPEN: HALF_OPEN,
}
_FROM_ROW = {row: name for name, row in _TO_ROW.items()}
# From which states each is reached, and the audit's word for it.
_CHANGES: Final = {
    OPEN: ((CLOSED, HALF_OPEN), "breaker.opened"),
    HALF_OPEN: ((OPEN,), "breaker.half_opened"),
    CLOSED: ((HALF_OPEN,), "breaker.closed"),
}
# Whether an error is a failure of what is guarded; None where it does not say.
Counts = Callable[[BaseException], bool | None]
# In whose name the audit tells what a breaker did by itself.
_ACTORS: Final[dict[str, Actor]] = {
    "scheduler": SCHEDULER,
    "recovery": RECOVERY,
    "challenge": CONSUMER,
}


@dataclass
class _Copy:
    """The row as last read; `read_at` in monotonic seconds, 0 where it never was.

    open_seconds: how long it had been open then, by the database's clock.
    """

    state: str = CLOSED
    failures: int = 0
    successes: int = 0
    reopenings: int = 0
    last_error: str = ""
    last_success_at: datetime | None = None
    open_seconds: float = 0.0
    read_at: float = 0.0


class TableStorage(pybreaker.CircuitBreakerStorage):
    """One breaker's row, with what this process has not written yet.

    What pybreaker resets when it notices a change, the change itself has reset: done
    again by each process that notices, it would undo what others counted since.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._copy = _Copy()
        self._calls = 0
        self._rejections = 0
        self._has_succeeded = False
        self._is_away = False
        # Probes that this process gave up while the table was away: nobody uses them.
        self._given_up: set[uuid.UUID] = set()
        self._lock = threading.Lock()
        self.last_error = ""

    # --- What pybreaker asks ----------------------------------------------------------
    @property  # type: ignore[explicit-override]  # mypy asks the setter
    @override
    def state(self) -> str:
        """The state, in pybreaker's words, as last read."""
        return _FROM_ROW[self._copy.state]

    @state.setter
    def state(self, state: str) -> None:
        """Change it, unless another process was faster."""
        self._try(lambda: self._change(_TO_ROW[state]))

    @override
    def increment_counter(self) -> None:
        """Count a failure."""
        self._copy.failures += 1
        self._try(self._write_failure)

    @override
    def reset_counter(self) -> None:
        """Forget the failures counted while it was closed."""
        if self._copy.failures and self._copy.state == CLOSED:
            self._copy.failures = 0
            self._try(
                lambda: self._rows(state=CLOSED, failure_count__gt=0).update(
                    failure_count=0
                )
            )

    @override
    def increment_success_counter(self) -> None:
        """Count a success while half open."""
        self._copy.successes += 1
        self._try(self._write_success)

    @override
    def reset_success_counter(self) -> None:
        """Do nothing: whoever changed the state has done it."""

    @property
    @override
    def counter(self) -> int:
        """The failures in a row."""
        return self._copy.failures

    @property
    @override
    def success_counter(self) -> int:
        """The successes in a row while half open."""
        return self._copy.successes

    @property  # type: ignore[explicit-override]  # mypy asks the setter
    @override
    def opened_at(self) -> datetime | None:
        """When it opened, by this host's clock, which pybreaker compares it with."""
        return datetime.now(UTC) - timedelta(seconds=self.open_seconds)  # noqa: TID251

    @opened_at.setter
    def opened_at(self, instant: datetime) -> None:
        """Take no instant of this host: the database's is written with the state."""

    # --- What the breaker asks --------------------------------------------------------
    @property
    def open_seconds(self) -> float:
        """For how long it has been open."""
        return self._copy.open_seconds + time.monotonic() - self._copy.read_at

    @property
    def reopenings(self) -> int:
        """How often it opened again since it was closed."""
        return self._copy.reopenings

    @property
    def told_error(self) -> str:
        """What the last failure of any process was."""
        return self._copy.last_error

    @property
    def last_success_at(self) -> datetime | None:
        """When a call of any process last succeeded, as far as it is written."""
        return self._copy.last_success_at

    def count_call(self, *, is_rejected: bool = False, has_succeeded: bool = False) -> None:
        """Count a call, or one that was not let through; written a little later."""
        with self._lock:
            self._calls += 1
            self._rejections += is_rejected
            self._has_succeeded |= has_succeeded

    def refresh(self, *, at_once: bool = False) -> None:
        """Read the row again where the copy is too old, and write what was counted."""
        longest = CLOSED_TTL_SECONDS if self._copy.state == CLOSED else TROUBLE_TTL_SECONDS
        if at_once or time.monotonic() - self._copy.read_at > longest:
            self._try(self._read)

    def take_probe(self, token: uuid.UUID, *, lease: timedelta) -> bool:
        """Take or prolong the probe; False where another holds it, or none is needed."""
        taken: list[int] = []

        def take() -> None:
            now = database_now()
            rows = self._rows().exclude(state=CLOSED)
            mine = Q(probe_token__in=[token, *self._given_up])
            free = Q(probe_until=None) | Q(probe_until__lte=now) | mine
            holder = {
                "probe_token": token,
                "probe_until": now + lease,
                "probe_owner": str(Owner.of_process(os.getpid())),
            }
            count = rows.filter(free).update(**holder)
            if not count and (dead := self._dead_holder()):
                count = rows.filter(probe_token=dead).update(**holder)
            taken.append(count)

        self._try(take)
        return bool(taken and taken[0])

    def give_probe(self, token: uuid.UUID) -> None:
        """Let the next one try."""
        self._given_up.add(token)

        def give() -> None:
            given_up = tuple(self._given_up)
            self._rows(probe_token__in=given_up).update(probe_token=None, probe_until=None)
            self._given_up.difference_update(given_up)

        self._try(give)

    def _dead_holder(self) -> uuid.UUID | None:
        """Return the token of the probe whose holder has died on this host."""
        row: Row | None = self._rows().exclude(probe_owner="").first()
        is_dead = row is not None and Owner.parse(row.probe_owner).is_dead_here()
        return row.probe_token if row is not None and is_dead else None

    # --- The row ----------------------------------------------------------------------
    def _rows(self, **conditions: Any) -> Any:
        return Row.objects.filter(name=self.name, **conditions)

    def _try(self, work: Callable[[], object]) -> None:
        """Do something with the table; where it is away, the copy has to do."""
        try:
            work()
        except DatabaseError as error:
            is_lost = isinstance(error, (OperationalError, InterfaceError))
            if is_lost and not connection.in_atomic_block:
                # Nobody else may use this thread's session, and a dead one stays dead.
                connection.close()
            now = time.monotonic()
            self._copy.open_seconds += now - self._copy.read_at
            self._copy.read_at = now
            if not self._is_away:
                logger.warning("the breaker %s can't use its table: %s", self.name, error)
            self._is_away = True
        else:
            self._is_away = False

    def _read(self) -> None:
        """Write what was counted, and take the row as it is."""
        with self._lock:
            calls, self._calls = self._calls, 0
            rejections, self._rejections = self._rejections, 0
            has_succeeded, self._has_succeeded = self._has_succeeded, False
        try:
            if calls:
                success = {"last_success_at": database_now()} if has_succeeded else {}
                self._update(
                    total_calls=F("total_calls") + calls,
                    rejected_count=F("rejected_count") + rejections,
                    **success,
                )
        except DatabaseError:
            with self._lock:
                self._calls += calls
                self._rejections += rejections
                self._has_succeeded |= has_succeeded
            raise
        row = self._rows().first()
        if row is None:
            self._copy = _Copy(read_at=time.monotonic())
            return
        since = row.opened_at if row.state != CLOSED else None
        self._copy = _Copy(
            state=row.state,
            failures=row.failure_count,
            successes=row.success_count,
            reopenings=row.reopenings,
            last_error=row.last_error,
            last_success_at=row.last_success_at,
            open_seconds=(database_now() - since).total_seconds() if since else 0.0,
            read_at=time.monotonic(),
        )

    def _update(self, **values: Any) -> None:
        """Write to the row, which is made on first use."""
        if not self._rows().update(**values):
            Row.objects.get_or_create(name=self.name)
            self._rows().update(**values)

    def _write_failure(self) -> None:
        self._update(
            failure_count=F("failure_count") + 1,
            last_failure_at=database_now(),
            last_error=self.last_error,
        )
        self._read()

    def _write_success(self) -> None:
        counted = self._rows(state=HALF_OPEN).update(success_count=F("success_count") + 1)
        if counted:
            self._read()

    def _change(self, state: str) -> None:
        """Bring the row into a state, and tell it in the audit, if it is not there yet."""
        before, action = _CHANGES[state]
        with transaction.atomic():
            row = self._rows().select_for_update().first()
            if row is not None and row.state in before:
                old = row.state
                _bring(row, state, now=database_now())
                row.save()
                AuditEntry(
                    at=row.changed_at,
                    action=action,
                    actor=_ACTORS[self.name].name,
                    role=_ACTORS[self.name].role,
                    changes=changes(row, old=old),
                ).save()
                logger.warning("the breaker %s is %s now", self.name, state)
        self._read()


def _bring(row: Row, state: str, *, now: datetime) -> None:
    """Let a row enter a state."""
    if state == OPEN:
        row.opened_at = now
        row.reopenings = row.reopenings + 1 if row.state == HALF_OPEN else 0
    if state == CLOSED:
        row.failure_count = row.reopenings = 0
        row.probe_token = row.probe_until = None
    row.state, row.changed_at, row.success_count = state, now, 0


def close_by_hand(row: Row, *, now: datetime) -> None:
    """Let a row begin anew, whatever state it is in; the caller holds and saves it."""
    _bring(row, CLOSED, now=now)


def changes(row: Row, *, old: str) -> dict[str, Any]:
    """Return how the audit tells of a change of state."""
    return {
        "breaker": row.name,
        "state": [old, row.state],
        "failureCount": row.failure_count,
        "lastError": row.last_error,
    }


class BreakerOpenError(ServiceUnavailableError):
    """A breaker lets nobody through.

    seconds: until it may be tried again; 0 where another process tries it now.
    """

    def __init__(self, name: str, *, seconds: float) -> None:
        super().__init__(
            f"the circuit breaker {name} is open",
            retry_after_seconds=max(1, round(seconds)),
        )
        self.seconds = seconds


class SharedBreaker(pybreaker.CircuitBreaker):
    """One breaker, as a process sees it; used by many threads.

    Ask `admits` before the work, report its end by `report`, or wrap both around it by
    `guarding`.
    """

    def __init__(self, name: str, *, counts: Counts) -> None:
        """Make it.

        Args:
            counts: Whether an error says that the guarded system fails, or, by False,
                that it works; None: it says neither.
        """
        self._storage = TableStorage(name)
        self._held: set[uuid.UUID] = set()
        self.counts = counts
        super().__init__(
            state_storage=self._storage, name=name, throw_new_error_on_trip=False
        )

    @property
    def conf(self) -> BreakerSettings:
        """The settings in force."""
        return breaker_settings(self._storage.name)

    # pybreaker's rules ask these; the settings may change while it stands.
    @property  # type: ignore[misc]  # nobody sets it
    @override
    def fail_max(self) -> int:
        """The failures in a row that open it."""
        return self.conf.failure_threshold

    @property  # type: ignore[misc]  # nobody sets it
    @override
    def reset_timeout(self) -> float:
        """The seconds until an open one is tried again."""
        return self.conf.reset_period.total_seconds()

    @property  # type: ignore[misc]  # nobody sets it
    @override
    def success_threshold(self) -> int:
        """The successes in a row that close a half-open one."""
        return self.conf.success_threshold

    @override
    def is_system_error(self, exception: BaseException) -> bool:
        """Tell whether an error counts as a failure, and remember what it says."""
        if not self.counts(exception):
            return False
        said = printable(str(exception).strip() or type(exception).__name__)
        self._storage.last_error = said[:LONGEST_ERROR]
        return True

    @property
    def is_closed(self) -> bool:
        """Whether all may call."""
        self._storage.refresh()
        return bool(self._storage.state == pybreaker.STATE_CLOSED)

    @property
    def seconds_to_probe(self) -> float:
        """How long until an open one may be tried; 0 where it may be now."""
        if self._storage.state != pybreaker.STATE_OPEN:
            return 0.0
        return max(0.0, self.reset_timeout - self._storage.open_seconds)

    @property
    def open_seconds(self) -> float:
        """For how long it has been open or half open; of no meaning where it is closed."""
        return self._storage.open_seconds

    @property
    def reopenings(self) -> int:
        """How often it opened again since it was closed."""
        return self._storage.reopenings

    @property
    def last_error(self) -> str:
        """What the last failure of any process was."""
        return self._storage.told_error

    def has_succeeded_since(self, instant: datetime) -> bool:
        """Tell whether a call of any process is known to have succeeded since then.

        Args:
            instant: By the database's clock.
        """
        self._storage.refresh(at_once=True)
        at = self._storage.last_success_at
        return at is not None and at > instant

    def admits(self, token: uuid.UUID, *, lease: timedelta = PROBE_LEASE) -> bool:
        """Tell whether the holder of a token may call now.

        While it is not closed only one may, who then has to `let_go`.

        Args:
            lease: For how long at the most the call may last.
        """
        if self.is_closed:
            return True
        if self.seconds_to_probe == 0 and self.take_probe(token, lease=lease):
            # Somebody may have closed or opened it meanwhile.
            self._storage.refresh(at_once=True)
            if self.seconds_to_probe == 0:
                return True
            self.let_go(token)
        return False

    def take_probe(self, token: uuid.UUID, *, lease: timedelta = PROBE_LEASE) -> bool:
        """Take the right to try, or prolong it; False where another holds it."""
        is_taken = self._storage.take_probe(token, lease=lease)
        if is_taken:
            self._held.add(token)
        return is_taken

    def let_go(self, token: uuid.UUID) -> None:
        """Let the next one try; does nothing where the token holds no probe."""
        if token in self._held:
            self._held.discard(token)
            self._storage.give_probe(token)

    def reject(self) -> None:
        """Count a call that was not let through."""
        self._storage.count_call(is_rejected=True)

    def report(self, error: BaseException | None = None) -> None:
        """Count the end of a call that was let through: its error, or a success.

        While it is open neither changes anything: others have seen enough.
        """
        if error is not None and self.counts(error) is None:
            self._storage.count_call()
            return
        if self._storage.state != pybreaker.STATE_CLOSED:
            # The copy may be a moment old, and what ended acts upon the state.
            self._storage.refresh(at_once=True)
        is_failure = error is not None and self.is_system_error(error)
        self._storage.count_call(has_succeeded=not is_failure)
        if self._storage.state == pybreaker.STATE_OPEN and self.seconds_to_probe > 0:
            return
        # Another thread may open it at this very moment.
        with suppress(pybreaker.CircuitBreakerError):
            if error is None:
                self.call(_succeed)
                return
            with suppress(type(error)):
                self.call(_fail, error)

    def notice_recovery(self) -> None:
        """Let an open one be tried before its time: what it guards answers again."""
        self._storage.refresh(at_once=True)
        if self._storage.state == pybreaker.STATE_OPEN:
            self.half_open()

    @contextmanager
    def guarding(self, *, longest: timedelta = timedelta(0)) -> Iterator[None]:
        """Guard a block: its errors are counted and go on.

        Args:
            longest: How long the block may take; nobody else tries meanwhile.

        Raises:
            BreakerOpenError: It was not entered, since the breaker lets nobody through.
        """
        token = uuid.uuid4()
        if not self.admits(token, lease=longest + PROBE_LEASE):
            self.reject()
            raise BreakerOpenError(self._storage.name, seconds=self.seconds_to_probe)
        try:
            yield
        except Exception as error:
            self.report(error)
            raise
        else:
            self.report()
        finally:
            self.let_go(token)


def _succeed() -> None:
    """Be a call that succeeded."""


def _fail(error: BaseException) -> None:
    """Be a call that failed."""
    raise error


def _always(_: BaseException) -> bool:
    """Count every error that is reported: the callers choose."""
    return True


_breakers: dict[str, SharedBreaker] = {}
_making = threading.Lock()


def shared_breaker(name: str, *, counts: Counts = _always) -> SharedBreaker:
    """Return this process's view of a breaker, made on first use.

    Args:
        counts: See `SharedBreaker`; each breaker has one caller, which gives it.

    Raises:
        KeyError: There is no such breaker.
    """
    if name not in BREAKER_SETTINGS:
        raise KeyError(name)
    with _making:
        if name not in _breakers:
            _breakers[name] = SharedBreaker(name, counts=counts)
        return _breakers[name]


def forget_copies() -> None:
    """Let every breaker read its row anew, as after a change by hand."""
    with _making:
        _breakers.clear()
