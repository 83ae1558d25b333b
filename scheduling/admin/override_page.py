"""The confirmation page of every override: what will change, why, and what was done.

Opened by address (`?action=cancel&_selected_action=KEY`), which changes nothing. Its form
posts to the same page, with the version of each row that was shown: a row that changed
meanwhile is told, and left out until it is confirmed again.
"""

import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.contrib.admin.options import IncorrectLookupParameters
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse
from typing_extensions import override

from scheduling.admin.end_time import HELP, EndTime, read_end_time
from scheduling.admin.override_words import WORDS, effect, is_about_where, refusal_text
from scheduling.admin.plain_words import plain, tell_conflicts
from scheduling.domain.errors import (
    InvalidRequestError,
    PreconditionFailedError,
    SchedulingError,
)
from scheduling.domain.phases import LONGEST_REASON, format_instant
from scheduling.models import AuditEntry, ScheduledTransition
from scheduling.pages.acting import demand
from scheduling.pages.base import AdminPage, admin_page
from scheduling.pages.links import JOBS
from scheduling.pages.texts import count_text
from scheduling.queries.challenges import find_challenge_of
from scheduling.services.cancel import read_reason
from scheduling.services.overrides import (
    Override,
    Prospect,
    carry_out,
    check_not_demanded,
    conflicts_of,
    foresee,
)

# So many jobs are changed in one go; the rest is told, and waits for the next.
MOST_JOBS = 10_000
# Rows that a page shows of them.
MOST_SHOWN = 200
# Of a plan that many things speak against, the first ones are told.
MOST_CONFLICTS = 20
# Jobs whose changes are committed together: few, since their rows are held meanwhile, and
# one of them may be due.
TOGETHER = 20
# Then the rest is told as not done.
LONGEST_SECONDS = 60.0
# Of more jobs the address of a plan would be longer than servers take.
MOST_IN_ADDRESS = 100
# Results that can be looked at again, and their name in address and session.
RESULTS_KEPT = 3
_RESULT = "result"
# Of one's own reasons, the newest so many are looked at.
REASONS_LOOKED_AT = 50
REASONS_SUGGESTED = 5
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_DIGITS = 18


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one row.

    new: the job that there is now, where it is another one than before.
    why_not: in words; empty where it was done.
    is_reached: whether it was its turn before time was up.
    """

    job: ScheduledTransition | None
    key: str
    new: ScheduledTransition | None = None
    why_not: str = ""
    is_reached: bool = True

    @property
    def about(self) -> str:
        """What the job is about."""
        return is_about_where(self.job) if self.job else ""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The jobs that were chosen, in due order.

    versions: as they were shown, by key; empty where nothing was shown before.
    missing: keys of which there is no row.
    total: how many match, of which no more than `MOST_JOBS` are here.
    """

    jobs: Sequence[ScheduledTransition]
    versions: dict[int, int]
    missing: Sequence[str]
    total: int


@admin_page
class OverridePage(AdminPage):
    """Shows what an override would do to the chosen jobs, and does it."""

    path = "scheduling/scheduledtransition/override/"
    name = "override"
    template_name = "admin/override.html"
    chosen: Override
    error: str = ""
    end_time: EndTime | None = None

    @override
    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Ask the role for the override itself, for the page as for the deed.

        Raises:
            Http404: There is no such override.
            PermissionDenied: The role may not do it.
        """
        fields = request.POST if request.method == "POST" else request.GET
        try:
            self.chosen = Override(fields.get("action", ""))
        except ValueError:
            raise Http404("there is no such override") from None
        demand(request, self.chosen.operation)
        return super().dispatch(request, *args, **kwargs)

    @override
    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Show what it would do, or again what was done."""
        if _RESULT in request.GET:
            return self._show_result(request.GET[_RESULT])
        selection = self._select(request.GET)
        if not selection.jobs:
            return self._leave("Choose at least one transition first.")
        self._understand(request.GET)
        return self._show_plan(selection, request.GET)

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Do it where it is confirmed and has a reason; else show what it would do."""
        selection = self._select(request.POST)
        if not selection.jobs and not selection.missing:
            return self._leave("Choose at least one transition first.")
        self._understand(request.POST)
        self._ask_for_instant()
        if "preview" in request.POST:
            # Only the plan is asked for: what else is missing, the form says by itself.
            address = self._address(selection)
            return (
                redirect(address) if address else self._show_plan(selection, request.POST)
            )
        try:
            reason = read_reason(request.POST.get("reason"))
        except InvalidRequestError as error:
            self.error = self.error or f"The reason {error.errors[0][1]}."
        else:
            if self.error:
                pass
            elif not (request.POST.get("confirm") and self._is_shown(request.POST)):
                self.error = "Nothing is done yet: read what will change, and confirm."
            else:
                return self._do(selection, reason)
        return self._show_plan(selection, request.POST)

    def _address(self, selection: Selection) -> str:
        """Return where this plan is shown by its address; nothing where it has none.

        A browser then goes back to it, and loads it anew, without sending anything.
        """
        if self.error or selection.missing or len(selection.jobs) > MOST_IN_ADDRESS:
            return ""
        fields = {
            "action": self.chosen.value,
            "_selected_action": [job.pk for job in selection.jobs],
            "end_time": self.request.POST.get("end_time", ""),
            "reason": self.request.POST.get("reason", "")[:LONGEST_REASON],
        }
        return f"{reverse('admin:override')}?{urlencode(fields, doseq=True)}"

    # --- What was chosen ---
    def _select(self, fields: QueryDict) -> Selection:
        """Return the chosen jobs: those that were shown, or that the filters match."""
        seen = _read_seen(fields.get("seen", ""))
        if seen:
            return self._by_keys([str(key) for key in seen], versions=seen)
        if fields.get("select_across") in {"1", "true"}:
            return self._by_filters(fields.get("filters", self._own_filters()))
        return self._by_keys(fields.getlist("_selected_action"), versions={})

    def _by_keys(self, keys: Sequence[str], *, versions: dict[int, int]) -> Selection:
        """Return the jobs of the keys, which are rows' keys or job ids."""
        wanted = list(dict.fromkeys(key.strip() for key in keys))
        total, wanted = len(wanted), wanted[:MOST_JOBS]
        numbers = [int(key) for key in wanted if _is_number(key)]
        names = [key for key in wanted if not _is_number(key) and "\x00" not in key]
        rows = ScheduledTransition.objects.order_by("due_at", "id")
        jobs = list(rows.filter(pk__in=numbers)) if numbers else []
        if names:
            jobs += rows.filter(job_id__in=names).exclude(pk__in=numbers)
        found = {str(job.pk) for job in jobs} | {job.job_id for job in jobs}
        missing = [key for key in wanted if key and key not in found]
        return Selection(jobs=jobs, versions=versions, missing=missing, total=total)

    def _by_filters(self, query: str) -> Selection:
        """Return the jobs that the list's filters match, the earliest due first."""
        rows = _matching(self.request, query).order_by("due_at", "id")
        jobs = list(rows[:MOST_JOBS])
        total = len(jobs) if len(jobs) < MOST_JOBS else rows.count()
        return Selection(jobs=jobs, versions={}, missing=[], total=total)

    def _own_filters(self) -> str:
        """Return the list's filters where the list's own form was posted."""
        is_list = self.request.path == reverse(JOBS)
        return self.request.GET.urlencode() if is_list else ""

    def _understand(self, fields: QueryDict) -> None:
        """Read the new instant, where one is given; what can't be is an error."""
        text = fields.get("end_time", "")
        if not (self.chosen.needs_instant and text.strip()):
            return
        is_from_now = self.chosen is Override.SCHEDULE
        try:
            self.end_time = read_end_time(text, now=self.now, is_from_now=is_from_now)
        except SchedulingError as error:
            self.error = f"The new instant: {plain(error.detail, now=self.now)}"

    def _ask_for_instant(self) -> None:
        """Say so where an instant is needed and none was given."""
        if self.chosen.needs_instant and self.end_time is None and not self.error:
            self.error = f"Say when. {HELP}"

    def _is_shown(self, fields: QueryDict) -> bool:
        """Tell whether the plan was shown with the instant that is given now."""
        return not self.chosen.needs_instant or fields.get("shown_end_time") == fields.get(
            "end_time"
        )

    def _pinned(self, text: str) -> str:
        """Return what was typed, as the instant where that is one.

        A time of day, or a span from now, means the one that is shown, however long one
        looks at it.
        """
        at = None if self.end_time is None else self.end_time.at
        return text if at is None else format_instant(at)

    def _due_at(self, job: ScheduledTransition) -> datetime:
        """Return when a job shall be due.

        Raises:
            InvalidScheduleTimeError: It would lie outside the calendar.
        """
        return job.due_at if self.end_time is None else self.end_time.for_one(job.due_at)

    # --- What it would do ---
    def _prospects(self, selection: Selection) -> list[Prospect]:
        """Return what it would do to each job; an impossible span is an error."""
        due_at = self._due_at if self.end_time is not None else None
        try:
            return foresee(self.chosen, selection.jobs, due_at=due_at, now=self.now)
        except SchedulingError as error:
            self.error = f"The new instant: {plain(error.detail, now=self.now)}"
            self.end_time = None
        return foresee(self.chosen, selection.jobs, due_at=None, now=self.now)

    def _show_plan(self, selection: Selection, fields: QueryDict) -> HttpResponse:
        """Show what it would do, row by row, and ask for the reason."""
        prospects = self._prospects(selection)
        changed = {job.pk for job in selection.jobs if _has_changed(job, selection)}
        doable = [one for one in prospects if one.refusal is None and not one.is_idle]
        kept = [one for one in prospects if one.refusal is not None or one.is_idle]
        words = WORDS[self.chosen]
        conflicts = conflicts_of(doable, now=self.now)
        shown = [*kept[: MOST_SHOWN // 2], *doable]
        shown = sorted(shown[:MOST_SHOWN], key=lambda one: (one.job.due_at, one.job.pk))
        context = self.get_context_data(
            title=words.button(max(1, len(prospects))),
            words=words,
            button=words.button(len(doable)),
            override=self.chosen,
            rows=[
                {
                    "job": one.job,
                    "about": is_about_where(one.job),
                    "effect": effect(self.chosen, one, now=self.now),
                    "is_kept": one.refusal is not None or one.is_idle,
                    "has_changed": one.job.pk in changed,
                    "is_live": one.job.is_live,
                }
                for one in shown
            ],
            hidden=len(prospects) - len(shown),
            doable=len(doable),
            kept=len(kept),
            chosen=len(prospects),
            left_out=selection.total - len(selection.jobs) - len(selection.missing),
            most=MOST_JOBS,
            missing=selection.missing[:MOST_SHOWN],
            conflicts=tell_conflicts(
                [one.detail for one in conflicts[:MOST_CONFLICTS]], now=self.now
            ),
            conflict_count=len(conflicts),
            hidden_conflicts=max(0, len(conflicts) - MOST_CONFLICTS),
            move_url=self._move_url(doable) if conflicts else "",
            error=self.error,
            end_time=self.end_time,
            end_time_text=self._pinned(fields.get("end_time", "")),
            end_time_help=HELP,
            reason=fields.get("reason", ""),
            longest_reason=LONGEST_REASON,
            suggestions=own_reasons(self.actor.name),
            seen=_write_seen(selection.jobs),
            keys=[job.pk for job in selection.jobs[:MOST_SHOWN]],
            back=reverse(JOBS),
        )
        return self.render_to_response(context)

    def _move_url(self, prospects: Sequence[Prospect]) -> str:
        """Return where one phase and all that follow are moved by as much; else nothing."""
        if self.chosen is not Override.RESCHEDULE or len(prospects) != 1:
            return ""
        (one,) = prospects
        challenge = find_challenge_of(one.job)
        if challenge is None or one.due_at is None:
            return ""
        url = reverse(
            "admin:scheduling_challenge_move", args=[challenge.pk, one.job.phase_id]
        )
        seconds = round((one.due_at - one.job.due_at).total_seconds())
        return f"{url}?{urlencode({'by': f'{seconds:+d}s'})}"

    # --- Doing it ---
    def _do(self, selection: Selection, reason: str) -> HttpResponse:
        """Do it to each job, and show what was done and what not, and why."""
        outcomes = [
            Outcome(job=None, key=key, why_not="there is no such job any more")
            for key in selection.missing
        ]
        jobs = sorted(selection.jobs, key=lambda job: job.pk)
        give_up_at = time.monotonic() + LONGEST_SECONDS
        for start in range(0, len(jobs), TOGETHER):
            chunk = jobs[start : start + TOGETHER]
            if time.monotonic() > give_up_at:
                outcomes += [
                    Outcome(
                        job=job,
                        key=str(job.pk),
                        why_not="not reached in time: go on below",
                        is_reached=False,
                    )
                    for job in jobs[start:]
                ]
                break
            outcomes += self._do_together(chunk, selection, reason)
        return self._show_outcomes(outcomes, selection, reason)

    def _do_together(
        self, jobs: Sequence[ScheduledTransition], selection: Selection, reason: str
    ) -> list[Outcome]:
        """Do it to a few jobs and commit them at once.

        Each has a savepoint of its own, so that one that is refused undoes no other. A
        job whose topic must be searched first stands alone: Kafka is never asked inside
        a transaction.
        """
        if len(jobs) == 1 or any(job.unproven_since for job in jobs):
            return [self._do_one(job, selection, reason) for job in jobs]
        with transaction.atomic():
            return [self._do_one(job, selection, reason) for job in jobs]

    def _do_one(
        self, job: ScheduledTransition, selection: Selection, reason: str
    ) -> Outcome:
        """Do it to one job."""

        def is_as_shown(locked: ScheduledTransition) -> None:
            if _has_changed(locked, selection):
                raise PreconditionFailedError(_change_text(locked))
            if self.chosen is Override.RUN_NOW:
                check_not_demanded(locked, now=self.now)

        try:
            new = carry_out(
                self.chosen,
                job.job_id,
                actor=self.actor,
                reason=reason,
                now=self.now,
                due_at=self._due_at(job) if self.chosen.needs_instant else None,
                precondition=is_as_shown,
            )
        except SchedulingError as error:
            return Outcome(
                job=job, key=str(job.pk), why_not=refusal_text(error, job, now=self.now)
            )
        if self.chosen is Override.RESCHEDULE and new.pk == job.pk:
            why_not = "is due at that instant already: nothing changed"
            return Outcome(job=job, key=str(job.pk), why_not=why_not)
        return Outcome(
            job=job, key=str(job.pk), new=new if new.job_id != job.job_id else None
        )

    def _show_outcomes(
        self, outcomes: Sequence[Outcome], selection: Selection, reason: str
    ) -> HttpResponse:
        """Lead to what was done to each row, or show it with the form that goes on.

        It is kept for its address, so that it is not done anew to be seen again.
        """
        refused = [one for one in outcomes if one.why_not]
        done = [one for one in outcomes if not one.why_not]
        rest = [one.job for one in outcomes if one.job and not one.is_reached]
        shown = [*refused[: MOST_SHOWN // 2], *done[: MOST_SHOWN // 2]]
        result = {
            "action": self.chosen.value,
            "done": len(done),
            "refused": len(refused),
            "hidden": len(outcomes) - len(shown),
            "reasons": Counter(one.why_not for one in refused).most_common(5),
            "rows": [
                (one.job and one.job.pk, one.key, one.new and one.new.pk, one.why_not)
                for one in shown
            ],
        }
        if not rest:
            name = uuid.uuid4().hex
            results = {**self.request.session.get(_RESULT, {}), name: result}
            newest = dict([*results.items()][-RESULTS_KEPT:])
            self.request.session[_RESULT] = newest
            query = urlencode({"action": self.chosen.value, _RESULT: name})
            return redirect(f"{reverse('admin:override')}?{query}")
        words = WORDS[self.chosen]
        return self._render_result(
            result,
            rest=len(rest),
            rest_seen=_write_seen(rest, selection.versions),
            rest_button=words.button(len(rest)),
            reason=reason,
            end_time_text=self.request.POST.get("end_time", ""),
        )

    def _show_result(self, name: str) -> HttpResponse:
        """Show what was done, as it was kept."""
        result = self.request.session.get(_RESULT, {}).get(name)
        if result is None or result["action"] != self.chosen.value:
            return self._leave("That result is kept no longer: the audit has all of it.")
        return self._render_result(result)

    def _render_result(self, result: Mapping[str, Any], **more: Any) -> HttpResponse:
        """Show a result."""
        words = WORDS[self.chosen]
        keys = {key for pk, _, new, _ in result["rows"] for key in (pk, new) if key}
        jobs = ScheduledTransition.objects.in_bulk(list(keys))
        outcomes = [
            Outcome(job=jobs.get(pk), key=key, new=jobs.get(new), why_not=why_not)
            for pk, key, new, why_not in result["rows"]
        ]
        return self.render_to_response(
            self.get_context_data(
                title=f"{count_text(result['done'], 'transition')} {words.done}",
                words=words,
                override=self.chosen,
                outcomes=[{"one": one, "undo": self._undo(one)} for one in outcomes],
                is_done=True,
                done=result["done"],
                refused=result["refused"],
                reasons=result["reasons"],
                hidden=result["hidden"],
                back=reverse(JOBS),
                **more,
            )
        )

    def _undo(self, outcome: Outcome) -> dict[str, str] | None:
        """Return the link that undoes it, where something does."""
        job, new = outcome.job, outcome.new
        if outcome.why_not or job is None:
            return None
        page = reverse("admin:override")
        fields: dict[str, str | int] = {"end_time": format_instant(job.due_at)}
        if self.chosen is Override.CANCEL:
            if job.due_at <= self.now:
                del fields["end_time"]
            fields |= {"action": "schedule", "_selected_action": job.pk}
            return {"text": "Schedule again", "url": f"{page}?{urlencode(fields)}"}
        if self.chosen is Override.RESCHEDULE and new is not None:
            fields |= {"action": "reschedule", "_selected_action": new.pk}
            return {"text": "Move back", "url": f"{page}?{urlencode(fields)}"}
        return None

    def _leave(self, word: str) -> HttpResponse:
        """Go back to the list, and say why."""
        messages.warning(self.request, word)
        return redirect(JOBS)


# --- Versions ---
def _version(job: ScheduledTransition) -> int:
    """Return what is another number after any change of the job."""
    return (job.updated_at - _EPOCH) // timedelta(microseconds=1)


def _has_changed(job: ScheduledTransition, selection: Selection) -> bool:
    """Tell whether a job is no longer as it was shown."""
    shown = selection.versions.get(job.pk)
    return shown is not None and shown != _version(job)


def _write_seen(
    jobs: Sequence[ScheduledTransition], shown: Mapping[int, int] = MappingProxyType({})
) -> str:
    """Return the jobs and their versions as the form repeats them.

    Args:
        shown: The versions that count, where they were shown before.
    """
    return ",".join(f"{job.pk}.{shown.get(job.pk, _version(job))}" for job in jobs)


def _read_seen(text: str) -> dict[int, int]:
    """Return versions by key; what is no such pair is left out."""
    pairs = (pair.partition(".") for pair in text.split(",") if pair)
    return {
        int(key): int(version)
        for key, _, version in pairs
        if _is_number(key) and _is_number(version)
    }


def _is_number(text: str) -> bool:
    """Tell whether a text is a number that a key can be."""
    return text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS


def _change_text(job: ScheduledTransition) -> str:
    """Return what is known of the change that came between."""
    last = AuditEntry.objects.filter(job_id=job.job_id).order_by("-id").first()
    who = f" by {last.actor}" if last else ""
    return (
        f"it changed meanwhile{who}, and is {job.status} now: look at it and confirm again"
    )


def own_reasons(actor: str) -> list[str]:
    """Return the newest reasons that somebody gave, each once."""
    entries = AuditEntry.objects.filter(actor=actor).exclude(reason="")
    newest = entries.order_by("-at", "-id").values_list("reason", flat=True)
    return list(dict.fromkeys(newest[:REASONS_LOOKED_AT]))[:REASONS_SUGGESTED]


def _matching(request: HttpRequest, query: str) -> Any:
    """Return the jobs that the list shows for a query.

    Raises:
        Http404: The list has no such filters.
    """
    model_admin = admin.site.get_model_admin(ScheduledTransition)
    own = request.GET
    request.GET = QueryDict(query)
    try:
        return model_admin.get_changelist_instance(request).get_queryset(request)
    except IncorrectLookupParameters:
        raise Http404("the list has no such filters") from None
    finally:
        request.GET = own
