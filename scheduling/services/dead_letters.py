"""What people do about records that were set aside: handle them again, or give up."""

import uuid
from datetime import datetime
from typing import Any

from django.db import transaction

from scheduling.domain.actors import Actor, Operation, authorize
from scheduling.domain.errors import DeadLetterNotFoundError, DeadLetterSettledError
from scheduling.models import DeadLetter
from scheduling.models.dead_letter import DISCARDED, NEW, REPLAYED
from scheduling.services.audit import record_act
from scheduling.services.cancel import read_reason
from scheduling.services.incoming import handle_again
from scheduling.services.set_aside import original_record


def replay_dead_letter(
    dead_letter_id: uuid.UUID, *, actor: Actor, now: datetime
) -> DeadLetter:
    """Handle a dead letter's original bytes again, as if just received.

    What fails again is a new dead letter, and this one is replayed all the same.

    Raises:
        OperationNotPermittedError: The actor's role may not.
        DeadLetterNotFoundError, DeadLetterSettledError: As `lock_new`.
        ServiceUnavailableError: A neighbour is out of reach; nothing was changed.

    Source: contract, section 4.
    """
    authorize(actor, Operation.REPLAY)
    record = original_record(get_dead_letter(dead_letter_id))
    replayed: list[DeadLetter] = []

    def take() -> None:
        """Mark it, in the transaction of what it does: it is done once."""
        letter = lock_new(dead_letter_id)
        letter.status, letter.replayed_at = REPLAYED, now
        letter.save(update_fields=["status", "replayed_at"])
        record_act("dead_letter.replayed", actor=actor, now=now, changes=about(letter))
        replayed[:] = [letter]

    handle_again(record, take=take, replay_of=dead_letter_id, now=now)
    return replayed[0]


def get_dead_letter(dead_letter_id: uuid.UUID) -> DeadLetter:
    """Return a dead letter as it stands.

    Raises:
        DeadLetterNotFoundError: There is none of that id.
    """
    letter = DeadLetter.objects.filter(pk=dead_letter_id).first()
    if letter is None:
        raise DeadLetterNotFoundError(f"there is no dead letter {dead_letter_id}")
    return letter


def lock_new(dead_letter_id: uuid.UUID) -> DeadLetter:
    """Return a dead letter that nobody dealt with, locked for the caller's transaction.

    Raises:
        DeadLetterNotFoundError: There is none of that id.
        DeadLetterSettledError: It was replayed or discarded.
    """
    letter = DeadLetter.objects.select_for_update().filter(pk=dead_letter_id).first()
    if letter is None:
        raise DeadLetterNotFoundError(f"there is no dead letter {dead_letter_id}")
    if letter.status != NEW:
        raise DeadLetterSettledError(
            f"the dead letter {dead_letter_id} is {letter.status} already",
            deadLetterStatus=letter.status,
        )
    return letter


def discard_dead_letter(
    dead_letter_id: uuid.UUID, *, actor: Actor, reason: object, now: datetime
) -> DeadLetter:
    """Give a dead letter up; it stays on record.

    Raises:
        OperationNotPermittedError: The actor's role may not.
        InvalidRequestError: The reason is missing or blank.
        DeadLetterNotFoundError, DeadLetterSettledError: As `lock_new`.
    """
    authorize(actor, Operation.DISCARD)
    why = read_reason(reason)
    with transaction.atomic():
        letter = lock_new(dead_letter_id)
        letter.status, letter.reason = DISCARDED, why
        letter.save(update_fields=["status", "reason"])
        record_act(
            "dead_letter.discarded",
            actor=actor,
            now=now,
            changes=about(letter),
            reason=why,
        )
    return letter


def about(letter: DeadLetter) -> dict[str, Any]:
    """Return how the audit names a dead letter."""
    return {"deadLetterId": str(letter.pk), "record": str(letter), "code": letter.code}
