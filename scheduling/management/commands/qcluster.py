"""`manage.py qcluster`: the publishing cluster, restarted whenever any part of it dies."""

import gc
import logging
import os
import select
import signal
import time
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import Error as DatabaseError
from django.db import connection
from typing_extensions import override

from scheduling.adapters.cluster import RunningCluster
from scheduling.adapters.companions import Companions
from scheduling.adapters.vitals import process_vitals
from scheduling.conf import CHECKS_AT_START

logger = logging.getLogger("autopilot.cluster")

FIRST_WAIT_SECONDS = 0.05
LONGEST_WAIT_SECONDS = 10.0
# A life at least this long was a good one: the next restart is immediate again. Whoever
# crashes by itself does so sooner; what was killed several times must not wait for it.
GOOD_LIFE_SECONDS = 5.0
# What a lane may still hold when the stop comes is given back after ten seconds.
STOP_SECONDS = 15.0


class Command(BaseCommand):
    """Runs the cluster until SIGTERM or SIGINT."""

    requires_system_checks = [CHECKS_AT_START]
    help = (
        "Run the publishing cluster: the due-broker, which sleeps until a transition is "
        "due, and the workers that put it on Kafka. If any of its processes dies, the "
        "whole cluster is started afresh, and what it held is taken over. One SIGTERM "
        "or SIGINT, to this process or to its group, stops it in order; exit code 0. "
        "Beside it one process carries out what recovery has to do, and another one tells "
        "how the cluster does. Any number of clusters may run, on any host that shares "
        "the database."
    )

    @override
    def handle(self, *args: Any, **options: Any) -> None:
        self._check_database()
        # All that is loaded by now lives as long as the processes that are forked from
        # here: so their collectors leave its pages alone, which they share.
        gc.collect()
        gc.freeze()
        wake_reader = _listen_for_stop()
        wait = FIRST_WAIT_SECONDS
        companions = Companions(settings.CLUSTER_COMPANIONS)
        while True:
            cluster = RunningCluster()
            if _watch(cluster, companions, stop_descriptor=wake_reader):
                companions.stop()
                self._stop(cluster)
                companions.join()
                return
            if time.monotonic() - cluster.started_at > GOOD_LIFE_SECONDS:
                wait = FIRST_WAIT_SECONDS
            logger.error(
                "the cluster ended with %s: starting afresh in %.2f s",
                cluster.exit_code,
                wait,
            )
            if select.select([wake_reader], [], [], wait)[0]:
                companions.stop()
                companions.join()
                return
            wait = min(wait * 2, LONGEST_WAIT_SECONDS)
            process_vitals.note_restart()

    def _check_database(self) -> None:
        """Refuse to start where the tables can't be used.

        Raises:
            CommandError: The database is missing, or not migrated.
        """
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM scheduling_scheduledtransition LIMIT 1")
        except DatabaseError as error:
            raise CommandError(
                f"the database can't be used: {str(error).strip()}\n"
                "Is it running, and was `manage.py migrate` run?"
            ) from error

    def _stop(self, cluster: RunningCluster) -> None:
        """Stop in order, or by force once the time is up."""
        cluster.stop()
        if not cluster.join(STOP_SECONDS):
            logger.critical("the cluster did not stop in time and is killed")
            cluster.kill()


def _watch(
    cluster: RunningCluster, companions: Companions, *, stop_descriptor: int
) -> bool:
    """Wait for the cluster's end; tell whether it is to be stopped instead.

    What runs beside it is started meanwhile, and started again whenever it dies.
    """
    while True:
        companions.start()
        watched = [stop_descriptor, cluster.descriptor, *companions.descriptors]
        ended, _, _ = select.select(watched, [], [], companions.wait_seconds)
        if stop_descriptor in ended:
            return True
        if cluster.descriptor in ended:
            return False
        companions.note_deaths(ended)


def _listen_for_stop() -> int:
    """Return a descriptor that is readable once SIGTERM or SIGINT came.

    The handlers do nothing more: anything that takes a lock could deadlock in one.
    """
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os.write(writer, b"."))
    return reader
