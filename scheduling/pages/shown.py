"""What the admin's pages are made of: instants, badges, ids, lateness, as safe HTML."""

from datetime import datetime

from django.conf import settings
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

from scheduling.domain.lifecycle import LIVE, TransitionStatus
from scheduling.domain.phases import format_instant
from scheduling.models import ScheduledTransition
from scheduling.pages.texts import (
    NOTHING,
    instant_text,
    lateness_text,
    relative_text,
)

# An id longer than that is cut in tables, to its beginning and its end: a job's to its
# epoch, which tells jobs of one phase apart.
LONGEST_SHORT = 24
HEAD, TAIL = 8, 6
JOB_HEAD = len("job-") + 13
EMPTY = mark_safe(f'<span class="ap-nothing">{NOTHING}</span>')  # noqa: S308 -- constant


def show_instant(
    at: datetime | None, *, now: datetime, has_milliseconds: bool = False
) -> SafeString:
    """Return an instant; the browser adds the local time on hover, or shows it."""
    if at is None:
        return EMPTY
    return format_html(
        '<time class="ap-instant" datetime="{}">{}</time>',
        format_instant(at),
        instant_text(at, now=now, has_milliseconds=has_milliseconds),
    )


def show_relative(at: datetime | None, *, now: datetime, past: str = "ago") -> SafeString:
    """Return how far off an instant is; the browser keeps it true."""
    if at is None:
        return EMPTY
    return format_html(
        '<span class="ap-relative" data-at="{}" data-past="{}">{}</span>',
        format_instant(at),
        past,
        relative_text(at, now=now, past=past),
    )


def show_when(at: datetime | None, *, now: datetime, past: str = "ago") -> SafeString:
    """Return an instant with its relative form beside it."""
    if at is None:
        return EMPTY
    return format_html(
        '<span class="ap-when">{} {}</span>',
        show_instant(at, now=now),
        show_relative(at, now=now, past=past),
    )


def show_badge(word: str, *, kind: str | None = None) -> SafeString:
    """Return a badge: a word, and a colour for those who see it.

    Args:
        kind: What the style sheet colours: a status, or `overdue`, `retrying`, `run-now`,
            `good`, `warning`, `bad`, `quiet`; the word itself where nothing is given.
    """
    style = kind or word.replace(" ", "-")
    return format_html('<span class="ap-badge ap-badge-{}">{}</span>', style, word)


def badges_of(job: ScheduledTransition, *, now: datetime) -> list[str]:
    """Return the words of a job's badges.

    Its status, then moved, overdue, run now (a person asked for it), retrying.
    """
    words = [job.status]
    if job.current_status is TransitionStatus.CANCELLED and job.replaced_by:
        words.append("moved")
    if job.current_status in LIVE and job.due_at < now:
        words.append("overdue")
    if job.current_status is TransitionStatus.SCHEDULED and job.forced_at:
        words.append("run now")
    if job.current_status is TransitionStatus.SCHEDULED and job.attempts:
        words.append("retrying")
    return words


def show_status(job: ScheduledTransition, *, now: datetime) -> SafeString:
    """Return a job's badges."""
    return format_html_join(" ", "{}", ((show_badge(w),) for w in badges_of(job, now=now)))


def show_lateness(lateness_ms: float | None) -> SafeString:
    """Return how late a job was, or how early; in red where it was too late."""
    if lateness_ms is None:
        return EMPTY
    style = "ap-number"
    if lateness_ms > settings.AUTOPILOT_LATENESS_SLO_MS:
        style += " ap-late"
    return format_html('<span class="{}">{}</span>', style, lateness_text(lateness_ms))


def short_id(text: str) -> str:
    """Return an id that fits into a table: of a long one the beginning and the end."""
    if len(text) <= LONGEST_SHORT:
        return text
    head = JOB_HEAD if text.startswith("job-") else HEAD
    return f"{text[:head]}…{text[-TAIL:]}"


def show_id(text: str, *, url: str = "", shown: str = "") -> SafeString:
    """Return an id that can be copied with a click, and leads somewhere.

    Args:
        url: Where it leads; empty: nowhere.
        shown: What stands for it where it is long; empty: the id itself.
    """
    if not text:
        return EMPTY
    label = format_html(
        '<span class="ap-mono" title="{}">{}</span>', text if shown else "", shown or text
    )
    link = format_html('<a href="{}">{}</a>', url, label) if url else label
    return format_html(
        '<span class="ap-id">{}<button type="button" class="ap-copy" data-copy="{}" '
        'aria-label="Copy {}" title="Copy"></button></span>',
        link,
        text,
        text,
    )
