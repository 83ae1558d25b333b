"""The thread that sends what the handlers owe, beside the loop that handles."""

import logging
import threading
import time
import traceback

from django.db import InterfaceError, OperationalError, connection
from typing_extensions import override

from scheduling.adapters.clock import database_now
from scheduling.adapters.event_publisher import process_publisher
from scheduling.services.broker_gate import BrokerGate
from scheduling.services.outgoing import send_outgoing

logger = logging.getLogger("autopilot.outgoing")

# How often it looks for what others left: a replay by the API, a consumer that died.
LOOK_EVERY_SECONDS = 1.0
AFTER_ERROR_SECONDS = 1.0
# What is under way at the end gets so long.
GRACE_SECONDS = 5.0


class Sender(threading.Thread):
    """Sends outgoing records until it is stopped; what it leaves, others send."""

    def __init__(self) -> None:
        super().__init__(name="sender", daemon=True)
        self._woken = threading.Event()
        self._stopped_at: float | None = None
        self._was_broken = False

    def wake(self) -> None:
        """Say that there is something to send."""
        self._woken.set()

    def stop(self) -> None:
        """Let it send what is there, for at most the grace, and wait for its end."""
        self._stopped_at = time.monotonic()
        self._woken.set()
        self.join(GRACE_SECONDS + 1)

    @override
    def run(self) -> None:
        try:
            while self._stopped_at is None:
                self._woken.wait(LOOK_EVERY_SECONDS)
                self._woken.clear()
                self._send_all()
        finally:
            connection.close()

    def _send_all(self) -> None:
        """Send until nothing is left that can be sent now."""
        try:
            publisher = process_publisher()
            gate = BrokerGate(publisher)
            try:
                while self._may_go_on() and (gate.is_open or gate.ask()):
                    if not send_outgoing(
                        publisher,
                        now=database_now(),
                        may_go_on=self._may_go_on,
                        report=gate.report,
                    ):
                        break
                gate.settle()
            finally:
                gate.let_go()
        except (OperationalError, InterfaceError) as error:
            connection.close()
            if not self._was_broken:
                logger.warning("answers wait for the database: %s", str(error).strip())
            self._was_broken = True
            self._pause()
        except Exception as error:  # noqa: BLE001 -- nothing stops the sending for good
            # What the error says may quote a record: only its kind is told.
            where = "".join(traceback.format_tb(error.__traceback__))
            name = type(error).__name__
            logger.error("sending failed unexpectedly, and goes on: %s\n%s", name, where)  # noqa: TRY400 -- see above
            self._pause()
        else:
            self._was_broken = False

    def _pause(self) -> None:
        """Wait a little after an error."""
        if self._stopped_at is None:
            time.sleep(AFTER_ERROR_SECONDS)

    def _may_go_on(self) -> bool:
        """Tell whether there is time left."""
        at = self._stopped_at
        return at is None or time.monotonic() < at + GRACE_SECONDS
