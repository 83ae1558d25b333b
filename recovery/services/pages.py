"""The list of ACTIVE challenges, read by a thread of its own.

So a page is read while the one before is worked on, and whoever works can show signs of
life while the service is silent.
"""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Self

from django.db import connections

from scheduling.adapters.challenge_service import ChallengeService, Page
from scheduling.adapters.clock import DatabaseClock

PAGES_AHEAD: Final = 2
_PUT_SECONDS: Final = 0.2


@dataclass(frozen=True, kw_only=True)
class ReadPage:
    """A page, and when it was asked for, by the database's clock."""

    page: Page
    asked_at: datetime


@dataclass(frozen=True)
class _End:
    """The list's end, or what broke it off."""

    error: Exception | None = None


class PageReader:
    """Reads the pages ahead; leave it to give up the reading.

    Args:
        clock: An estimate of the database's clock: the thread has no session for it.
        project_id: Canonical id; empty for all.
    """

    def __init__(
        self, service: ChallengeService, *, clock: DatabaseClock, project_id: str
    ) -> None:
        self._service = service
        self._clock = clock
        self._project_id = project_id or None
        self._given_up = threading.Event()
        self._found: queue.Queue[ReadPage | _End] = queue.Queue(maxsize=PAGES_AHEAD)
        self._thread = threading.Thread(
            target=self._read, name="recovery-pages", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # It may be in the middle of a question, and ends by itself after the answer.
        self._given_up.set()

    def pages(self, *, every_seconds: float) -> Iterator[ReadPage | None]:
        """Yield the pages; None each time that so long passed without one.

        Raises:
            ServiceUnavailableError: The service could not be read to the list's end.
        """
        while True:
            try:
                found = self._found.get(timeout=every_seconds)
            except queue.Empty:
                yield None
                continue
            if isinstance(found, _End):
                if found.error is not None:
                    raise found.error
                return
            yield found

    def _read(self) -> None:
        """Read to the end, for as long as somebody wants it."""
        try:
            pages = iter(self._service.read_active(self._project_id))
            while not self._given_up.is_set():
                asked_at = datetime.fromtimestamp(self._clock.epoch(), UTC)
                page = next(pages, None)
                if page is None:
                    self._put(_End())
                    return
                self._put(ReadPage(page=page, asked_at=asked_at))
        except Exception as error:  # noqa: BLE001 -- raised again where it is waited for
            self._put(_End(error))
        finally:
            # Mock mode keeps its start in the database.
            connections.close_all()

    def _put(self, item: ReadPage | _End) -> None:
        """Hand an item over, unless nobody waits any more."""
        while not self._given_up.is_set():
            try:
                self._found.put(item, timeout=_PUT_SECONDS)
            except queue.Full:
                continue
            return
