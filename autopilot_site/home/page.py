"""The home page, whole and as the part of it that is refreshed in place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.conf import settings
from django.urls import NoReverseMatch, reverse
from typing_extensions import override

from autopilot_site.health.judgement import (
    OVERDUE_SAID,
    CheckStatus,
    Health,
    HealthStatus,
)
from autopilot_site.home.day import Day, day_reader, quantile_ms, share_within, sum_up
from autopilot_site.home.latest_health import latest_health
from autopilot_site.home.pictures import (
    HEIGHT,
    SPARK_HEIGHT,
    SPARK_WIDTH,
    WIDTH,
    draw_histogram,
    sparkline,
)
from autopilot_site.home.verification import Verdict, judge, last_result
from scheduling.admin.override_words import is_about
from scheduling.domain.lifecycle import TransitionStatus
from scheduling.domain.phases import format_instant
from scheduling.models import DeadLetter, ScheduledTransition
from scheduling.models.circuit_breaker import CLOSED, CircuitBreaker
from scheduling.pages.base import AdminPage, admin_page
from scheduling.pages.links import jobs_url
from scheduling.pages.texts import (
    count_text,
    lateness_text,
    number_text,
    span_text,
)
from scheduling.queries.breakers import list_breakers

_NONE: Final = timedelta(0)
MOST_NEXT: Final = 8
# More than that are told as "more than".
MOST_COUNTED: Final = 1_000
# For so long a page counts what it has not counted yet.
PAGE_SECONDS: Final = 0.1
REFRESH_SECONDS: Final = 0.02
# The page that helps with a check that is not up, and its link's text; of the others the
# page of the cluster tells.
_HELP: Final[Mapping[str, tuple[str, str]]] = {
    "recovery": ("recovery_recoveryrun_changelist", "Look at recovery"),
    "circuitBreakers": ("circuit_breakers", "Look at the breakers"),
}
# What a check is called; the breakers are told of one by one.
_NAMES: Final[Mapping[str, str]] = {
    "database": "The database",
    "scheduler": "Firing",
    "recovery": "Recovery",
    "kafka": "Kafka",
    "clock": "The clock",
    "disk": "The disk",
}
# The last hour: the slice that runs, and the twelve before it.
LAST_HOUR: Final = 13


@dataclass(frozen=True, kw_only=True)
class Need:
    """Something that waits for a person, and where it is dealt with."""

    text: str
    url: str
    kind: str


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The one line, what it is coloured as, and the link that helps."""

    text: str
    tone: str
    url: str
    link: str


class HomeContent(AdminPage):
    """What the home page shows; both of its forms are made of this."""

    http_method_names = ["get", "head"]
    seconds = PAGE_SECONDS

    @override
    def context(self) -> dict[str, Any]:
        """Return everything that the page shows, at one instant."""
        health = latest_health.read(now=self.now)
        coming = next_due()
        day = day_reader.read(now=self.now, seconds=self.seconds)
        lateness = day.lateness()
        slo_ms = float(settings.AUTOPILOT_LATENESS_SLO_MS)
        within = share_within(lateness, slo_ms)
        breakers = list_breakers()
        verdict = judge(last_result(), now=self.now)
        needs = what_needs_somebody(health, breakers, verdict)
        return {
            "truth": tell_truth(health, coming, needs, now=self.now),
            "causes": health.causes,
            "coming": [{"job": job, "about": is_about(job)} for job in coming],
            "needs": needs,
            "figures": figures_of(day),
            "spark_width": SPARK_WIDTH,
            "spark_height": SPARK_HEIGHT,
            "day": day,
            "histogram": draw_histogram(lateness, slo_ms=slo_ms),
            "histogram_width": WIDTH,
            "histogram_height": HEIGHT,
            "published": lateness.total(),
            "within": None if within is None else _percent(within),
            "slo": span_text(timedelta(milliseconds=slo_ms)),
            "late_url": jobs_url(late="true") if within is not None and within < 1 else "",
            "strip": strip_of(health, breakers, verdict),
        }


class Home(HomeContent):
    """The whole page."""

    title = "Home"
    template_name = "admin/home.html"


@admin_page
class HomeRefresh(HomeContent):
    """The part that is refreshed."""

    path = "home/"
    name = "home_refresh"
    template_name = "admin/parts/home.html"
    seconds = REFRESH_SECONDS

    @override
    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Return the content alone: no sidebar is rendered."""
        return {"now": self.now, **self.context(), **kwargs}


def next_due() -> list[ScheduledTransition]:
    """Return the jobs that fire next, or should have: running ones, then by instant.

    Each query is answered by the small index of the jobs in its status.
    """
    rows = ScheduledTransition.objects.all()
    scheduled = rows.filter(status=TransitionStatus.SCHEDULED, claim_token=None)
    found = [
        *rows.filter(status=TransitionStatus.RUNNING).order_by("key", "due_at")[:MOST_NEXT],
        *scheduled.order_by("ready_at", "state", "id")[:MOST_NEXT],
    ]
    return sorted(found, key=lambda job: (job.due_at, job.pk))[:MOST_NEXT]


def tell_truth(
    health: Health,
    coming: Sequence[ScheduledTransition],
    needs: Sequence[Need],
    *,
    now: datetime,
) -> Truth:
    """Return the one line, from the same checks as `/health`, and from what waits."""
    overdue, oldest = _overdue(health)
    # The first thing that is wrong; the page unfolds the rest.
    cause = _first_cause(health, but_overdue=overdue > 0)
    if overdue:
        late = f"{number_text(overdue)} overdue (oldest {span_text(oldest)})"
        return Truth(
            text=f"{late}: {cause}" if cause else late,
            tone="bad" if cause or oldest > timedelta(seconds=5) else "warning",
            url=jobs_url(overdue="true"),
            link="Show what is overdue",
        )
    if health.status is not HealthStatus.OK:
        url, link = _help_for(health)
        tone = "bad" if health.status is HealthStatus.ERROR else "warning"
        return Truth(text=_sentence(cause), tone=tone, url=url, link=link)
    what = "nothing is scheduled"
    if coming:
        first = coming[0].due_at - now
        what = f"next transition {'in ' + span_text(first) if first > _NONE else 'now'}"
    if needs:
        verb = "needs" if len(needs) == 1 else "need"
        return Truth(
            text=f"{_sentence(what)}; {count_text(len(needs), 'thing')} {verb} you",
            tone="warning",
            url="#needs",
            link="Show what",
        )
    url, link = ("", "") if coming else (jobs_url(), "All jobs")
    return Truth(text=f"All well: {what}", tone="good", url=url, link=link)


def _first_cause(health: Health, *, but_overdue: bool) -> str:
    """Return the first thing that is wrong, with its subject; empty where all is well.

    Args:
        but_overdue: Leave out that jobs are overdue, which is said already.
    """
    for cause in health.causes:
        name, _, detail = cause.partition(": ")
        for one in detail.split("; "):
            if not (but_overdue and OVERDUE_SAID in one):
                return f"the {name}: {one}" if one.startswith("it ") else one
    return ""


def _overdue(health: Health) -> tuple[int, timedelta]:
    """Return how many are overdue, and since when the oldest one is."""
    figures = _figures(health, "scheduler")
    count = int(figures.get("overdueJobs") or 0)
    return count, timedelta(seconds=float(figures.get("oldestOverdueSeconds") or 0))


def _figures(health: Health, name: str) -> Mapping[str, Any]:
    """Return a check's figures; none where it is not there."""
    check = health.checks.get(name)
    return check.figures if check else {}


def _help_for(health: Health) -> tuple[str, str]:
    """Return the page that helps with what is not well, and the link's text."""
    for name, check in health.checks.items():
        if check.status is not CheckStatus.UP:
            return _help_with(name)
    return "", ""


def _help_with(name: str) -> tuple[str, str]:
    """Return the page that helps with one check, and the link's text."""
    page, text = _HELP.get(name, ("cluster", "Look at the cluster"))
    return _address(page), text


def _address(name: str) -> str:
    """Return a page's address; empty where the site has no such page."""
    try:
        return reverse(f"admin:{name}")
    except NoReverseMatch:
        return ""


def _sentence(text: str) -> str:
    """Return a text with its first letter large."""
    return text[:1].upper() + text[1:]


def what_needs_somebody(
    health: Health, breakers: Sequence[CircuitBreaker], verdict: Verdict
) -> list[Need]:
    """Return what waits for a person: what is down, and what no automatism settles.

    Those are broken promises, failed, expired, dead letters and open breakers.
    """
    needs = [
        Need(
            text=f"{_NAMES[name]}: {check.detail}",
            url=_help_with(name)[0],
            kind="bad" if check.status is CheckStatus.DOWN else "warning",
        )
        for name, check in health.checks.items()
        if name in _NAMES and check.status is not CheckStatus.UP
    ]
    if verdict.kind == "bad":
        text = f"The last verification found {verdict.text}"
        needs.append(Need(text=text, url=_address("verification"), kind="bad"))
    undealt = ScheduledTransition.objects.filter(replaced_by="").order_by()
    for status in (TransitionStatus.FAILED, TransitionStatus.EXPIRED):
        count = undealt.filter(status=status)[: MOST_COUNTED + 1].count()
        if count:
            text = f"{_bounded(count, 'transition')} {status.value}: retry or cancel"
            if status is TransitionStatus.EXPIRED:
                text = f"{_bounded(count, 'transition')} expired: run now or cancel"
            url = jobs_url(status__exact=status.value)
            needs.append(Need(text=text, url=url, kind=status.value))
    letters = DeadLetter.objects.filter(status="new").order_by()[: MOST_COUNTED + 1].count()
    if letters:
        text = f"{_bounded(letters, 'dead letter')}: replay or discard"
        url = _address("scheduling_deadletter_changelist")
        needs.append(Need(text=text, url=url, kind="bad"))
    for breaker in breakers:
        if breaker.state != CLOSED:
            text = f"The {breaker.name} breaker is {breaker.state.replace('_', ' ')}"
            url = _address("circuit_breakers")
            needs.append(Need(text=text, url=url, kind="warning"))
    return needs


def _bounded(count: int, noun: str) -> str:
    """Return a count that was not carried on for ever."""
    if count > MOST_COUNTED:
        return f"More than {count_text(MOST_COUNTED, noun)}"
    return count_text(count, noun)


def figures_of(day: Day) -> list[dict[str, Any]]:
    """Return the four figures of the last hour, each with its line of the last day."""
    hour = day.counted(LAST_HOUR)
    lateness = day.lateness(LAST_HOUR)
    by_hour = day.hours()
    merged = [sum_up(slices).lateness for slices in by_hour]
    return [
        {
            "name": "published",
            "value": number_text(sum(one.published for one in hour)),
            "points": sparkline([sum(one.published for one in h) for h in by_hour]),
        },
        {
            "name": "lateness p50",
            "value": lateness_text(quantile_ms(lateness, 0.5)),
            "points": sparkline([quantile_ms(one, 0.5) for one in merged]),
        },
        {
            "name": "lateness p99",
            "value": lateness_text(quantile_ms(lateness, 0.99)),
            "points": sparkline([quantile_ms(one, 0.99) for one in merged]),
        },
        {
            "name": "failed",
            "value": number_text(sum(one.failed for one in hour)),
            "points": sparkline([sum(one.failed for one in h) for h in by_hour]),
        },
    ]


def strip_of(
    health: Health, breakers: Sequence[CircuitBreaker], verdict: Verdict
) -> list[dict[str, str]]:
    """Return the footer: what runs, and where to look at it.

    Of each a name, a text, `kind` where the text is a badge, `at` where it is of an
    instant, and the page that tells more.
    """
    scheduler, kafka = _figures(health, "scheduler"), _figures(health, "kafka")
    recovery = _figures(health, "recovery")
    clusters = [
        one for one in scheduler.get("processes", ()) if one.get("kind") == "cluster"
    ]
    lag = kafka.get("consumerLag")
    open_ones = [one.name for one in breakers if one.state != CLOSED]
    last = recovery.get("lastRun")
    status = str(recovery.get("lastStatus") or "").lower().replace("_", " ")
    return [
        {
            "name": "Clusters and workers",
            "text": f"{len(clusters)} and {scheduler.get('workers', 0)}",
            "url": _address("cluster"),
        },
        {
            "name": "Consumer lag",
            "text": "unknown"
            if lag is None
            else count_text(sum(lag.values()) if lag else 0, "record"),
            "url": _address("cluster"),
        },
        {
            "name": "Breakers",
            "text": f"open: {', '.join(open_ones)}" if open_ones else "all closed",
            "url": _address("circuit_breakers"),
        },
        {
            "name": "Last recovery",
            "text": status if last else "none yet",
            "at": last or "",
            "url": _address("recovery_recoveryrun_changelist"),
        },
        {
            "name": "Last verification",
            "text": verdict.text,
            "kind": verdict.kind,
            "at": format_instant(verdict.at) if verdict.at else "",
            "url": _address("verification"),
        },
    ]


def _percent(share: float) -> str:
    """Return a share in per cent, never rounded up to all."""
    cut = int(share * 10_000) / 100
    return f"{cut:g} %"
