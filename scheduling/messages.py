"""The wire's words: the one module that knows how records look."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, ClassVar, Protocol, TypeVar

from pydantic import AliasChoices, BaseModel, Field, PlainValidator, ValidationError

from scheduling import strict_json
from scheduling.domain.challenges import NOBODY, Challenge, Phase, Reading, Scope
from scheduling.domain.errors import Category, SchedulingError
from scheduling.domain.phases import (
    LONGEST_TEXT,
    format_instant,
    parse_id,
    parse_instant,
    parse_text,
    wire_id,
)
from scheduling.topics import (
    CHALLENGE_UPDATE,
    NOTIFICATION_CREATE,
    NOTIFICATION_UPDATE,
    PHASE_TRANSITION,
)

ORIGINATOR = "auto_pilot"
MIME_TYPE = "application/json"

# --- Out ------------------------------------------------------------------------------


def write_envelope(topic: str, payload: dict[str, object], *, at: datetime) -> bytes:
    """Return a record's value: the payload in its envelope, as UTF-8 JSON."""
    envelope = {
        "topic": topic,
        "originator": ORIGINATOR,
        "timestamp": format_instant(at),
        "mimeType": MIME_TYPE,
        "payload": payload,
    }
    return json.dumps(envelope, ensure_ascii=False, separators=(",", ":")).encode()


class PublishableJob(Protocol):
    """What a transition's record tells of its job: a claimed one, or a row."""

    @property
    def project_id(self) -> str:
        """Canonical id of its project."""
        ...

    @property
    def phase_id(self) -> str:
        """Canonical id of its phase."""
        ...

    @property
    def challenge_id(self) -> str | None:
        """Canonical id of its challenge, if known."""
        ...

    @property
    def phase_type_name(self) -> str:
        """What the phase is called."""
        ...

    @property
    def state(self) -> str:
        """START or END."""
        ...

    @property
    def operator(self) -> str:
        """Who asked for it."""
        ...

    @property
    def project_status(self) -> str:
        """The status that came with it."""
        ...

    @property
    def event_at(self) -> datetime:
        """The event's instant, aware UTC."""
        ...


def write_phase_transition(job: PublishableJob) -> bytes:
    """Return the value of a transition's record.

    It holds nothing that differs between attempts: whoever finds the record twice finds
    the same bytes.
    """
    payload: dict[str, object] = {
        "projectId": wire_id(job.project_id),
        "phaseId": wire_id(job.phase_id),
        "phaseTypeName": job.phase_type_name,
        "state": job.state,
        "operator": job.operator,
        "projectStatus": job.project_status,
        "date": format_instant(job.event_at),
    }
    if job.challenge_id is not None:
        payload["challengeId"] = wire_id(job.challenge_id)
    return write_envelope(PHASE_TRANSITION, payload, at=job.event_at)


# --- In -------------------------------------------------------------------------------
Value = TypeVar("Value")
ModelT = TypeVar("ModelT", bound=BaseModel)


class UnusableMessageError(SchedulingError):
    """A record that came in well and can't be understood; `errors`: field and cause.

    The field of the record as a whole is empty.
    """

    code: ClassVar[str] = "invalid_request"
    category: ClassVar[Category] = Category.VALIDATION

    def __init__(self, errors: Sequence[tuple[str, str]]) -> None:
        super().__init__(
            "; ".join(f"{field or 'the record'}: {cause}" for field, cause in errors),
            errors=list(errors),
        )
        self.errors = list(errors)


def _or_none(parse: Callable[[object], Value]) -> Callable[[object], Value | None]:
    """Return the parser for a field where null means absent."""
    return lambda value: None if value is None else parse(value)


def _parse_object(value: object) -> dict[str, Any]:
    """Return an object of any content.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(value, dict):
        raise ValueError("must be an object")  # noqa: TRY004 -- one error kind per field
    return value


def _name_if_any(value: object) -> str:
    """Return what serves as a name, or nothing: not worth refusing a record for."""
    try:
        return parse_text(value)
    except ValueError:
        return value[:LONGEST_TEXT] if isinstance(value, str) else ""


def _operator_if_any(value: object) -> str:
    """Return who is named, or nothing where it can't be a name."""
    try:
        return parse_text(value)
    except ValueError:
        return ""


_Id = Annotated[str, PlainValidator(parse_id)]
_Text = Annotated[str, PlainValidator(parse_text)]
_Instant = Annotated[datetime, PlainValidator(parse_instant)]
_OptionalId = Annotated[str | None, PlainValidator(_or_none(parse_id))]
_OptionalText = Annotated[str | None, PlainValidator(_or_none(parse_text))]
_OptionalInstant = Annotated[datetime | None, PlainValidator(_or_none(parse_instant))]


class _Envelope(BaseModel):
    """What is around every payload; unknown fields are ignored, here and below."""

    topic: _Text
    timestamp: _Instant
    originator: _OptionalText = None
    mime_type: _OptionalText = Field(
        None, validation_alias=AliasChoices("mimeType", "mime-type")
    )
    payload: Annotated[dict[str, Any], PlainValidator(_parse_object)]


class _MovedPhase(BaseModel):
    """An entry of `phases` in `autopilot.challenge.update`: the END's instant.

    Its `state` is the phase's own and not read.
    """

    phase_id: _Id = Field(alias="phaseId")
    name: _Text = Field(alias="phaseTypeName")
    end_time: _Instant = Field(alias="endTime")
    previous_end_time: _OptionalInstant = Field(None, alias="previousEndTime")


class _ChallengeUpdate(BaseModel):
    """The payload of `autopilot.challenge.update`."""

    project_id: _Id = Field(alias="projectId")
    challenge_id: _Id = Field(alias="challengeId")
    status: _Text
    operator: _Text
    date: _OptionalInstant = None
    phases: list[_MovedPhase] | None = None


class _ApiPhase(BaseModel):
    """A phase as the Challenge API shows it; `phaseId` is the template's id."""

    phase_id: _Id = Field(alias="id")
    template_id: _OptionalId = Field(None, alias="phaseId")
    name: _Text
    scheduled_start_at: _OptionalInstant = Field(None, alias="scheduledStartDate")
    scheduled_end_at: _OptionalInstant = Field(None, alias="scheduledEndDate")
    actual_start_at: _OptionalInstant = Field(None, alias="actualStartDate")
    actual_end_at: _OptionalInstant = Field(None, alias="actualEndDate")
    predecessor: _OptionalId = None


class _ApiChallenge(BaseModel):
    """A challenge as the Challenge API shows it, of which little is needed here."""

    challenge_id: _Id = Field(alias="id")
    project_id: _Id = Field(alias="projectId")
    status: _Text
    phases: list[_ApiPhase] | None = None
    name: Annotated[str, PlainValidator(_name_if_any)] = ""
    created_by: Annotated[str, PlainValidator(_operator_if_any)] = Field(
        "", alias="createdBy"
    )
    updated_by: Annotated[str, PlainValidator(_operator_if_any)] = Field(
        "", alias="updatedBy"
    )


# What pydantic says of JSON, in the words of the other refusals.
_CAUSES = {
    "missing": "is required",
    "list_type": "must be a list",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
}


def _understand(model: type[ModelT], value: object, *, prefix: str = "") -> ModelT:
    """Return the value as the model has it.

    Args:
        prefix: Where the value stands in the record, such as `payload.`.

    Raises:
        UnusableMessageError: Names every field that is missing or wrong.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise UnusableMessageError(
            [
                (prefix + _path(problem["loc"]), _cause(problem))
                for problem in error.errors(include_url=False, include_input=False)
            ]
        ) from None


def _path(places: Sequence[int | str]) -> str:
    """Return a place in a record, such as `phases[2].endTime`."""
    text = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in places)
    return text.removeprefix(".")


def _cause(problem: Any) -> str:
    """Return what is wrong with a field."""
    cause = problem.get("ctx", {}).get("error")
    return str(cause) if cause else _CAUSES.get(problem["type"], str(problem["msg"]))


def read_envelope(topic: str, value: bytes | None) -> _Envelope:
    """Return a record's envelope.

    Args:
        topic: Where the record stands; the envelope has to name the same.

    Raises:
        UnusableMessageError: No value, no strict JSON, no envelope, or of another topic.
    """
    if value is None:
        raise UnusableMessageError([("", "has no value (a tombstone)")])
    try:
        content = strict_json.loads(value)
    except ValueError as error:
        raise UnusableMessageError([("", str(error))]) from None
    envelope = _understand(_Envelope, content)
    if envelope.topic != topic:
        raise UnusableMessageError(
            [("topic", f"names {envelope.topic!r}, but the record stands on {topic!r}")]
        )
    return envelope


def read_challenge_update(value: bytes | None) -> Reading:
    """Return what a record of `autopilot.challenge.update` tells.

    Raises:
        UnusableMessageError: It can't be understood.
    """
    envelope = read_envelope(CHALLENGE_UPDATE, value)
    return Reading(
        challenge=read_updated_challenge(envelope.payload),
        source=CHALLENGE_UPDATE,
        scope=Scope.ENDS,
        said_at=envelope.timestamp,
    )


def read_updated_challenge(payload: object) -> Challenge:
    """Return the challenge that a payload of `autopilot.challenge.update` tells of.

    Raises:
        UnusableMessageError: It can't be understood.
    """
    update = _understand(_ChallengeUpdate, payload, prefix="payload.")
    phases = update.phases or []
    _check_once([phase.phase_id for phase in phases], field="payload.phases")
    return Challenge(
        challenge_id=update.challenge_id,
        project_id=update.project_id,
        status=update.status,
        operator=update.operator,
        phases=tuple(
            Phase(phase_id=p.phase_id, name=p.name, scheduled_end_at=p.end_time)
            for p in phases
        ),
    )


def read_notification_create(value: bytes | None) -> Reading:
    """Return what a record of `challenge.notification.create` tells.

    Raises:
        UnusableMessageError: It can't be understood.
    """
    return _read_notification(NOTIFICATION_CREATE, value)


def read_notification_update(value: bytes | None) -> Reading:
    """Return what a record of `challenge.notification.update` tells.

    Raises:
        UnusableMessageError: It can't be understood.
    """
    return _read_notification(NOTIFICATION_UPDATE, value)


def _read_notification(topic: str, value: bytes | None) -> Reading:
    """Return what a notification tells."""
    envelope = read_envelope(topic, value)
    return Reading(
        challenge=read_api_challenge(envelope.payload, prefix="payload."),
        source=topic,
        said_at=envelope.timestamp,
    )


def read_api_challenge(value: object, *, prefix: str = "") -> Challenge:
    """Return a challenge from the Challenge API's JSON object.

    Args:
        prefix: Where the object stands in what was received, for the errors.

    Raises:
        UnusableMessageError: It can't be understood.
    """
    shown = _understand(_ApiChallenge, value, prefix=prefix)
    phases = shown.phases or []
    _check_once([phase.phase_id for phase in phases], field=f"{prefix}phases")
    return Challenge(
        challenge_id=shown.challenge_id,
        project_id=shown.project_id,
        status=shown.status,
        operator=shown.updated_by or shown.created_by or NOBODY,
        name=shown.name,
        phases=tuple(
            Phase(
                phase_id=phase.phase_id,
                name=phase.name,
                template_id=phase.template_id or "",
                scheduled_start_at=phase.scheduled_start_at,
                scheduled_end_at=phase.scheduled_end_at,
                actual_start_at=phase.actual_start_at,
                actual_end_at=phase.actual_end_at,
                predecessor=phase.predecessor or "",
            )
            for phase in phases
        ),
    )


def _check_once(phase_ids: Sequence[str], *, field: str) -> None:
    """Refuse a list that names a phase twice: which of the two counts?

    Raises:
        UnusableMessageError: Names the phase.
    """
    twice = [phase_id for phase_id, times in Counter(phase_ids).items() if times > 1]
    if twice:
        raise UnusableMessageError([(field, f"lists the phase {twice[0]} twice")])
