"""What the caretaker does with rows that can't go on by themselves."""

from datetime import datetime

from scheduling.domain.actors import RECOVERY
from scheduling.services.expire import expire_too_old


def expire_overdue(*, now: datetime) -> int:
    """Expire jobs overdue by more than RECOVERY_MAX_PHASE_AGE_HOURS; return how many.

    The due-broker never fires them: whether they still make sense a person decides, by
    `run-now` or `cancel` (contract, section 6).
    """
    return expire_too_old(now=now, actor=RECOVERY)
