"""How the overrides are called, and what each would do or has done, in words."""

from dataclasses import dataclass
from datetime import datetime

from scheduling.admin.plain_words import plain
from scheduling.domain.errors import SchedulingError
from scheduling.domain.lifecycle import TransitionStatus
from scheduling.models import ScheduledTransition
from scheduling.pages.texts import instant_text, number_text, span_text
from scheduling.services.overrides import Override, Prospect


@dataclass(frozen=True, kw_only=True)
class Words:
    """One override's words.

    verb: what the button begins with; tail: what it ends with.
    done: what a row says afterwards.
    promise: what it means, in a sentence.
    icon: a name of Material Symbols.
    is_grave: whether it takes something away.
    """

    verb: str
    tail: str = ""
    done: str
    promise: str
    icon: str
    is_grave: bool = False

    def button(self, count: int) -> str:
        """Return the button's text for so many transitions."""
        what = "this transition" if count == 1 else f"{number_text(count)} transitions"
        return " ".join(part for part in (self.verb, what, self.tail) if part)


WORDS: dict[Override, Words] = {
    Override.SCHEDULE: Words(
        verb="Schedule",
        tail="again",
        done="scheduled again",
        promise="A new job is made for each transition; the old one stays as it is.",
        icon="event_repeat",
    ),
    Override.RESCHEDULE: Words(
        verb="Reschedule",
        done="rescheduled",
        promise="Each job is cancelled and replaced by a new one at the new instant, in "
        "one step. What is moved by hand stays so until upstream shows another instant.",
        icon="edit_calendar",
    ),
    Override.CANCEL: Words(
        verb="Cancel",
        done="cancelled",
        promise="A cancelled job never fires. It stays cancelled until upstream shows "
        "another instant, or somebody schedules it again.",
        icon="cancel",
        is_grave=True,
    ),
    Override.RUN_NOW: Words(
        verb="Run",
        tail="now",
        done="put to run now",
        promise="Each event goes out at once, before or after its instant, without "
        "waiting for earlier ones of the same challenge. It can't be taken back.",
        icon="play_arrow",
        is_grave=True,
    ),
    Override.RETRY: Words(
        verb="Retry",
        done="retried",
        promise="A new job with the same event fires at once. Where the event turns out "
        "to be on the topic already it is not published a second time.",
        icon="replay",
    ),
}


def effect(override: Override, prospect: Prospect, *, now: datetime) -> str:
    """Return what would become of one job, in words."""
    job = prospect.job
    if prospect.refusal is not None:
        return refusal_text(prospect.refusal, job, now=now)
    match override:
        case Override.CANCEL:
            is_dealt_with = job.current_status is not TransitionStatus.SCHEDULED
            meaning = "counts as dealt with" if is_dealt_with else "never fires"
            return f"{job.status} → cancelled, {meaning}"
        case Override.RUN_NOW:
            distance = span_text(job.due_at - now)
            side = "before" if job.due_at > now else "after"
            return f"fires now, {distance} {side} its instant"
        case Override.RETRY:
            return "a new job with the same event fires now"
        case _:
            return _new_instant(override, prospect, now=now)


def _new_instant(override: Override, prospect: Prospect, *, now: datetime) -> str:
    """Return what a new instant would mean, in words."""
    if prospect.due_at is None:
        return "say when"
    if prospect.is_idle:
        return "is scheduled for that instant already: nothing changes"
    new = instant_text(prospect.due_at, now=now)
    if override is Override.SCHEDULE:
        return f"a new job, due {new}"
    shift = prospect.due_at - prospect.job.due_at
    direction = "later" if prospect.due_at > prospect.job.due_at else "earlier"
    old = instant_text(prospect.job.due_at, now=now)
    return f"{old} → {new}, {span_text(shift)} {direction}"


def refusal_text(error: SchedulingError, job: ScheduledTransition, *, now: datetime) -> str:
    """Return why something is not done, in a line that names the job already."""
    return plain(error.detail.replace(f"job {job.job_id} ", ""), now=now)


def is_about(job: ScheduledTransition) -> str:
    """Return what a job is about: `END of Registration`."""
    return f"{job.state} of {job.phase_type_name}"


def is_about_where(job: ScheduledTransition) -> str:
    """Return it with whose phase it is, where no column says that."""
    whose = (
        f"challenge {job.challenge_id}" if job.challenge_id else f"project {job.project_id}"
    )
    return f"{is_about(job)}, {whose}"
