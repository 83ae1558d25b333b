"""A file that stands under its name once it is whole, and that may be gone on with."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

# What is written between two notes of how far it came.
NOTE_ROWS: Final = 1_000


@dataclass
class Progress:
    """How far an export came.

    asked: what was asked for; only the same may be gone on with.
    newest: the newest entry when it began; what was written later is left out.
    size: bytes that are whole.
    last: the last entry that they hold; lowest and highest: ids among them.
    """

    asked: dict[str, Any]
    newest: int
    size: int = 0
    count: int = 0
    last: int | None = None
    lowest: int | None = None
    highest: int | None = None

    def add(self, key: int) -> None:
        """Count an entry."""
        self.count += 1
        self.last = key
        self.lowest = key if self.lowest is None else min(key, self.lowest)
        self.highest = key if self.highest is None else max(key, self.highest)


class NothingToResumeError(Exception):
    """There is no unfinished file of the same export."""


class ResumableFile:
    """The unfinished file beside the one that is asked for, with a note beside it."""

    def __init__(self, path: Path, progress: Progress) -> None:
        self._path = path
        self._unfinished = path.with_name(f".{path.name}.unfinished")
        self._note = path.with_name(f".{path.name}.unfinished.json")
        self.progress = progress
        self._noted = 0

    def read_note(self) -> None:
        """Go on where the last try of the same export ended.

        Raises:
            NothingToResumeError: There was none.
        """
        try:
            noted = Progress(**json.loads(self._note.read_text()))
            size = self._unfinished.stat().st_size
        except (OSError, ValueError, TypeError):
            raise NothingToResumeError(
                f"{self._path} has no unfinished export to go on with"
            ) from None
        if noted.asked != self.progress.asked or noted.size > size:
            raise NothingToResumeError(
                f"the unfinished export of {self._path} was asked for something else"
            )
        self.progress = noted
        self._noted = noted.count

    @contextmanager
    def open(self) -> Iterator[Callable[[bytes], None]]:
        """Yield what writes a piece, after which all entries added so far are whole.

        Raises:
            OSError: It can't be written, or another export writes it; what stood there
                is as it was.
        """
        with self._unfinished.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(self.progress.size)

            def write(piece: bytes) -> None:
                file.write(piece)
                if self.progress.count - self._noted >= NOTE_ROWS:
                    file.flush()
                    self._write_note(file.tell())

            try:
                yield write
                file.flush()
                os.fsync(file.fileno())
                self._unfinished.replace(self._path)
            finally:
                # Without a note nobody could go on with it.
                if self._path_is_whole() or not self._note.exists():
                    self._unfinished.unlink(missing_ok=True)
                    self._note.unlink(missing_ok=True)

    def _path_is_whole(self) -> bool:
        """Tell whether the file has its name."""
        return not self._unfinished.exists()

    def _write_note(self, size: int) -> None:
        """Note how far it came, whole or not at all."""
        self._noted, self.progress.size = self.progress.count, size
        new = self._note.with_name(f"{self._note.name}.new")
        new.write_text(json.dumps(asdict(self.progress)))
        new.replace(self._note)
