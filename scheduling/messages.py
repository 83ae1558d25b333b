"""The wire's words: the one module that knows how records look."""

import base64
import json
import re
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, ClassVar, Protocol, TypeVar

from pydantic import AliasChoices, BaseModel, Field, PlainValidator, ValidationError

from scheduling import strict_json
from scheduling.domain.challenges import NOBODY, Challenge, Phase, Reading, Scope
from scheduling.domain.commands import Command, CommandName, CommandResult, find_command
from scheduling.domain.errors import Category, SchedulingError
from scheduling.domain.events import TransitionEvent
from scheduling.domain.lifecycle import TransitionKind
from scheduling.domain.phases import (
    LARGEST_METADATA_BYTES,
    LONGEST_TEXT,
    check_storable,
    format_instant,
    parse_id,
    parse_instant,
    parse_state,
    parse_text,
    wire_id,
)
from scheduling.domain.records import Record
from scheduling.topics import (
    CHALLENGE_UPDATE,
    COMMAND,
    COMMAND_RESULT,
    NOTIFICATION_CREATE,
    NOTIFICATION_UPDATE,
    PHASE_TRANSITION,
)
from scheduling.tracing import trace_headers

ORIGINATOR = "auto_pilot"
MIME_TYPE = "application/json"

# --- Out ------------------------------------------------------------------------------
# `json.dumps` would make one for each record.
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def write_envelope(topic: str, payload: dict[str, object], *, at: datetime) -> bytes:
    """Return a record's value: the payload in its envelope, as UTF-8 JSON."""
    envelope = {
        "topic": topic,
        "originator": ORIGINATOR,
        "timestamp": format_instant(at),
        "mimeType": MIME_TYPE,
        "payload": payload,
    }
    return _ENCODER.encode(envelope).encode()


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


def transition_headers(
    job_id: str, event_id: uuid.UUID, *, trace_parent: str = ""
) -> dict[str, str]:
    """Return the headers of a transition's record (contract, section 8).

    Args:
        trace_parent: Of the trace that the job belongs to, if it does.
    """
    return {
        "event-id": str(event_id),
        "job-id": job_id,
        "correlation-id": str(event_id),
        "content-type": MIME_TYPE,
        **trace_headers(trace_parent),
    }


def write_command_result(result: CommandResult, *, at: datetime) -> bytes:
    """Return the value of the record that answers a command."""
    return write_envelope(COMMAND_RESULT, show_command_result(result), at=at)


def show_command_result(result: CommandResult) -> dict[str, object]:
    """Return the payload that answers a command; null where there is nothing to say."""
    return {
        "command": result.command or None,
        "correlationId": result.correlation_id or None,
        "success": result.is_success,
        "code": result.code or None,
        "message": result.message,
        "jobIds": list(result.job_ids),
    }


class SetAside(Protocol):
    """What a dead letter's record tells of the one that was set aside."""

    topic: Any
    partition: Any
    offset: Any
    key: Any
    value: Any
    code: Any
    category: Any
    message: Any
    errors: Any
    set_aside_at: Any


# What remains of a key where a dead letter must become smaller than it is.
LONGEST_TRUNCATED_KEY = 1_000


def show_dead_letter(letter: SetAside, *, is_truncated: bool = False) -> dict[str, Any]:
    """Return a dead letter as the outside sees it (contract, section 8).

    Args:
        is_truncated: Leave the bytes out, and most of a long key, and say so.
    """
    value = None if letter.value is None else bytes(letter.value)
    shown: dict[str, Any] = {
        "originalTopic": letter.topic,
        "originalPartition": letter.partition,
        "originalOffset": letter.offset,
        "originalKey": show_key(letter.key),
        "originalMessage": (
            None if value is None or is_truncated else base64.b64encode(value).decode()
        ),
        "error": {
            "code": letter.code,
            "category": letter.category,
            "message": letter.message,
            "errors": letter.errors,
        },
        "timestamp": format_instant(letter.set_aside_at),
    }
    if is_truncated:
        key = None if letter.key is None else bytes(letter.key)[:LONGEST_TRUNCATED_KEY]
        shown |= {"originalKey": show_key(key), "truncated": True}
    return shown


def show_key(key: bytes | memoryview | None) -> str | None:
    """Return a record's key as text; bytes that are none are escaped."""
    return None if key is None else bytes(key).decode("utf-8", "backslashreplace")


def write_dead_letter(topic: str, letter: SetAside, *, is_truncated: bool) -> bytes:
    """Return the value of a dead letter's record on its topic."""
    payload = show_dead_letter(letter, is_truncated=is_truncated)
    return write_envelope(topic, payload, at=letter.set_aside_at)


# --- In -------------------------------------------------------------------------------
# What a record may hold; Kafka's own default is about the same.
LARGEST_RECORD_BYTES = 1_048_576
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


class RecordTooLargeError(UnusableMessageError):
    """A record of more bytes than are read."""

    code: ClassVar[str] = "payload_too_large"


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


def _parse_any_text(value: object) -> str:
    """Return a text of any content.

    Raises:
        ValueError: It is something else, or can't be stored.
    """
    if not isinstance(value, str):
        raise ValueError("must be a text")  # noqa: TRY004 -- one error kind per field
    check_storable(value)
    return value


def _parse_correlation_id(value: object) -> str:
    """Return a correlation id; a blank one, like null, is none.

    Raises:
        ValueError: It is no text, or too long.
    """
    is_blank = value is None or (isinstance(value, str) and not value.strip())
    return "" if is_blank else parse_text(value)


def _ignore_unless_large(value: object) -> None:
    """Take metadata that nobody here reads; it is bounded all the same.

    Raises:
        ValueError: It is larger than metadata may be.
    """
    size = len(json.dumps(value, ensure_ascii=False, default=str).encode())
    if size > LARGEST_METADATA_BYTES:
        raise ValueError(f"must hold at most {LARGEST_METADATA_BYTES:,} bytes as JSON")


def _name_if_any(value: object) -> str:
    """Return what serves as a name, or nothing: not worth refusing a record for."""
    try:
        return parse_text(value)
    except ValueError:
        return value[:LONGEST_TEXT] if isinstance(value, str) else ""


def _text_if_any(value: object) -> str:
    """Return a usual text, or nothing where it is none."""
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
_State = Annotated[TransitionKind, PlainValidator(parse_state)]
# A text whose content is judged later.
_AnyText = Annotated[str | None, PlainValidator(_or_none(_parse_any_text))]
_AnyObject = Annotated[dict[str, Any] | None, PlainValidator(_or_none(_parse_object))]


class _Envelope(BaseModel):
    """What is around every payload; unknown fields are ignored, here and below."""

    topic: _Text
    timestamp: _Instant
    originator: _OptionalText = None
    mime_type: _OptionalText = Field(
        None, validation_alias=AliasChoices("mimeType", "mime-type")
    )
    payload: Annotated[dict[str, Any], PlainValidator(_parse_object)]


class _PhaseTransition(BaseModel):
    """The payload of `autopilot.phase.transition`."""

    project_id: _Id = Field(alias="projectId")
    phase_id: _Id = Field(alias="phaseId")
    phase_type_name: _Text = Field(alias="phaseTypeName")
    state: _State
    operator: _Text
    project_status: _Text = Field(alias="projectStatus")
    date: _OptionalInstant = None
    challenge_id: _OptionalId = Field(None, alias="challengeId")
    metadata: Annotated[None, PlainValidator(_ignore_unless_large)] = None


class _Command(BaseModel):
    """The payload of `autopilot.command`: types only, see `read_command`."""

    command: _Text
    operator: _AnyText = None
    correlation_id: Annotated[str, PlainValidator(_parse_correlation_id)] = Field(
        "", alias="correlationId"
    )
    project_id: _OptionalId = Field(None, alias="projectId")
    challenge_id: _OptionalId = Field(None, alias="challengeId")
    phase_id: _OptionalId = Field(None, alias="phaseId")
    state: _AnyText = None
    date: _AnyText = None
    end_time: _AnyText = Field(None, alias="endTime")
    phase_type_name: _AnyText = Field(None, alias="phaseTypeName")
    project_status: _AnyText = Field(None, alias="projectStatus")
    metadata: _AnyObject = None


_COMMAND_ARGUMENTS = frozenset(
    {
        "projectId",
        "challengeId",
        "phaseId",
        "state",
        "date",
        "endTime",
        "phaseTypeName",
        "projectStatus",
        "metadata",
    }
)


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
    created_by: Annotated[str, PlainValidator(_text_if_any)] = Field("", alias="createdBy")
    updated_by: Annotated[str, PlainValidator(_text_if_any)] = Field("", alias="updatedBy")


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
        RecordTooLargeError: It has too many bytes.
        UnusableMessageError: No value, no strict JSON, no envelope, or of another topic.
    """
    if value is None:
        raise UnusableMessageError([("", "has no value (a tombstone)")])
    if len(value) > LARGEST_RECORD_BYTES:
        raise RecordTooLargeError(
            [("", f"has {len(value):,} bytes; at most {LARGEST_RECORD_BYTES:,} are read")]
        )
    try:
        content = strict_json.loads(value)
    except ValueError as error:
        raise UnusableMessageError([("", str(error))]) from None
    envelope = _understand(_Envelope, content)
    if envelope.topic != topic:
        raise UnusableMessageError(
            [("topic", f"is not {topic}, on which the record stands")]
        )
    return envelope


def read_phase_transition(record: Record) -> TransitionEvent:
    """Return what a record of `autopilot.phase.transition` tells.

    Raises:
        UnusableMessageError: It can't be understood.
    """
    envelope = read_envelope(PHASE_TRANSITION, record.value)
    return read_told_transition(envelope.payload, said_at=envelope.timestamp, record=record)


def read_told_transition(
    payload: object, *, said_at: datetime, record: Record | None = None
) -> TransitionEvent:
    """Return what a payload of `autopilot.phase.transition` tells.

    Raises:
        UnusableMessageError: It can't be understood.
    """
    told = _understand(_PhaseTransition, payload, prefix="payload.")
    return TransitionEvent(
        project_id=told.project_id,
        phase_id=told.phase_id,
        kind=told.state,
        challenge_id=told.challenge_id,
        operator=told.operator,
        happened_at=told.date or said_at,
        record=record,
    )


def read_command(record: Record) -> Command:
    """Return the command that a record of `autopilot.command` gives.

    Raises:
        UnusableMessageError: It is no well-formed command.
    """
    envelope = read_envelope(COMMAND, record.value)
    return read_given_command(envelope.payload, correlation_id=record.correlation_id)


def read_given_command(payload: Any, *, correlation_id: str = "") -> Command:
    """Return the command that a payload of `autopilot.command` gives.

    An argument that is missing, or a text that says nothing usable, is left to whoever
    carries the command out: such a command is refused and answered.

    Args:
        correlation_id: The record's; it counts before the payload's.

    Raises:
        UnusableMessageError: It is no well-formed command.
    """
    given = _understand(_Command, payload, prefix="payload.")
    name = find_command(given.command)
    if name is None:
        known = ", ".join(CommandName)
        raise UnusableMessageError(
            [("payload.command", f"is no known command; known are {known}")]
        )
    return Command(
        name=name,
        given_name=given.command,
        operator=given.operator,
        correlation_id=correlation_id or given.correlation_id,
        project_id=given.project_id,
        challenge_id=given.challenge_id,
        phase_id=given.phase_id,
        arguments={
            name: value
            for name, value in payload.items()
            if name in _COMMAND_ARGUMENTS and value is not None
        },
    )


# Enough to find the correlation id of a record that is no JSON.
_CORRELATION_ID = re.compile(rb'"correlationId"\s*:\s*"([^"\\\x00-\x1f]{1,255})"')


def find_correlation_id(record: Record) -> str:
    """Return the correlation id of a record that is no well-formed command, if any.

    The header's, else the payload's, else that of an object without envelope.
    """
    if record.correlation_id:
        return record.correlation_id
    head = (record.value or b"")[:LARGEST_RECORD_BYTES]
    try:
        content = strict_json.loads(record.value or b"") if record.value == head else None
    except ValueError:
        content = None
    if isinstance(content, dict):
        places = (content.get("payload"), content)
        found = [one.get("correlationId") for one in places if isinstance(one, dict)]
        return next(filter(None, map(_text_if_any, found)), "")
    match = _CORRELATION_ID.search(head)
    try:
        text = match[1].decode("utf-8") if match else ""
    except UnicodeDecodeError:
        return ""
    return text if text.isprintable() else ""


def find_given_command(record: Record) -> str:
    """Return how a record that is no well-formed command names its command, if at all."""
    try:
        payload = read_envelope(COMMAND, record.value).payload
    except UnusableMessageError:
        return ""
    return _name_if_any(payload.get("command"))


def read_challenge_update(record: Record) -> Reading:
    """Return what a record of `autopilot.challenge.update` tells.

    Raises:
        UnusableMessageError: It can't be understood.
    """
    envelope = read_envelope(CHALLENGE_UPDATE, record.value)
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


def read_notification_create(record: Record) -> Reading:
    """Return what a record of `challenge.notification.create` tells.

    Raises:
        UnusableMessageError: It can't be understood.
    """
    return _read_notification(NOTIFICATION_CREATE, record)


def read_notification_update(record: Record) -> Reading:
    """Return what a record of `challenge.notification.update` tells.

    Raises:
        UnusableMessageError: It can't be understood.
    """
    return _read_notification(NOTIFICATION_UPDATE, record)


def _read_notification(topic: str, record: Record) -> Reading:
    """Return what a notification tells."""
    envelope = read_envelope(topic, record.value)
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


def read_api_challenge_in_part(value: object) -> tuple[Challenge, list[tuple[str, str]]]:
    """Return a challenge without those of its phases that can't be understood.

    What follows a phase left out is shown without its predecessor.

    Returns:
        The challenge, and of each phase left out the id, empty where it can't be read,
        and the reason.

    Raises:
        UnusableMessageError: The challenge itself can't be understood.
    """
    try:
        return read_api_challenge(value), []
    except UnusableMessageError:
        if not isinstance(value, dict) or not isinstance(value.get("phases"), list):
            raise
    times = Counter(map(read_api_id, value["phases"]))
    usable, left_out = [], []
    for position, phase in enumerate(value["phases"]):
        phase_id = read_api_id(phase)
        reason = f"phases: lists the phase {phase_id} twice" if times[phase_id] > 1 else ""
        try:
            _understand(_ApiPhase, phase, prefix=f"phases[{position}].")
        except UnusableMessageError as error:
            reason = str(error)
        if reason:
            left_out.append((phase_id, reason))
        else:
            usable.append(phase)
    return read_api_challenge({**value, "phases": usable}), left_out


def read_api_id(value: object) -> str:
    """Return the canonical id of what the Challenge API shows, or nothing."""
    try:
        return parse_id(value.get("id")) if isinstance(value, dict) else ""
    except ValueError:
        return ""


def _check_once(phase_ids: Sequence[str], *, field: str) -> None:
    """Refuse a list that names a phase twice: which of the two counts?

    Raises:
        UnusableMessageError: Names the phase.
    """
    twice = [phase_id for phase_id, times in Counter(phase_ids).items() if times > 1]
    if twice:
        raise UnusableMessageError([(field, f"lists the phase {twice[0]} twice")])
