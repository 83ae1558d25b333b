"""Prove that the audit is as it was sealed: follow the chain and hash every entry again."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import Final

from scheduling.adapters.audit_rows import Row, rows_of_spans
from scheduling.models import AuditEntry, AuditSeal
from scheduling.services.seals import GENESIS, digest_of, newest_seal

# Seals that are in memory, and entries that one group of them covers, at the most.
_SEALS: Final = 500
_ENTRIES: Final = 5_000


@dataclass
class Proof:
    """What following the chain brought.

    faults: what does not fit, in words; the first ones, `fault_count` counts all.
    unsealed: entries after the last seal, which only time can prove.
    newest: the end of the chain; None where nothing is sealed.
    """

    seals: int = 0
    entries: int = 0
    faults: list[str] = field(default_factory=list)
    fault_count: int = 0
    unsealed: int = 0
    newest: AuditSeal | None = None

    @property
    def holds(self) -> bool:
        """Whether all that was looked at is as it was sealed."""
        return not self.fault_count


def prove_chain(*, first: int = 1, last: int | None = None, most_shown: int = 20) -> Proof:
    """Follow the chain from one seal to another, or to its end; memory stays constant.

    Args:
        first, last: Numbers of seals.
        most_shown: How many faults are told in words; all are counted.
    """
    newest = newest_seal()
    proof = Proof(newest=newest)
    proof.unsealed = AuditEntry.objects.filter(
        id__gt=newest.last_id if newest else 0
    ).count()
    if newest is not None:
        walk = _Walk(proof, newest=newest, most_shown=most_shown)
        walk.follow(first=first, last=newest.number if last is None else last)
    return proof


def seals_since(instant: datetime) -> int:
    """Return the number of the first seal that was made then or later.

    Without one, it is the number that the next seal will have. Numbers have no gaps and
    instants rise with them, so that a few looks find it among millions.
    """
    newest = newest_seal()
    low, high = 1, newest.number + 1 if newest else 1
    while low < high:
        middle = (low + high) // 2
        seal = AuditSeal.objects.filter(number__gte=middle).order_by("number").first()
        if seal is not None and seal.sealed_at < instant:
            low = middle + 1
        else:
            high = middle
    return low


def seals_of_entries(first_id: int, last_id: int) -> tuple[int, int] | None:
    """Return the first and last of the seals that cover these ids; None without any.

    A late entry may be covered by a seal after them.
    """
    reaching = AuditSeal.objects.filter(last_id__gte=first_id)
    first = reaching.order_by("last_id", "number").first()
    if first is None:
        return None
    end = AuditSeal.objects.filter(last_id__gte=last_id)
    last = end.order_by("last_id", "number").first() or newest_seal()
    return (first.number, last.number) if last else None


class _Walk:
    """Goes from seal to seal.

    _owed: entries in gaps, which a later seal must name as late.
    """

    def __init__(self, proof: Proof, *, newest: AuditSeal, most_shown: int) -> None:
        self._proof = proof
        self._newest = newest
        self._most_shown = most_shown
        self._owed: set[int] = set()

    def follow(self, *, first: int, last: int) -> None:
        """Check the seals of that span, and tell what does not fit."""
        before = AuditSeal.objects.filter(number=first - 1).first()
        if first > 1 and before is None:
            self._note(f"seal {first - 1} is missing")
        digest = before.digest if before else GENESIS
        last_id = before.last_id if before else 0
        number = first
        for group in _groups(first=first, last=last):
            # One query for all of them: most are of a few entries only.
            rows = _Rows(group[0].first_id, group[-1].last_id)
            for seal in group:
                while number < seal.number:
                    self._note(f"seal {number} is missing")
                    number = seal.number if seal.number - number > _SEALS else number + 1
                if seal.number > first or before or first == 1:
                    self._check_links(seal, previous=digest, last_id=last_id)
                self._check_content(seal, rows)
                digest, last_id, number = seal.digest, seal.last_id, seal.number + 1
        if number <= last:
            self._note(f"seals {number} to {last} are missing")
        self._check_owed(reached_end=last >= self._newest.number)

    def _check_links(self, seal: AuditSeal, *, previous: str, last_id: int) -> None:
        """A seal goes on where the last one ended."""
        if seal.previous != previous:
            self._note(f"seal {seal.number} is not chained to the one before it")
        if seal.first_id != last_id + 1:
            self._note(
                f"seal {seal.number} begins at entry {seal.first_id}, and the one before "
                f"it ended at {last_id}"
            )

    def _check_content(self, seal: AuditSeal, rows: "_Rows") -> None:
        """What a seal covers is what it covered when it was made."""
        late_spans = [(low, high) for low, high in seal.late]
        late = list(rows_of_spans(late_spans)) if late_spans else []
        self._owed.difference_update(number for number, _ in late)
        covered = _Covered(seal, self._owed)
        digest = digest_of(seal, chain(late, covered.of(rows.until(seal.last_id))))
        count = len(late) + covered.count
        self._proof.seals += 1
        self._proof.entries += count
        span = f"seal {seal.number} (entries {seal.first_id} to {seal.last_id})"
        if count != seal.entries:
            self._note(f"{span} covered {seal.entries} entries, and there are {count}")
        elif digest != seal.digest:
            self._note(f"{span} does not match: an entry of it, or the seal, was changed")

    def _check_owed(self, *, reached_end: bool) -> None:
        """What came late has been sealed later, or is about to be."""
        if not reached_end:
            return
        for number in sorted(self._owed):
            if not any(low <= number <= high for low, high, _ in self._newest.waiting):
                self._note(f"entry {number} was added after its span had been sealed")

    def _note(self, detail: str) -> None:
        """Count a fault, and tell the first ones."""
        self._proof.fault_count += 1
        if len(self._proof.faults) < self._most_shown:
            self._proof.faults.append(detail)


class _Covered:
    """The entries of a seal's span without those in its gaps, counted."""

    def __init__(self, seal: AuditSeal, owed: set[int]) -> None:
        self._lows = [low for low, _ in seal.gaps]
        self._highs = [high for _, high in seal.gaps]
        self._owed = owed
        self.count = 0

    def of(self, rows: Iterator[Row]) -> Iterator[Row]:
        """Yield what is covered, and note what lies in a gap."""
        for row in rows:
            place = bisect_right(self._lows, row[0]) - 1
            if place >= 0 and row[0] <= self._highs[place]:
                self._owed.add(row[0])
            else:
                self.count += 1
                yield row


class _Rows:
    """The entries of a span, taken up to one id after the other."""

    def __init__(self, low: int, high: int) -> None:
        self._rows = rows_of_spans([(low, high)])
        self._next = next(self._rows, None)

    def until(self, last_id: int) -> Iterator[Row]:
        """Yield the rows up to that id."""
        while self._next is not None and self._next[0] <= last_id:
            yield self._next
            self._next = next(self._rows, None)


def _groups(*, first: int, last: int) -> Iterator[list[AuditSeal]]:
    """Yield the seals in order, as many together as cover some thousand entries."""
    group: list[AuditSeal] = []
    entries = 0
    for seal in _seals(first=first, last=last):
        if group and entries + seal.entries > _ENTRIES:
            yield group
            group, entries = [], 0
        group.append(seal)
        entries += seal.entries
    if group:
        yield group


def _seals(*, first: int, last: int) -> Iterator[AuditSeal]:
    """Yield the seals in order, some read at a time."""
    while True:
        seals = list(
            AuditSeal.objects.filter(number__gte=first, number__lte=last).order_by(
                "number"
            )[:_SEALS]
        )
        yield from seals
        if len(seals) < _SEALS:
            return
        first = seals[-1].number + 1
