"""Circuit breakers: all of them, and how each looks."""

from typing import Any

from scheduling.conf import BREAKER_SETTINGS, breaker_settings
from scheduling.models import CircuitBreaker
from scheduling.queries.filters import show_instant


def list_breakers() -> list[CircuitBreaker]:
    """Return every breaker; one that never failed has no row, and is closed."""
    rows = {
        row.name: row for row in CircuitBreaker.objects.filter(name__in=BREAKER_SETTINGS)
    }
    return [rows.get(name) or CircuitBreaker(name=name) for name in BREAKER_SETTINGS]


def show_breaker(breaker: CircuitBreaker) -> dict[str, Any]:
    """Return a breaker as the outside sees it (contract, section 4)."""
    conf = breaker_settings(breaker.name)
    return {
        "name": breaker.name,
        "state": breaker.state,
        "failureCount": breaker.failure_count,
        "successCount": breaker.success_count,
        "totalCalls": breaker.total_calls,
        "rejectedCount": breaker.rejected_count,
        "failureThreshold": conf.failure_threshold,
        "successThreshold": conf.success_threshold,
        "resetTimeoutMs": conf.reset_timeout,
        "openedAt": show_instant(breaker.opened_at),
        "lastFailureAt": show_instant(breaker.last_failure_at),
        "lastError": breaker.last_error or None,
    }
