"""Does a Kafka broker answer? Asked by whoever looks after the product, never by firing.

One client is kept for the process, and its answer for a few seconds: however many ask, a
broker that is away is asked by one of them at a time, for a bounded time.
"""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from django.conf import settings

TIMEOUT_SECONDS: Final = 1.5
KEPT_SECONDS: Final = 3.0


@dataclass(frozen=True, kw_only=True)
class BrokerAnswer:
    """What was heard of the brokers.

    brokers: how many the cluster says it has; 0 where none answers.
    topics: the names of its topics.
    error: why none answers, in librdkafka's words; empty where one does.
    """

    brokers: int
    topics: frozenset[str] = frozenset()
    error: str = ""


class BrokerProbe:
    """Asks the brokers of one address, and keeps what they said."""

    def __init__(self, client: Mapping[str, Any]) -> None:
        self._last_error = ""
        self._client_config = dict(client)
        self._client: AdminClient | None = None
        self._lock = threading.Lock()
        self._answer = BrokerAnswer(brokers=0, error="no broker has been asked yet")
        self._asked_at = float("-inf")

    def ask(self) -> BrokerAnswer:
        """Return what is known, asking again where that is old."""
        with self._lock:
            if time.monotonic() - self._asked_at > KEPT_SECONDS:
                self._answer = self._ask()
                self._asked_at = time.monotonic()
            return self._answer

    def _ask(self) -> BrokerAnswer:
        """Ask for the cluster's metadata."""
        try:
            if self._client is None:
                # What goes wrong is told once, by the answer.
                quiet: dict[str, Any] = {"log_level": 0, "error_cb": self._note}
                self._client = AdminClient({**self._client_config, **quiet})
            self._client.poll(0)
            metadata = self._client.list_topics(timeout=TIMEOUT_SECONDS)
        except KafkaException as error:
            if self._client is not None:
                # Delivers what there is to be noted.
                self._client.poll(0)
            return BrokerAnswer(brokers=0, error=self._last_error or error.args[0].str())
        self._last_error = ""
        return BrokerAnswer(
            brokers=len(metadata.brokers), topics=frozenset(metadata.topics)
        )

    def _note(self, error: KafkaError) -> None:
        # "All brokers down" comes last and says least.
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._last_error = error.str()


_probes: dict[str, BrokerProbe] = {}
_making = threading.Lock()


def process_probe() -> BrokerProbe:
    """Return this process's probe of the brokers that the settings name."""
    address = str(settings.KAFKA_CLIENT.get("bootstrap.servers", ""))
    with _making:
        if address not in _probes:
            # A process has one address; only tests change it.
            _probes.clear()
            _probes[address] = BrokerProbe(settings.KAFKA_CLIENT)
        return _probes[address]
