"""Batches of schedule changes that may be repeated: the first answer is given again.

Unlike an `Idempotency-Key`, a `batchId` belongs to the batch and not to whoever sends it,
and its row is part of the very transaction that makes the changes: of twins that arrive
together one waits for the other.
"""

import hashlib
import json
import uuid
from datetime import datetime, timedelta
from typing import Any

from scheduling.domain.actors import Actor
from scheduling.domain.adjustment_request import AdjustmentRequest
from scheduling.domain.errors import ConflictError
from scheduling.domain.phases import format_instant
from scheduling.models import AdjustmentBatch
from scheduling.services.forget import forget

KEPT = timedelta(days=30)
BATCH = 1_000
Answer = dict[str, Any]


def first_answer(request: AdjustmentRequest, *, now: datetime) -> Answer | None:
    """Return the answer of the batch's first request; None where there was none.

    Raises:
        ConflictError: The batch id was given with another body.
    """
    rows = AdjustmentBatch.objects.filter(
        batch_id=request.batch_id, created_at__gt=now - KEPT
    )
    row = rows.first()
    return None if row is None else _answer_of(row, request)


def begin(request: AdjustmentRequest, *, actor: Actor, now: datetime) -> Answer | None:
    """Add the batch, in the caller's transaction; or return its first answer.

    A twin that is being handled is waited for. Where nothing comes of the batch, the
    caller's rollback takes it away again.

    Raises:
        ConflictError: As `first_answer`.
    """
    if request.batch_id is None:
        return None
    same = AdjustmentBatch.objects.filter(batch_id=request.batch_id)
    same.filter(created_at__lte=now - KEPT).delete()
    made = AdjustmentBatch(
        batch_id=request.batch_id,
        fingerprint=_fingerprint(request),
        token=uuid.uuid4(),
        actor=actor.name,
        created_at=now,
    )
    AdjustmentBatch.objects.bulk_create([made], ignore_conflicts=True)
    row = same.get()
    return None if row.token == made.token else _answer_of(row, request)


def keep(request: AdjustmentRequest, answer: Answer) -> None:
    """Keep the answer for whoever repeats the request."""
    if request.batch_id is not None:
        AdjustmentBatch.objects.filter(batch_id=request.batch_id).update(answer=answer)


def _answer_of(row: AdjustmentBatch, request: AdjustmentRequest) -> Answer:
    """Return the answer of a batch that is repeated.

    Raises:
        ConflictError: It is another one under the same id.
    """
    if row.fingerprint != _fingerprint(request):
        raise ConflictError(
            f"the batch {request.batch_id} was accepted with another body; use a new id",
            batchId=request.batch_id,
        )
    answer: Answer = row.answer
    return answer


def _fingerprint(request: AdjustmentRequest) -> str:
    """Return the digest of what is asked for, whatever its spelling."""
    changes = [
        [
            *change.identity,
            change.phase_type_name,
            format_instant(change.new_due_at),
            change.reason,
        ]
        for change in request.changes
    ]
    asked = [
        changes,
        request.operator,
        request.reason,
        request.on_conflict,
        request.is_atomic,
    ]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def forget_old_batches(*, now: datetime) -> int:
    """Delete what is older than 30 days; return how many."""
    old = AdjustmentBatch.objects.filter(created_at__lte=now - KEPT)
    return forget(old, order_by="created_at", size=BATCH)
