"""The admin's pages: one model a file."""

from scheduling.admin.adjustment import ScheduleAdjustment
from scheduling.admin.audit import AuditEntryAdmin
from scheduling.admin.breakers import CircuitBreakers, ResetBreaker
from scheduling.admin.challenges import ChallengeAdmin
from scheduling.admin.cluster import Cluster
from scheduling.admin.dead_letters import DeadLetterAdmin
from scheduling.admin.override_page import OverridePage
from scheduling.admin.schedule_page import SchedulePage
from scheduling.admin.settings_page import SettingsPage
from scheduling.admin.transitions import ScheduledTransitionAdmin

__all__ = [
    "AuditEntryAdmin",
    "ChallengeAdmin",
    "CircuitBreakers",
    "Cluster",
    "DeadLetterAdmin",
    "OverridePage",
    "ResetBreaker",
    "ScheduleAdjustment",
    "SchedulePage",
    "ScheduledTransitionAdmin",
    "SettingsPage",
]
