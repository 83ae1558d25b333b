"""Wakes sleeping due-brokers when an earlier instant came into being."""

from datetime import datetime, timedelta

from django.db import connection

CHANNEL = "autopilot_due"
# Each due-broker looks by itself once a second; what is due later needs no wake-up, and
# NOTIFY makes commits wait for one another.
WITHIN = timedelta(seconds=3)


def wake(ready_at: datetime, *, now: datetime) -> None:
    """Tell the due-brokers, once the caller's transaction commits.

    SQLite has no means for that: its due-broker looks five times a second.
    """
    if connection.vendor == "postgresql" and ready_at - now < WITHIN:
        with connection.cursor() as cursor:
            cursor.execute(f"NOTIFY {CHANNEL}")
