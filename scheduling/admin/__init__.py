"""The admin's pages: one model a file."""

from scheduling.admin.audit import AuditEntryAdmin
from scheduling.admin.challenges import ChallengeAdmin
from scheduling.admin.transitions import ScheduledTransitionAdmin

__all__ = ["AuditEntryAdmin", "ChallengeAdmin", "ScheduledTransitionAdmin"]
