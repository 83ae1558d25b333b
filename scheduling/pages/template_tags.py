"""The template tags of the admin's pages (`{% load autopilot %}`)."""

import json
from datetime import datetime
from typing import Any

from django import template
from django.contrib.admin.views.main import ChangeList
from django.utils.safestring import SafeString

from scheduling.domain.phases import parse_instant
from scheduling.models import ScheduledTransition
from scheduling.pages import model_table as tables
from scheduling.pages import shown, texts
from scheduling.pages.links import job_url

register = template.Library()


@register.simple_tag
def instant(at: datetime | None, now: datetime) -> SafeString:
    """Show an instant: `{% instant job.due_at now %}`."""
    return shown.show_instant(at, now=now)


@register.simple_tag
def instant_ms(at: datetime | None, now: datetime) -> SafeString:
    """Show an instant to the millisecond."""
    return shown.show_instant(at, now=now, has_milliseconds=True)


@register.simple_tag
def when(at: datetime | None, now: datetime, past: str = "ago") -> SafeString:
    """Show an instant and how far off it is: `{% when job.due_at now past="late" %}`."""
    return shown.show_when(at, now=now, past=past)


@register.simple_tag
def relative(at: datetime | None, now: datetime, past: str = "ago") -> SafeString:
    """Show how far off an instant is."""
    return shown.show_relative(at, now=now, past=past)


@register.simple_tag
def badge(word: str, kind: str | None = None) -> SafeString:
    """Show a badge: `{% badge "open" "bad" %}`."""
    return shown.show_badge(word, kind=kind)


@register.simple_tag
def job_status(job: ScheduledTransition, now: datetime) -> SafeString:
    """Show a job's badges."""
    return shown.show_status(job, now=now)


@register.simple_tag
def job_id(text: str) -> SafeString:
    """Show a job's id, which leads to its page."""
    return shown.show_id(text, url=job_url(text) if text else "")


@register.simple_tag
def short_job_id(text: str) -> SafeString:
    """Show a job's id in a table."""
    url = job_url(text) if text else ""
    return shown.show_id(text, url=url, shown=shown.short_id(text))


@register.simple_tag
def plain_id(text: str, url: str = "") -> SafeString:
    """Show another id."""
    return shown.show_id(text, url=url)


@register.filter
def lateness(lateness_ms: float | None) -> str:
    """Write a lateness."""
    return texts.lateness_text(lateness_ms)


@register.filter
def number(value: Any) -> str:
    """Write a number in groups of three digits."""
    return texts.NOTHING if value is None else texts.number_text(value)


@register.filter
def changes(values: object) -> str:
    """Write an entry's changes as JSON, but for what the archive keeps whole."""
    if isinstance(values, dict) and "job" in values:
        values = {**values, "job": "…"}
    return json.dumps(values, ensure_ascii=False) if values else ""


@register.simple_tag
def short_id(text: str) -> SafeString:
    """Show another id in a table."""
    return shown.show_id(text, shown=shown.short_id(text))


@register.simple_tag
def since(at: str, now: datetime) -> SafeString:
    """Show how long ago an instant was that came as a text."""
    return shown.show_relative(parse_instant(at), now=now)


@register.inclusion_tag("admin/parts/model_table.html")
def model_table(changes: ChangeList) -> dict[str, Any]:
    """Show the table of a model's list: `{% model_table cl %}`."""
    return tables.model_table(changes)
