"""The list of runs, and one run with what it changed and why."""

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

from django.db.models import QuerySet
from django.http import Http404
from typing_extensions import override

from recovery.admin.shown_runs import ShownRun, show_run
from recovery.models import RecoveryRun
from recovery.results import RunStatus, Trigger
from scheduling.admin.audit import ToldEntry, tell
from scheduling.conf import recovery_settings
from scheduling.domain.actors import RECOVERY, Operation
from scheduling.domain.errors import InvalidRequestError
from scheduling.domain.phases import parse_query_id
from scheduling.models import AuditEntry
from scheduling.pages.lists import ListField, ListPage
from scheduling.services.audit import ACTIONS

# Of what stood in the way; the API has all.
MOST_REASONS: Final = 200


class RunList(ListPage):
    """All runs that are kept, the newest first."""

    title = "Recovery"
    template_name = "admin/recovery_list.html"
    noun = "run"
    empty = "No run matches. One begins with the clusters, and then from time to time."
    page_size = 30
    fields = (
        ListField(
            name="trigger",
            label="Trigger",
            choices=[(one.value, one.value) for one in Trigger],
        ),
        ListField(
            name="status",
            label="Status",
            choices=[(one.value, one.value.replace("_", " ").lower()) for one in RunStatus],
        ),
    )

    @override
    def find(self, filters: Mapping[str, Any]) -> QuerySet[Any]:
        known: Mapping[str, Collection[str]] = {
            "trigger": [one.value for one in Trigger],
            "status": [one.value for one in RunStatus],
        }
        errors = [
            (name, f"must be one of {', '.join(known[name])}")
            for name, value in filters.items()
            if value not in known[name]
        ]
        if errors:
            raise InvalidRequestError(errors)
        # A run may name a thousand phases; the list needs none of them.
        return RecoveryRun.objects.filter(**filters).order_by("-id").defer("errors")

    @override
    def show(self, rows: Sequence[RecoveryRun]) -> Sequence[ShownRun]:
        return [show_run(row) for row in rows]

    @override
    def context(self) -> dict[str, Any]:
        return {
            "may_recover": self.may(Operation.RECOVER),
            "is_enabled": recovery_settings().enabled,
            **super().context(),
        }


class RunPage(ListPage):
    """One run: its counters, what stood in the way, and each change with its reason."""

    title = "Recovery run"
    template_name = "admin/recovery_run.html"
    noun = "change"
    page_size = 100
    empty = "The run changed no transition, or none that matches."
    has_count = False
    fields = (
        ListField(
            name="action",
            label="Decision",
            choices=[
                (action, action.partition(".")[2].replace("_", " "))
                for action in sorted(ACTIONS)
                if action.startswith("transition.")
            ],
        ),
        ListField(name="phase_id", label="Phase id"),
    )

    @cached_property
    def run(self) -> RecoveryRun:
        """The run that the address names.

        Raises:
            Http404: There is none, or it is kept no longer.
        """
        key = str(self.kwargs["key"])
        is_key = key.isascii() and key.isdigit() and len(key) < 19  # noqa: PLR2004 -- 64 bits
        row = RecoveryRun.objects.filter(pk=int(key)).first() if is_key else None
        if row is None:
            raise Http404("there is no such run")
        return row

    @override
    def find(self, filters: Mapping[str, Any]) -> QuerySet[Any]:
        run = self.run
        # The actor's index, within the run's time, finds them among millions.
        rows = AuditEntry.objects.filter(
            actor=RECOVERY.name,
            at__gte=run.started_at or run.created_at,
            at__lte=run.finished_at or self.now,
            request_id=str(run.run_id),
        )
        if "action" in filters:
            rows = rows.filter(action=filters["action"])
        if "phase_id" in filters:
            try:
                rows = rows.filter(phase_id=parse_query_id(filters["phase_id"]))
            except ValueError as error:
                raise InvalidRequestError([("phaseId", str(error))]) from None
        return rows.exclude(action__startswith="recovery.").order_by("-at", "-id")

    @override
    def show(self, rows: Sequence[AuditEntry]) -> Sequence[ToldEntry]:
        return tell(rows)

    @override
    def context(self) -> dict[str, Any]:
        run = show_run(self.run)
        reasons = [one for one in self.run.errors if isinstance(one, dict)]
        return {
            "run": run,
            "reasons": reasons[:MOST_REASONS],
            "more_reasons": max(0, len(reasons) - MOST_REASONS),
            **super().context(),
        }
