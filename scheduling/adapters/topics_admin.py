"""Sees to it that the product's topics exist on the cluster.

Owns the conversation with the cluster about topics. What to do about a topic that is
missing in the end is left to the caller: a command refuses, the start goes on.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from django.core.exceptions import ImproperlyConfigured

from scheduling.conf import used_topics
from scheduling.domain.errors import ServiceUnavailableError

BROKER_DEFAULT: Final = -1

_POLL_SECONDS: Final = 0.05
# A request is given at least this long, however little of the whole time is left.
_SHORTEST_REQUEST_SECONDS: Final = 0.5


@dataclass(frozen=True, kw_only=True)
class TopicsReport:
    """What was found and what was done; the three lists share no name."""

    created: tuple[str, ...] = ()
    existing: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    # Why each missing topic could not be created, in the cluster's words.
    refusals: Mapping[str, str] = field(default_factory=dict)


def ensure_topics(
    client_config: Mapping[str, str | int | bool],
    *,
    partitions: int,
    replication_factor: int = BROKER_DEFAULT,
    timeout_seconds: float = 7.0,
    topics: Sequence[str] | None = None,
) -> TopicsReport:
    """Create the topics that do not exist, where the cluster lets us.

    Existing topics are left as they are, whatever their partitions. A cluster that
    cannot create topics on request (the embedded one) is asked about them by name,
    upon which it creates them by its own defaults.

    Args:
        client_config: librdkafka settings, with `bootstrap.servers`.
        timeout_seconds: For all of it together.
        topics: Their names; None: every topic that the product uses here.

    Raises:
        ServiceUnavailableError: No broker answers, or none in time.
        ImproperlyConfigured: librdkafka refuses the settings.
    """
    topics = used_topics() if topics is None else topics
    cluster = _Cluster(client_config, timeout_seconds=timeout_seconds)
    present = cluster.topics()
    absent = [name for name in topics if name not in present]
    errors = cluster.create(
        absent, partitions=partitions, replication_factor=replication_factor
    )
    created = [name for name in absent if name not in errors]
    cluster.wait_until_usable(created)
    overtaken = _with_code(errors, KafkaError.TOPIC_ALREADY_EXISTS)
    unsupported = _with_code(errors, KafkaError._UNSUPPORTED_FEATURE)  # noqa: SLF001 -- its name for a local error
    created += [name for name in unsupported if cluster.creates_on_demand(name)]
    missing = [name for name in errors if name not in {*overtaken, *created}]
    return TopicsReport(
        created=tuple(created),
        existing=tuple(n for n in topics if n in present or n in overtaken),
        missing=tuple(missing),
        refusals={name: errors[name].str() for name in missing},
    )


class _Cluster:
    """An admin client with one deadline for all that is asked of it."""

    def __init__(
        self, client_config: Mapping[str, str | int | bool], *, timeout_seconds: float
    ) -> None:
        self._deadline = time.monotonic() + timeout_seconds
        self._servers = client_config.get("bootstrap.servers", "")
        self._last_error = ""
        # What goes wrong is told once, by the exception, and not also by librdkafka on
        # stderr.
        quiet: dict[str, Any] = {"log_level": 0, "error_cb": self._note_error}
        try:
            self._client = AdminClient({**client_config, **quiet})
        except KafkaException as error:
            raise ImproperlyConfigured(
                f"the Kafka client refuses its settings: {error.args[0].str()}"
            ) from error

    def topics(self) -> set[str]:
        """Name all topics of the cluster, without creating any."""
        return set(self._metadata().topics)

    def creates_on_demand(self, name: str) -> bool:
        """Ask about one topic; True when it exists afterwards."""
        topic = self._metadata(topic=name).topics[name]
        return topic.error is None and bool(topic.partitions)

    def create(
        self, names: Sequence[str], *, partitions: int, replication_factor: int
    ) -> dict[str, KafkaError]:
        """Ask for the topics; the result has an error for each that was refused."""
        if not names:
            return {}
        wanted = [NewTopic(name, partitions, replication_factor) for name in names]
        answers = self._client.create_topics(
            wanted, operation_timeout=self._left(), request_timeout=self._left()
        )
        errors: dict[str, KafkaError] = {}
        for name, answer in answers.items():
            try:
                answer.result()
            except KafkaException as error:
                errors[name] = error.args[0]
        return errors

    def wait_until_usable(self, names: Iterable[str]) -> None:
        """Wait until the brokers tell of topics just created, or time is up.

        A client that subscribes to a topic its broker does not know yet hears of it
        only with its next refresh, minutes later.
        """
        waiting = set(names)
        while waiting:
            known = self._metadata().topics
            waiting = {n for n in waiting if n not in known or known[n].error is not None}
            if waiting and time.monotonic() > self._deadline:
                return
            time.sleep(_POLL_SECONDS if waiting else 0)

    def _metadata(self, **arguments: Any) -> Any:
        try:
            return self._client.list_topics(timeout=self._left(), **arguments)
        except KafkaException as error:
            self._client.poll(0)  # delivers what error_cb has to tell
            reason = self._last_error or error.args[0].str()
            raise ServiceUnavailableError(
                f"no Kafka broker answers at {self._servers}: {reason}"
            ) from error

    def _left(self) -> float:
        return max(self._deadline - time.monotonic(), _SHORTEST_REQUEST_SECONDS)

    def _note_error(self, error: KafkaError) -> None:
        # "All brokers down" comes last and says least.
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._last_error = error.str()


def _with_code(errors: Mapping[str, KafkaError], code: int) -> list[str]:
    return [name for name, error in errors.items() if error.code() == code]
