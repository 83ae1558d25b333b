"""How an adjustment's plan, or what was done of it, looks (contract, section 5)."""

from collections.abc import Mapping
from typing import Any

from scheduling.domain.adjustment_request import AdjustmentRequest
from scheduling.domain.changes import AdjustmentPlan, Identity, LiveJob, Move
from scheduling.domain.phases import format_instant, wire_id


def show_adjustment(
    plan: AdjustmentPlan,
    request: AdjustmentRequest,
    *,
    new_job_ids: Mapping[Identity, str],
) -> dict[str, Any]:
    """Return the answer to a request.

    Args:
        new_job_ids: Of the jobs that were made; those of a dry run have none, and are
            shown as null.
    """
    rescheduled = [
        _show_rescheduled(move, move.job, new_job_ids)
        for move in plan.moves
        if move.job is not None
    ]
    created = [_show_created(move, new_job_ids) for move in plan.moves if move.job is None]
    # No change asks for a job's end without another in its place.
    cancelled: list[str] = []
    answer = {
        "success": plan.is_success,
        "dryRun": request.is_dry_run,
        "adjustedCount": len(rescheduled) + len(created),
        "unchangedCount": len(plan.unchanged),
        "rescheduledCount": len(rescheduled),
        "createdCount": len(created),
        "cancelledCount": len(cancelled),
        "conflicts": [
            {
                "type": conflict.type.value,
                "phaseId": wire_id(conflict.phase_id),
                "conflictsWith": conflict.conflicts_with
                and wire_id(conflict.conflicts_with),
                "detail": conflict.detail,
            }
            for conflict in plan.conflicts
        ],
        "errors": [
            {"index": error.index, "code": error.code, "message": error.message}
            for error in plan.errors
        ],
        "details": {
            "rescheduled": rescheduled,
            "created": created,
            "cancelled": cancelled,
        },
        "batchId": request.batch_id,
    }
    return answer if plan.is_success else {**answer, "code": plan.code}


def _show_rescheduled(
    move: Move, old: LiveJob, new_job_ids: Mapping[Identity, str]
) -> dict[str, Any]:
    """Return a job that was replaced."""
    return {
        "oldJobId": old.job_id,
        "newJobId": new_job_ids.get(move.identity),
        "phaseId": wire_id(move.identity[1]),
        "oldEndTime": format_instant(old.due_at),
        "newEndTime": format_instant(move.due_at),
    }


def _show_created(move: Move, new_job_ids: Mapping[Identity, str]) -> dict[str, Any]:
    """Return a job that was made where there was none."""
    project_id, phase_id, kind = move.identity
    return {
        "newJobId": new_job_ids.get(move.identity),
        "projectId": wire_id(project_id),
        "phaseId": wire_id(phase_id),
        "state": kind.value,
        "newEndTime": format_instant(move.due_at),
    }
