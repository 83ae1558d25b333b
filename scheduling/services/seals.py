"""Seal the audit: chain what was written since the last seal, batch by batch.

Firing never waits for it: entries are read as anybody reads them, without a lock, and
hashed before the one row of the seal is inserted. What commits late, under an id smaller
than one that is sealed already, is not lost: see `AuditSeal.gaps` and
`adapters.audit_rows.writers`.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import Final

from django.db import IntegrityError

from scheduling.adapters.audit_rows import Row, Span, rows_after, rows_of_spans, writers
from scheduling.models import AuditEntry, AuditSeal

# Entries of one seal: some megabytes of text in memory.
BATCH: Final = 5_000
# What the first seal is chained to.
GENESIS: Final = "0" * 64


@dataclass
class Sealer:
    """Seals batch after batch; remembers what it need not look at again.

    _settled: gaps that will never be filled, in spite of what the newest seal says.
    """

    _settled: set[Span] = field(default_factory=set)

    def has_work(self) -> bool:
        """Tell whether anything is to be sealed, or may still come late."""
        head = newest_seal()
        last_id = head.last_id if head else 0
        return (
            bool(self._waiting(head)) or AuditEntry.objects.filter(id__gt=last_id).exists()
        )

    def seal_next(self, *, now: datetime) -> AuditSeal | None:
        """Seal the next batch, and what came late; None where there is neither.

        None too where another sealer was faster.
        """
        head = newest_seal()
        last_id = head.last_id if head else 0
        waiting = self._waiting(head)
        # In this order: who is gone by now has committed by the time its rows are read.
        still_writing = set(writers()) if waiting else set()
        late = list(rows_of_spans([(low, high) for low, high, _ in waiting]))
        fresh = rows_after(last_id, most=BATCH)
        late_spans = _spans(number for number, _ in late)
        left: list[list[object]] = []
        ended: list[Span] = []
        for low, high, holders in waiting:
            rest = _without(low, high, late_spans)
            if still_writing & set(holders):
                left += [[*span, list(holders)] for span in rest]
            else:
                ended.append((low, high))
        if not late and not fresh:
            # Not before: where another sealer is faster, this one looks at them again.
            self._settled.update(ended)
            return None
        new_last = fresh[-1][0] if fresh else last_id
        gaps = _without(last_id + 1, new_last, _spans(number for number, _ in fresh))
        # Each is looked at once more at least, after these have ended.
        holders = writers() if gaps else []
        seal = AuditSeal(
            number=head.number + 1 if head else 1,
            first_id=last_id + 1,
            last_id=new_last,
            entries=len(late) + len(fresh),
            gaps=[list(span) for span in gaps],
            late=[list(span) for span in late_spans],
            waiting=[*left, *([*span, holders] for span in gaps)],
            sealed_at=now,
            previous=head.digest if head else GENESIS,
        )
        seal.digest = digest_of(seal, [*late, *fresh])
        try:
            seal.save()
        except IntegrityError:
            return None
        self._settled.clear()
        return seal

    def _waiting(self, head: AuditSeal | None) -> list[tuple[int, int, list[str]]]:
        """Return the gaps that may be filled still, with who may."""
        waiting = head.waiting if head else []
        return [
            (low, high, holders)
            for low, high, holders in waiting
            if (low, high) not in self._settled
        ]


def newest_seal() -> AuditSeal | None:
    """Return the end of the chain; None before the first seal."""
    return AuditSeal.objects.order_by("-number").first()


def digest_of(seal: AuditSeal, rows: Iterable[Row]) -> str:
    """Return the hexadecimal SHA-256 of a seal: what it says, and its entries.

    Args:
        rows: The entries that it covers, in the order of ids.
    """
    said = [
        seal.number,
        seal.previous,
        seal.first_id,
        seal.last_id,
        seal.entries,
        seal.gaps,
        seal.late,
        seal.waiting,
        # To the microsecond, as the column has it.
        seal.sealed_at.timestamp(),
    ]
    digest = hashlib.sha256(json.dumps(said, separators=(",", ":")).encode())
    for _, text in rows:
        content = text.encode()
        # With its length, so that no text can pass for the end of one and another's start.
        digest.update(b"%d:%b" % (len(content), content))
    return digest.hexdigest()


def _spans(numbers: Iterable[int]) -> list[Span]:
    """Return ascending numbers as spans without a gap."""
    spans = []
    for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        spans.append((members[0], members[-1]))
    return spans


def _without(low: int, high: int, taken: Sequence[Span]) -> list[Span]:
    """Return what is left of a span without others, which are in order."""
    left = []
    for first, last in taken:
        if last < low or first > high:
            continue
        if first > low:
            left.append((low, first - 1))
        low = last + 1
    if low <= high:
        left.append((low, high))
    return left
