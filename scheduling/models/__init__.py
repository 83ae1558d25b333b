"""The rows: one model a file."""

from scheduling.models.adjustment_batch import AdjustmentBatch
from scheduling.models.alert import Alert, Notification
from scheduling.models.audit_entry import AuditEntry
from scheduling.models.audit_seal import AuditSeal
from scheduling.models.challenge import Challenge, Phase
from scheduling.models.circuit_breaker import CircuitBreaker
from scheduling.models.dead_letter import DeadLetter
from scheduling.models.housekeeping import Housekeeping
from scheduling.models.idempotency_key import IdempotencyKey
from scheduling.models.inbox_message import InboxMessage
from scheduling.models.job_text import JobText
from scheduling.models.outgoing_record import OutgoingRecord
from scheduling.models.process_state import ProcessState
from scheduling.models.rate_count import RateCount
from scheduling.models.revoked_token_family import RevokedTokenFamily
from scheduling.models.running_total import RunningTotal
from scheduling.models.scheduled_transition import ScheduledTransition
from scheduling.models.settled_transition import SettledTransition
from scheduling.models.verification_result import VerificationResult

__all__ = [
    "AdjustmentBatch",
    "Alert",
    "AuditEntry",
    "AuditSeal",
    "Challenge",
    "CircuitBreaker",
    "DeadLetter",
    "Housekeeping",
    "IdempotencyKey",
    "InboxMessage",
    "JobText",
    "Notification",
    "OutgoingRecord",
    "Phase",
    "ProcessState",
    "RateCount",
    "RevokedTokenFamily",
    "RunningTotal",
    "ScheduledTransition",
    "SettledTransition",
    "VerificationResult",
]
