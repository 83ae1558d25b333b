"""The page of one job: how it stands, what one can do, what happened, what goes out."""

import json
from datetime import datetime, timedelta
from typing import Any

from django.contrib import admin
from django.http import Http404
from django.urls import reverse
from typing_extensions import override

from scheduling.admin.override_words import WORDS, is_about
from scheduling.admin.timeline import tell
from scheduling.domain.errors import JobNotFoundError
from scheduling.domain.lifecycle import LIVE, TransitionStatus
from scheduling.messages import transition_headers, write_phase_transition
from scheduling.models import AuditEntry, Challenge, ScheduledTransition
from scheduling.pages.base import AdminPage
from scheduling.pages.shown import badges_of
from scheduling.queries.archive import find_archived
from scheduling.queries.challenges import find_challenge_of
from scheduling.services.overrides import Override, applicable
from scheduling.services.unproven import get_job
from scheduling.topics import PHASE_TRANSITION

# Of a job that was given back for days, the newest so many entries are shown.
MOST_ENTRIES = 500
# What is ready is taken within milliseconds; after so long something keeps it.
PATIENCE = timedelta(seconds=3)
# In this order one wants them: the gentle ones first.
_BUTTONS = (
    Override.RESCHEDULE,
    Override.RETRY,
    Override.SCHEDULE,
    Override.RUN_NOW,
    Override.CANCEL,
)
_DONE = {
    "scheduled": "Scheduled: the event goes out at the due instant.",
    "stands": "This transition was scheduled for that instant already: nothing changed.",
}


class TransitionPage(AdminPage):
    """One job, found by its id, also after clean-up."""

    template_name = "admin/transition.html"
    http_method_names = ["get", "head"]
    job: ScheduledTransition
    archived_at: datetime | None = None

    @override
    def context(self) -> dict[str, Any]:
        """Return what there is to tell of the job.

        Raises:
            Http404: There is no such job, and never was.
        """
        self.job, self.archived_at = _find(str(self.kwargs["job_id"]))
        newest = AuditEntry.objects.filter(job_id=self.job.job_id).order_by("-id")
        entries = list(newest[: MOST_ENTRIES + 1])
        shown = entries[:MOST_ENTRIES][::-1]
        return {
            "title": is_about(self.job),
            "subtitle": self.job.job_id,
            "job": self.job,
            "badges": badges_of(self.job, now=self.now),
            "is_live": self.job.current_status in LIVE,
            "waits_since": self._waits_since(),
            "archived_at": self.archived_at,
            "buttons": self._buttons(),
            "steps": tell(self.job, shown, now=self.now),
            "is_cut": len(entries) > MOST_ENTRIES,
            "entries": shown[::-1],
            "challenge": self._challenge(),
            "said": _DONE.get(self.request.GET.get("done", "")),
            **_event(self.job),
        }

    def _waits_since(self) -> datetime | None:
        """Return since when it could have been published and was not, where that is."""
        job = self.job
        is_ready = job.current_status is TransitionStatus.SCHEDULED and not job.claim_token
        return job.ready_at if is_ready and job.ready_at < self.now - PATIENCE else None

    def _buttons(self) -> list[dict[str, Any]]:
        """Return the overrides that the role and the job's status allow."""
        if self.archived_at is not None:
            return []
        possible = set(applicable(self.job))
        page = reverse("admin:override")
        return [
            {
                "text": WORDS[one].button(1),
                "icon": WORDS[one].icon,
                "is_grave": WORDS[one].is_grave,
                "url": f"{page}?action={one.value}&_selected_action={self.job.pk}",
            }
            for one in _BUTTONS
            if one in possible and self.may(one.operation)
        ]

    def _challenge(self) -> dict[str, Any] | None:
        """Return the challenge as it was last read, and its page's address."""
        row = find_challenge_of(self.job)
        if row is None:
            return None
        has_page = admin.site.is_registered(Challenge)
        name = "admin:scheduling_challenge_change"
        return {"row": row, "url": reverse(name, args=[row.pk]) if has_page else ""}


def _find(job_id: str) -> tuple[ScheduledTransition, datetime | None]:
    """Return a job, and when it was archived where it was.

    Raises:
        Http404: There is no such job, and never was.
    """
    try:
        return get_job(job_id), None
    except JobNotFoundError as error:
        archived = None if "\x00" in job_id else find_archived(job_id)
        if archived is None:
            raise Http404(error.detail) from None
        return archived


def _event(job: ScheduledTransition) -> dict[str, Any]:
    """Return the record as it stands on the topic, or as it would."""
    value = json.loads(write_phase_transition(job))
    return {
        "event": json.dumps(value, indent=2, ensure_ascii=False),
        "event_topic": PHASE_TRANSITION,
        "event_key": job.key,
        "event_headers": transition_headers(
            job.job_id, job.event_id, trace_parent=job.trace_parent
        ),
    }
