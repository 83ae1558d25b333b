"""The rows: one model a file."""

from scheduling.models.audit_entry import AuditEntry
from scheduling.models.challenge import Challenge, Phase
from scheduling.models.housekeeping import Housekeeping
from scheduling.models.inbox_message import InboxMessage
from scheduling.models.scheduled_transition import ScheduledTransition
from scheduling.models.settled_transition import SettledTransition

__all__ = [
    "AuditEntry",
    "Challenge",
    "Housekeeping",
    "InboxMessage",
    "Phase",
    "ScheduledTransition",
    "SettledTransition",
]
