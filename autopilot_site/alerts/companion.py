"""The process beside each cluster that watches and tells; absent where nobody is told."""

import logging
import os
from datetime import timedelta
from typing import Final

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection
from django.utils import timezone

from autopilot_site.alerts import sending, watch
from autopilot_site.alerts.targets import configured
from autopilot_site.health.facts import gather
from scheduling.adapters.attendance import Stop
from scheduling.adapters.clock import database_now
from scheduling.models import Housekeeping

logger = logging.getLogger("autopilot.alerts")

ROUND_SECONDS: Final = 8.0
NICENESS: Final = 10
# Over all hosts one looks at a time.
TURN: Final = "alerts.watch"
FORGET_TURN: Final = "alerts.forget"


def attend(stop: Stop) -> None:
    """Watch and tell until the cluster stops.

    Raises:
        ImproperlyConfigured: A target can't be used.
    """
    os.nice(NICENESS)
    targets = {target.digest: target for target in configured()}
    while not stop.is_set():
        try:
            now = database_now()
            if Housekeeping.take(TURN, interval=timedelta(seconds=ROUND_SECONDS), now=now):
                watch.look(
                    gather(now=timezone.now(), sample=0),
                    now=now,
                    targets=list(targets),
                    overdue_seconds=settings.ALERTS["overdue_seconds"],
                )
            sending.send_waiting(targets, now=database_now())
            if Housekeeping.take(FORGET_TURN, interval=timedelta(hours=1), now=now):
                watch.forget_old(now=now)
        except DatabaseError as error:
            logger.debug("the alerts wait for the database: %s", error)
            connection.close()
        stop.wait(ROUND_SECONDS)
