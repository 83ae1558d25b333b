"""The process beside each cluster that verifies by itself, one over all hosts at a time.

Each run looks at what changed since the last one, at all live jobs, and at some of the
older seals in turn, so that an old entry is proven again sooner or later. After one that
found something the next ones look at the same again, for a day: what is wrong is told
until it is mended. Its result is the row `VerificationResult` named `scheduled`.
"""

import logging
import time
from datetime import datetime, timedelta
from itertools import accumulate, takewhile
from typing import Any, Final

from autopilot_site.verification import Report, verify
from autopilot_site.verification.report import MOST_SHOWN, Violation
from autopilot_site.verification.seal_checks import note_proof
from scheduling.adapters.attendance import Attendance, Stop
from scheduling.adapters.clock import database_now
from scheduling.models import AuditSeal, Housekeeping, VerificationResult
from scheduling.services.seal_proof import prove_chain
from scheduling.services.seals import newest_seal

logger = logging.getLogger("autopilot.verify")

KIND: Final = "verifier"
RESULT: Final = "scheduled"
TURN: Final = "verification"
LOOK_SECONDS: Final = 15.0
EVERY: Final = timedelta(minutes=5)
# However many jobs live, a run takes at most this share of one core.
LONGEST_SHARE: Final = 300
# The first run goes so far back, and each begins a little before the last one did.
FIRST_SPAN: Final = timedelta(days=1)
OVERLAP: Final = timedelta(minutes=2)
# For so long what was found wrong is looked at again.
STAYS: Final = timedelta(days=1)
# Older seals that are proven again in one run, and entries of theirs, at the most.
OLD_SEALS: Final = 500
OLD_ENTRIES: Final = 20_000


def attend(stop: Stop) -> None:
    """Verify every few minutes, until the cluster stops."""
    attendance = Attendance(kind=KIND, stop=stop, every_seconds=LOOK_SECONDS)
    attendance.attend(look)


def look() -> None:
    """Verify if it is time, and this process's turn.

    Raises:
        DatabaseError: The database is out of reach.
    """
    last = VerificationResult.objects.filter(name=RESULT).first()
    took = last.finished_at - last.started_at if last else timedelta(0)
    interval = max(EVERY, took * LONGEST_SHARE)
    now = database_now()
    if last is not None and last.started_at > now - interval:
        return
    if Housekeeping.take(TURN, interval=EVERY, now=now):
        run(last, now=now)


def run(last: VerificationResult | None, *, now: datetime) -> VerificationResult:
    """Verify once, and store the result.

    Args:
        last: The result of the run before, if there was one.
        now: The database's clock.
    """
    started = time.monotonic()
    head = newest_seal()
    broken_since = last.broken_since if last else None
    is_old = broken_since is not None and broken_since < now - STAYS
    looks_again = broken_since is not None and not is_old
    since = _since(last, looks_again=looks_again, now=now)
    report = verify(now=now, with_topic=False, since=since)
    rechecked_to = _recheck(report, last.rechecked_to if last else 0)
    anchor = (head.number, head.digest) if head else (0, "")
    if last is not None and not _stands(report, last) and not is_old:
        anchor = (last.seal_number, last.seal_digest)
    if not report.holds and not is_old:
        # The next one looks at the same seals once more.
        rechecked_to = last.rechecked_to if last else 0
    if report.holds:
        broken_since = None
    elif not looks_again:
        broken_since = now
    result, _ = VerificationResult.objects.update_or_create(
        name=RESULT,
        defaults={
            "started_at": now,
            "looked_since": since,
            "broken_since": broken_since,
            "finished_at": now + timedelta(seconds=time.monotonic() - started),
            "is_ok": report.holds,
            "violations": {
                str(one.id): one.violation_count for one in report.invariants.values()
            },
            "unchecked": [
                why for one in report.invariants.values() for why in one.unchecked
            ],
            "findings": _findings(report),
            "seal_number": anchor[0],
            "seal_digest": anchor[1],
            "rechecked_to": rechecked_to,
        },
    )
    _tell(result)
    return result


def _since(
    last: VerificationResult | None, *, looks_again: bool, now: datetime
) -> datetime:
    """Return from when on changes are looked at: as before, where that found something."""
    if last is None:
        return now - FIRST_SPAN
    if looks_again and last.looked_since:
        return last.looked_since
    return last.started_at - OVERLAP


def _recheck(report: Report, done_to: int) -> int:
    """Prove the next few older seals; return the number of the last one, 0 at the end."""
    following = AuditSeal.objects.filter(number__gt=done_to).order_by("number")
    sizes = list(following.values_list("number", "entries")[:OLD_SEALS])
    if not sizes:
        return 0
    totals = accumulate(entries for _, entries in sizes)
    fitting = len(list(takewhile(lambda total: total <= OLD_ENTRIES, totals)))
    last = sizes[max(1, fitting) - 1][0]
    proof = prove_chain(first=done_to + 1, last=last)
    note_proof(report.invariants[9], proof, most_shown=MOST_SHOWN)
    return last if len(sizes) == OLD_SEALS or fitting < len(sizes) else 0


def _stands(report: Report, last: VerificationResult) -> bool:
    """Tell whether the chain's end of the last run stands: nobody cut it off."""
    number = last.seal_number
    if not number:
        return True
    stands = AuditSeal.objects.filter(number=number, digest=last.seal_digest).exists()
    if not stands:
        report.invariants[9].violation_count += 1
        report.invariants[9].violations.append(
            Violation(job_id=None, detail=f"seal {number} is not the one that it was")
        )
    return stands


def _findings(report: Report) -> list[dict[str, Any]]:
    """Return the first violations over all invariants."""
    return [
        {"id": one.id, "jobId": violation.job_id, "detail": violation.detail}
        for one in report.invariants.values()
        for violation in one.violations
    ][:MOST_SHOWN]


def _tell(result: VerificationResult) -> None:
    """Write to the log what is wrong."""
    if result.is_ok:
        logger.debug("verification found nothing")
        return
    broken = [number for number, count in result.violations.items() if count]
    logger.error(
        "verification found violations of invariants %s; could not check: %s",
        ", ".join(broken) or "none",
        "; ".join(result.unchecked) or "nothing",
    )
