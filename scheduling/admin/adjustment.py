"""The schedule changed by a document: pasted or uploaded, planned, then carried out."""

from dataclasses import replace
from typing import Any, Final

from typing_extensions import override

from scheduling import strict_json
from scheduling.admin.plan_pages import CHOICES, PlanPage
from scheduling.domain.adjustment_request import AdjustmentRequest, read_adjustment
from scheduling.domain.changes import OnConflict
from scheduling.domain.errors import InvalidRequestError
from scheduling.pages.base import admin_page
from scheduling.pages.texts import number_text

# A thousand changes with a reason each take less.
LARGEST_DOCUMENT: Final = 1024 * 1024
# The reason of a plan that nobody carries out yet.
_NO_REASON_YET: Final = "a look"
EXAMPLE: Final = """[
  {"projectId": 12345, "phaseId": 67890, "newEndTime": "2030-03-01T09:00:00Z"}
]"""


@admin_page
class ScheduleAdjustment(PlanPage):
    """Shows what a document would change, and changes it; the REST door's own service."""

    path = "schedule-adjustment/"
    name = "schedule_adjustment"
    title = "Schedule adjustment"
    template_name = "admin/schedule_adjustment.html"
    verb = "Change"
    has_choices = True

    @override
    def context(self) -> dict[str, Any]:
        chosen = self.request.POST.get("on_conflict", OnConflict.REJECT.value)
        is_atomic = self.request.method != "POST" or "atomic" in self.request.POST
        return {
            "document": self._shown_document(),
            "example": EXAMPLE,
            "choices": [
                (choice.value, label, choice.value == chosen)
                for choice, label in CHOICES.items()
            ],
            "is_atomic": is_atomic,
            **super().context(),
        }

    @override
    def read_request(self) -> AdjustmentRequest | None:
        if self.request.method != "POST":
            return None
        content = self._read_document()
        if not content.strip():
            raise InvalidRequestError([("changes", "are missing: paste or upload some")])
        try:
            given = strict_json.loads(content)
        except ValueError as error:
            raise InvalidRequestError([("document", str(error))]) from None
        # The API's body, or only its changes.
        body = given if isinstance(given, dict) else {"changes": given}
        # A body may have a reason of its own; the form's takes its place.
        request = read_adjustment({**body, "updateReason": _NO_REASON_YET})
        return replace(
            request,
            is_dry_run=False,
            on_conflict=self._on_conflict(),
            is_atomic="atomic" in self.request.POST,
        )

    def _on_conflict(self) -> OnConflict:
        """Return what becomes of conflicts, as chosen on the page.

        Raises:
            InvalidRequestError: It is none of the choices.
        """
        try:
            return OnConflict(self.request.POST.get("on_conflict", ""))
        except ValueError:
            allowed = ", ".join(OnConflict)
            raise InvalidRequestError(
                [("on conflict", f"must be one of {allowed}")]
            ) from None

    def _read_document(self) -> bytes:
        """Return what was uploaded, or else pasted.

        Raises:
            InvalidRequestError: It is too large.
        """
        upload = self.request.FILES.get("file")
        if upload is not None:
            content: bytes = upload.read(LARGEST_DOCUMENT + 1)
        else:
            # What was pasted holds no lone surrogates: the form was UTF-8.
            content = self.request.POST.get("document", "").encode(errors="replace")
        if len(content) > LARGEST_DOCUMENT:
            most = f"must be at most {number_text(LARGEST_DOCUMENT)} bytes"
            raise InvalidRequestError([("document", most)])
        return content

    def _shown_document(self) -> str:
        """Return the document as the form shows it again, an upload too."""
        upload = self.request.FILES.get("file")
        if upload is None:
            return self.request.POST.get("document", "")[: LARGEST_DOCUMENT + 1]
        upload.seek(0)
        content = upload.read(LARGEST_DOCUMENT + 1)
        upload.seek(0)
        return str(content.removeprefix(b"\xef\xbb\xbf").decode(errors="replace"))
