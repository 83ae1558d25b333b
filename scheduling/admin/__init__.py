"""The admin's pages: one model a file."""

from scheduling.admin.audit import AuditEntryAdmin
from scheduling.admin.override_page import OverridePage
from scheduling.admin.schedule_page import SchedulePage
from scheduling.admin.settings_page import SettingsPage
from scheduling.admin.transitions import ScheduledTransitionAdmin

__all__ = [
    "AuditEntryAdmin",
    "OverridePage",
    "SchedulePage",
    "ScheduledTransitionAdmin",
    "SettingsPage",
]
