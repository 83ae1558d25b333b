"""The audit is as it was sealed, and what is written is sealed soon."""

from datetime import datetime, timedelta

from django.db.models import Min

from autopilot_site.verification.report import Invariant, Violation
from scheduling.adapters.attendance import lives
from scheduling.models import AuditEntry
from scheduling.sealer import KIND
from scheduling.services.seal_proof import Proof, prove_chain, seals_since

# Sealed within 10 s is the promise; more than this is no delay any more.
GRACE = timedelta(seconds=60)


def check_seals(
    invariant: Invariant, *, now: datetime, since: datetime | None, most_shown: int
) -> None:
    """Follow the chain, from the instant on where there is one, and hash every entry."""
    first = 1 if since is None else seals_since(since)
    # From the one before: that also proves that the chain goes on from there.
    proof = prove_chain(first=max(1, first - 1), most_shown=most_shown)
    note_proof(invariant, proof, most_shown=most_shown)
    invariant.skipped += proof.unsealed
    _check_delay(invariant, proof, now=now)


def note_proof(invariant: Invariant, proof: Proof, *, most_shown: int) -> None:
    """Add what following the chain brought."""
    invariant.checked += proof.entries
    invariant.violation_count += proof.fault_count
    invariant.violations += [
        Violation(job_id=None, detail=fault)
        for fault in proof.faults[: max(0, most_shown - len(invariant.violations))]
    ]


def _check_delay(invariant: Invariant, proof: Proof, *, now: datetime) -> None:
    """Where a sealer is at work, nothing stays unsealed; without one nothing can be."""
    if not proof.unsealed or not lives(KIND, now=now, since=GRACE):
        return
    last_id = proof.newest.last_id if proof.newest else 0
    waiting = AuditEntry.objects.filter(id__gt=last_id)
    oldest = waiting.aggregate(oldest=Min("at"))["oldest"]
    if oldest is None or oldest > now - GRACE:
        return
    newest = proof.newest
    if newest is not None and newest.sealed_at > now - GRACE:
        # It works off a backlog, or an entry tells of an instant long before.
        return
    invariant.violation_count += 1
    invariant.violations.append(
        Violation(
            job_id=None,
            detail=f"{proof.unsealed} entries are not sealed, since {oldest:%FT%TZ}",
        )
    )
