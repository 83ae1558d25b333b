"""What the product says to programs, in the words of the pages."""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

from scheduling.domain.phases import parse_instant
from scheduling.models import Phase, ScheduledTransition
from scheduling.pages.texts import instant_text

_INSTANT: Final = re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
# Where an id stands for a phase.
_PHASE: Final = re.compile(r"\b(phase|predecessor) ([\w-]+)")


def plain(text: str, *, now: datetime) -> str:
    """Return a message with instants as the pages write them, and no field's name."""
    said = _INSTANT.sub(
        lambda found: instant_text(parse_instant(found[0]), now=now, has_milliseconds=True),
        text,
    )
    return said.removeprefix("endTime ")


def tell_conflicts(details: Iterable[str], *, now: datetime) -> list[str]:
    """Return how instants conflict, with the phases' names, by two queries."""
    details = list(details)
    ids = {found[2] for text in details for found in _PHASE.finditer(text)}
    names = _names_of(ids)

    def name(found: re.Match[str]) -> str:
        known = names.get(found[2])
        if known is None:
            return found[0]
        return f"{known} ({found[2]})" if found[1] == "phase" else f"predecessor {known}"

    return [plain(_PHASE.sub(name, text), now=now) for text in details]


def _names_of(phase_ids: Iterable[str]) -> Mapping[str, str]:
    """Return the names of phases: of jobs, or as upstream last showed them."""
    ids = list(phase_ids)
    jobs = ScheduledTransition.objects.filter(phase_id__in=ids).order_by("id")
    return dict(
        [
            *Phase.objects.filter(phase_id__in=ids).values_list("phase_id", "name"),
            *jobs.values_list("phase_id", "phase_type_name"),
        ]
    )
