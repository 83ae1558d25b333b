"""Who acts, in which role, and what each role may do: the one table that decides."""

from dataclasses import dataclass
from enum import StrEnum

from typing_extensions import override

from scheduling.domain.errors import OperationNotPermittedError


class Role(StrEnum):
    """The three roles, each including the one before it, and the system's own."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"
    SYSTEM = "system"


class Operation(StrEnum):
    """What may be asked of the product."""

    VIEW = "view"
    SCHEDULE = "schedule"
    UPDATE = "update"
    CANCEL = "cancel"
    RUN_NOW = "run_now"
    RETRY = "retry"
    ADJUST = "adjust"
    REPLAY = "replay"
    DISCARD = "discard"
    RECOVER = "recover"
    EXPIRE = "expire"
    RESET_BREAKER = "reset_breaker"
    CHANGE_SETTINGS = "change_settings"


# The roles of people, from the least.
PEOPLES = (Role.VIEWER, Role.OPERATOR, Role.ADMIN)
_ADMIN = frozenset(Operation) - {Operation.EXPIRE}
_OPERATOR = _ADMIN - {Operation.RESET_BREAKER, Operation.CHANGE_SETTINGS}
ALLOWED_OPERATIONS: dict[Role, frozenset[Operation]] = {
    Role.VIEWER: frozenset({Operation.VIEW}),
    Role.OPERATOR: _OPERATOR,
    Role.ADMIN: _ADMIN,
    Role.SYSTEM: frozenset(Operation),
}


@dataclass(frozen=True, kw_only=True)
class Actor:
    """Who caused a change, as the audit writes it.

    name: `user:NAME`, `cli:NAME`, `kafka:OPERATOR` or `system:PART` (contract,
        section 4).
    role: decides what the actor may do.
    request_id: joins the audit entries of one request; empty where there is none.
    """

    name: str
    role: Role
    request_id: str = ""

    @property
    def is_person(self) -> bool:
        """Whether a human decided: what people settle, no automatism undoes."""
        return self.role is not Role.SYSTEM


@dataclass(frozen=True)
class OutsideUser:
    """Whom an outside issuer vouches for; nobody in our database.

    name: `iss|sub`, as the audit names the actor.
    role: the highest of ours in the token; None without.
    """

    name: str
    role: Role | None

    pk = None
    is_authenticated = True
    is_anonymous = False
    is_active = True
    is_staff = False
    is_superuser = False

    def get_username(self) -> str:
        """Return the name."""
        return self.name

    @override
    def __str__(self) -> str:
        return self.name


SCHEDULER = Actor(name="system:scheduler", role=Role.SYSTEM)
RECOVERY = Actor(name="system:recovery", role=Role.SYSTEM)
CONSUMER = Actor(name="system:consumer", role=Role.SYSTEM)


def user_actor(name: str, *, role: Role, request_id: str = "") -> Actor:
    """Name a signed-in user."""
    return Actor(name=f"user:{name}", role=role, request_id=request_id)


def cli_actor(name: str) -> Actor:
    """Name whoever runs a management command: the shell's owner may do everything."""
    return Actor(name=f"cli:{name}", role=Role.ADMIN)


def kafka_actor(operator: str, *, request_id: str = "") -> Actor:
    """Name the operator of a record that upstream put on a topic."""
    return Actor(name=f"kafka:{operator}", role=Role.OPERATOR, request_id=request_id)


def is_permitted(role: Role, operation: Operation) -> bool:
    """Tell whether a role may do an operation."""
    return operation in ALLOWED_OPERATIONS[role]


def least_role(operation: Operation) -> Role | None:
    """Return the least of people's roles that may do an operation; None for none."""
    return next((role for role in PEOPLES if is_permitted(role, operation)), None)


def authorize(actor: Actor, operation: Operation) -> None:
    """Refuse an actor whose role may not do the operation.

    Raises:
        OperationNotPermittedError: The role's row in the table lacks the operation.
    """
    if not is_permitted(actor.role, operation):
        least = least_role(operation)
        raise OperationNotPermittedError(
            f"the role {actor.role.value} may not {operation.value.replace('_', ' ')}"
            + (f": that takes the role {least.value}" if least else ""),
            operation=operation.value,
            role=actor.role.value,
        )
