"""The admin's pages: one model a file."""

from scheduling.admin.audit import AuditEntryAdmin
from scheduling.admin.transitions import ScheduledTransitionAdmin

__all__ = ["AuditEntryAdmin", "ScheduledTransitionAdmin"]
