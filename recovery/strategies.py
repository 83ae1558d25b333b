"""What becomes of a transition that recovery finds overdue without a job.

Each setting names one function: RECOVERY_OVERDUE_STRATEGY for one within the age limit,
RECOVERY_TOO_OLD_STRATEGY for one beyond it, RECOVERY_UNPROCESSED_STRATEGY for one within
it while RECOVERY_PROCESS_OVERDUE_PHASES is off. Those below are the contract's ways. A
function of one's own takes an `Overdue` and returns a `Decision`; it must neither wait
nor write. What it raises makes its challenge count as failed. Beyond the age limit nothing
fires by itself, so FIRE is no answer there: RECOVERY_MAX_PHASE_AGE_HOURS sets the limit.
"""

from collections.abc import Callable

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from scheduling.conf import RecoverySettings
from scheduling.domain.plan import Decide, Decision, Overdue

SETTINGS = ("overdue_strategy", "too_old_strategy", "unprocessed_strategy")


def fire(overdue: Overdue) -> Decision:
    """Let it fire at once, with its original due instant."""
    return Decision.FIRE


def expire(overdue: Overdue) -> Decision:
    """Give it an expired job: it is too old to fire by itself."""
    return Decision.EXPIRE


def ask_a_person(overdue: Overdue) -> Decision:
    """Give it an expired job, for a person to run or cancel."""
    return Decision.ASK


def decider(conf: RecoverySettings) -> Decide:
    """Return what decides by the settings.

    Raises:
        ImproperlyConfigured: A setting names what can't be imported or called.
    """
    overdue, too_old, unprocessed = (_strategy(conf, name) for name in SETTINGS)
    within = overdue if conf.process_overdue_phases else unprocessed

    def decide(found: Overdue) -> Decision:
        if not found.is_too_old:
            return Decision(within(found))
        decision = Decision(too_old(found))
        if decision is Decision.FIRE:
            raise ValueError("what is beyond the age limit does not fire by itself")
        return decision

    return decide


def _strategy(conf: RecoverySettings, name: str) -> Callable[[Overdue], Decision]:
    """Return the function that a setting names.

    Raises:
        ImproperlyConfigured: There is none.
    """
    path = getattr(conf, name)
    variable = f"RECOVERY_{name.upper()}={path!r}"
    try:
        found: Callable[[Overdue], Decision] = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(f"{variable}: {error}") from error
    if not callable(found):
        raise ImproperlyConfigured(f"{variable}: can't be called")
    return found
