"""Read the health once, or one time for all who ask at once."""

import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswerError
from datetime import datetime
from typing import Final

from django.db import connection

from autopilot_site.health.facts import gather
from autopilot_site.health.judgement import Health, judge, without_answer
from scheduling.conf import recovery_settings

# The brokers may take 1.5 s to be found away, a database that was there before longer.
ANSWER_SECONDS: Final = 4.0


def read_health(*, now: datetime) -> Health:
    """Return how the product is, from the database and a short question to the brokers.

    Args:
        now: This host's aware UTC instant.
    """
    return judge(gather(now=now), now=now, recovery=recovery_settings())


class SharedReader:
    """Lets all who ask at the same time wait for one reading, and not for long.

    In a thread of its own: a database server that was paused keeps whoever asks it
    waiting without a word, and a probe has to be answered all the same.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reading: Future[Health] | None = None

    def read(self, *, now: datetime) -> Health:
        """Return how the product is, after a few seconds at the most."""
        with self._lock:
            if self._reading is None or self._reading.done():
                self._reading = Future()
                # A daemon: one that hangs must not keep the process from ending.
                threading.Thread(
                    target=_read_into,
                    args=(self._reading, now),
                    daemon=True,
                    name="health",
                ).start()
            reading = self._reading
        try:
            return reading.result(ANSWER_SECONDS)
        except NoAnswerError:
            return without_answer(now=now, seconds=ANSWER_SECONDS)


def _read_into(reading: Future[Health], now: datetime) -> None:
    """Read, and give the connection back: this thread serves no request of Django's."""
    try:
        reading.set_result(read_health(now=now))
    except BaseException as error:  # noqa: BLE001 -- raised again where it is waited for
        reading.set_exception(error)
    finally:
        connection.close()


shared_reader = SharedReader()
