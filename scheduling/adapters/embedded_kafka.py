"""A Kafka broker inside this process: librdkafka's mock cluster behind a fixed port.

The confluent-kafka wheel brings the mock cluster along; ctypes reaches it. It serves
any process on this host, for the start without a Kafka of one's own and for tests,
which can break it in every way a broker breaks.

What it is not (measured with librdkafka 2.16):

- It keeps everything in memory: a restart forgets topics, records and group offsets,
  and the new cluster has another cluster id.
- Of each partition it keeps the last 5 MiB or 100,000 batches; what is older is gone.
- It checks no sequence numbers, so a retry after a lost acknowledgement is a second
  record, and it can refuse one of several requests in flight and take the next, upon
  which the client reports the refused one as delivered. A producer that meets
  `push_errors` needs `max.in.flight.requests.per.connection=1`.
- An empty fetch is answered only after `fetch.wait.max.ms`, even if a record comes
  meanwhile: consumers should set 10 to 50 ms.
- A group of the classic protocol that gains or loses a member stands still for
  `session.timeout.ms` less one second, even where all are there again at once. With
  `group.protocol=consumer` it goes on in 10 ms, and 5 s after a member was killed.
- It creates a topic that somebody asks for, with 4 partitions, and no topic by
  AdminClient.
- It knows no TLS, no SASL and no access rules.

Upstream calls the mock's interface experimental (rdkafka_mock.h); the minor version
of confluent-kafka is therefore pinned, and a missing symbol is named at the start.
"""

import ctypes
import secrets
from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType, TracebackType
from typing import Final, Self

from confluent_kafka import KafkaError

from scheduling.adapters.librdkafka import (
    LibrdkafkaError,
    load_librdkafka,
    new_client,
)
from scheduling.adapters.tcp_forwarder import LOOPBACK, TcpForwarder
from scheduling.topics import DEFAULT_PARTITIONS

# As an injected error it makes the broker drop the connection instead of answering.
DISCONNECT: Final = KafkaError._TRANSPORT  # noqa: SLF001 -- its name for a local error

_BROKER_ID: Final = 1
_REQUEST_MAX_BYTES: Final = 100_000_000
_LOG_ERRORS: Final = 3
# Kafka waits 3 s for more members before the first rebalance of a group: right for a
# cluster under way, a nuisance where a start should show its first event at once.
_REBALANCE_DELAY_MS: Final = 100
# How soon the partitions of a killed consumer go to another (group.protocol=consumer;
# there the broker decides). Kafka's 45 s suit a fleet, not one host.
_SESSION_TIMEOUT_MS: Final = 5_000
_HEARTBEAT_INTERVAL_MS: Final = 500
_GENERATED_CLUSTER_ID: Final = b"mockCluster"
_CLUSTER_ID_BYTES: Final = 32


class ApiKey(IntEnum):
    """The kinds of request a fault can be laid on, by Kafka's own numbers."""

    PRODUCE = 0
    FETCH = 1
    LIST_OFFSETS = 2
    METADATA = 3
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    JOIN_GROUP = 11
    HEARTBEAT = 12
    LEAVE_GROUP = 13
    SYNC_GROUP = 14
    API_VERSIONS = 18
    INIT_PRODUCER_ID = 22
    CONSUMER_GROUP_HEARTBEAT = 68


class EmbeddedKafka:
    """One broker, alive from the constructor until `close()`.

    Faults come in three kinds: outages (`down`, `up`, `drop_connections`), answers
    that go astray (`push_errors`, `push_delays`, `lose_replies`, `set_rtt`,
    `set_topic_error`), and time (`delete_records`: retention passed a consumer by).
    """

    def __init__(
        self,
        *,
        port: int = 0,
        topics: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Start the broker.

        Args:
            port: On 127.0.0.1; 0 lets the kernel choose, and `bootstrap` tells it.
            topics: The partitions of each topic to create, by its name.

        Raises:
            OSError: The port is taken or may not be bound.
            LibrdkafkaError: This librdkafka cannot host a mock cluster, or refuses
                a topic.
        """
        self._lib = load_librdkafka()
        self._client: int | None = new_client(
            {
                "client.id": "embedded-kafka",
                # The longest request the broker takes, and not what it sends.
                "receive.message.max.bytes": _REQUEST_MAX_BYTES,
                "log_level": _LOG_ERRORS,
            }
        )
        self._cluster: int | None = self._lib.rd_kafka_mock_cluster_new(self._client, 1)
        if not self._cluster:
            self._destroy()
            raise LibrdkafkaError("librdkafka could not create a mock cluster")
        inner = self._lib.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()
        try:
            _make_cluster_id_unique(self._cluster)
            self._forwarder = TcpForwarder(
                port=port, target_port=int(inner.rpartition(":")[2])
            )
        except (OSError, LibrdkafkaError):
            self._destroy()
            raise
        self._configure()
        for name, partitions in topics.items():
            self.create_topic(name, partitions=partitions)

    def _configure(self) -> None:
        self._lib.rd_kafka_mock_broker_set_host_port(
            self._cluster, _BROKER_ID, LOOPBACK.encode(), self._forwarder.port
        )
        # With a controller in the metadata an AdminClient is refused at once;
        # without one it waits for its whole time-out.
        self._lib.rd_kafka_mock_set_controller_id(self._cluster, _BROKER_ID)
        self._lib.rd_kafka_mock_group_initial_rebalance_delay_ms(
            self._cluster, _REBALANCE_DELAY_MS
        )
        self._lib.rd_kafka_mock_set_group_consumer_session_timeout_ms(
            self._cluster, _SESSION_TIMEOUT_MS
        )
        self._lib.rd_kafka_mock_set_group_consumer_heartbeat_interval_ms(
            self._cluster, _HEARTBEAT_INTERVAL_MS
        )

    @property
    def bootstrap(self) -> str:
        """What clients take as `bootstrap.servers`."""
        return f"{LOOPBACK}:{self._forwarder.port}"

    def close(self) -> None:
        """Stop the broker and forget everything; does nothing the second time."""
        if self._cluster:
            self._forwarder.close()
            self._destroy()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def create_topic(self, name: str, *, partitions: int = DEFAULT_PARTITIONS) -> None:
        """Create an empty topic."""
        self._check(
            self._lib.rd_kafka_mock_topic_create(self._alive, name.encode(), partitions, 1)
        )

    def down(self) -> None:
        """Cut every connection and refuse new ones until `up()`.

        Records, offsets and groups stay. An answer under way is lost, though what
        was asked has happened.
        """
        self._forwarder.down()

    def up(self) -> None:
        """Accept connections again, on the same port."""
        self._forwarder.up()

    def drop_connections(self) -> None:
        """Cut every connection once, as a network does that blinks."""
        self._forwarder.cut()

    def lose_replies(self) -> None:
        """Carry out what is asked, but answer nothing until `return_replies()`."""
        self._forwarder.lose_replies()

    def return_replies(self) -> None:
        """Answer again, to clients that connect anew (the open connections are cut)."""
        self._forwarder.return_replies()

    def set_rtt(self, rtt_ms: int) -> None:
        """Answer everything from now on only after `rtt_ms`; 0 ends it."""
        self._check(self._lib.rd_kafka_mock_broker_set_rtt(self._alive, _BROKER_ID, rtt_ms))

    def push_errors(self, api: ApiKey, *codes: int) -> None:
        """Let the next requests of a kind fail, one for each code, without effect.

        Args:
            codes: Kafka's error codes (`KafkaError.NOT_ENOUGH_REPLICAS`), or
                `DISCONNECT`.
        """
        errors = (ctypes.c_int * len(codes))(*codes)
        self._lib.rd_kafka_mock_push_request_errors_array(
            self._alive, api, len(codes), errors
        )

    def clear_errors(self, api: ApiKey) -> None:
        """Take back the pushed errors that no request has met yet."""
        self._lib.rd_kafka_mock_clear_request_errors(self._alive, api)

    def push_delays(self, api: ApiKey, *delays_ms: int) -> None:
        """Carry out the next requests of a kind at once, but answer each late.

        A delay longer than the client's `request.timeout.ms` is exactly one lost
        acknowledgement.
        """
        no_error_then_delay = [
            ctypes.c_int(number) for delay in delays_ms for number in (0, delay)
        ]
        self._check(
            self._lib.rd_kafka_mock_broker_push_request_error_rtts(
                self._alive,
                _BROKER_ID,
                api,
                ctypes.c_size_t(len(delays_ms)),
                *no_error_then_delay,
            )
        )

    def set_topic_error(self, topic: str, code: int) -> None:
        """Answer everything about `topic` with this error; 0 ends it."""
        self._lib.rd_kafka_mock_topic_set_error(self._alive, topic.encode(), code)

    def set_leader(self, topic: str, partition: int = 0, *, is_there: bool) -> None:
        """Let a partition have a leader or none, as after a restart of the cluster."""
        broker = _BROKER_ID if is_there else -1
        self._check(
            self._lib.rd_kafka_mock_partition_set_leader(
                self._alive, topic.encode(), partition, broker
            )
        )

    def delete_records(self, topic: str, partition: int, *, before_offset: int) -> None:
        """Forget the records of a partition that stand before an offset."""
        self._check(
            self._lib.rd_kafka_mock_partition_delete_records(
                self._alive, topic.encode(), partition, before_offset
            )
        )

    @property
    def _alive(self) -> int:
        # librdkafka would take a null pointer for a cluster and end the process.
        if not self._cluster:
            raise LibrdkafkaError("the embedded broker is closed")
        return self._cluster

    def _check(self, code: int) -> None:
        if code:
            raise LibrdkafkaError(self._lib.rd_kafka_err2name(code).decode())

    def _destroy(self) -> None:
        if self._cluster:
            self._lib.rd_kafka_mock_cluster_destroy(self._cluster)
        self._lib.rd_kafka_destroy(self._client)
        self._cluster = self._client = None


def _make_cluster_id_unique(cluster: int) -> None:
    """Overwrite the cluster id, which librdkafka derives from a memory address.

    The address, and so the id, often comes again in the next cluster of a process and
    sometimes in the next process. But what a consumer has handled is remembered by
    (cluster, topic, partition, offset): with an old id the first records of a new
    cluster would be taken for redeliveries. The id is a fixed buffer at the start of
    the cluster's structure (rdkafka_mock_int.h), which is checked before it is written.
    """
    if not ctypes.string_at(cluster, _CLUSTER_ID_BYTES).startswith(_GENERATED_CLUSTER_ID):
        raise LibrdkafkaError("the mock cluster's id is not where it should be")
    name = f"embedded-{secrets.token_hex(8)}".encode()
    ctypes.memmove(cluster, name.ljust(_CLUSTER_ID_BYTES, b"\0"), _CLUSTER_ID_BYTES)
