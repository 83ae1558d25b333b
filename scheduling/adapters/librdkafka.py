"""The librdkafka that confluent-kafka brings along, opened through ctypes.

Owns finding the library and declaring the functions of its mock cluster; what is done
with them is up to `embedded_kafka`.
"""

import ctypes
import functools
import re
from ctypes import POINTER, c_char_p, c_int, c_int16, c_int32, c_int64, c_size_t
from ctypes import c_void_p as handle
from pathlib import Path
from typing import Any, Final

import confluent_kafka

_ERROR_TEXT_BYTES: Final = 512
_PRODUCER_TYPE: Final = 0

# Name, result and arguments of each function used, as rdkafka.h and rdkafka_mock.h
# declare them. Without a declaration ctypes would cut pointers to 32 bits.
_SIGNATURES: Final[dict[str, tuple[Any, list[Any]]]] = {
    "rd_kafka_conf_new": (handle, []),
    "rd_kafka_conf_set": (c_int, [handle, c_char_p, c_char_p, c_char_p, c_size_t]),
    "rd_kafka_conf_destroy": (None, [handle]),
    "rd_kafka_new": (handle, [c_int, handle, c_char_p, c_size_t]),
    "rd_kafka_destroy": (None, [handle]),
    "rd_kafka_err2name": (c_char_p, [c_int]),
    "rd_kafka_mock_cluster_new": (handle, [handle, c_int]),
    "rd_kafka_mock_cluster_destroy": (None, [handle]),
    "rd_kafka_mock_cluster_bootstraps": (c_char_p, [handle]),
    "rd_kafka_mock_set_controller_id": (None, [handle, c_int32]),
    "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [handle, c_int32]),
    "rd_kafka_mock_set_group_consumer_session_timeout_ms": (None, [handle, c_int]),
    "rd_kafka_mock_set_group_consumer_heartbeat_interval_ms": (None, [handle, c_int]),
    "rd_kafka_mock_broker_set_host_port": (None, [handle, c_int32, c_char_p, c_int]),
    "rd_kafka_mock_broker_set_rtt": (c_int, [handle, c_int32, c_int]),
    "rd_kafka_mock_topic_create": (c_int, [handle, c_char_p, c_int, c_int]),
    "rd_kafka_mock_partition_set_leader": (c_int, [handle, c_char_p, c_int32, c_int32]),
    "rd_kafka_mock_topic_set_error": (None, [handle, c_char_p, c_int]),
    "rd_kafka_mock_partition_delete_records": (
        c_int,
        [handle, c_char_p, c_int32, c_int64],
    ),
    "rd_kafka_mock_push_request_errors_array": (
        None,
        [handle, c_int16, c_size_t, POINTER(c_int)],
    ),
    "rd_kafka_mock_clear_request_errors": (None, [handle, c_int16]),
    # Variadic: pairs of an error code and a delay in milliseconds follow.
    "rd_kafka_mock_broker_push_request_error_rtts": (
        c_int,
        [handle, c_int32, c_int16, c_size_t],
    ),
}


class LibrdkafkaError(RuntimeError):
    """This librdkafka lacks a function, or refuses what is asked of it."""


@functools.cache
def load_librdkafka() -> ctypes.CDLL:
    """Open the very library this process already uses, with its functions declared.

    Raises:
        LibrdkafkaError: It is not found, or is too old or too new to have them all.
    """
    library = ctypes.CDLL(_path())
    for name, (result, arguments) in _SIGNATURES.items():
        try:
            function = getattr(library, name)
        except AttributeError as error:
            version = ".".join(confluent_kafka.libversion()[0].split(".")[:3])
            raise LibrdkafkaError(f"librdkafka {version} has no {name}") from error
        function.restype, function.argtypes = result, arguments
    return library


def new_client(settings: dict[str, str | int]) -> int:
    """Create a librdkafka client instance, to be ended by `rd_kafka_destroy`.

    Raises:
        LibrdkafkaError: A setting is unknown or out of range.
    """
    library = load_librdkafka()
    text = ctypes.create_string_buffer(_ERROR_TEXT_BYTES)
    conf = library.rd_kafka_conf_new()
    for name, value in settings.items():
        if library.rd_kafka_conf_set(
            conf, name.encode(), str(value).encode(), text, _ERROR_TEXT_BYTES
        ):
            library.rd_kafka_conf_destroy(conf)
            raise LibrdkafkaError(text.value.decode())
    client: int | None = library.rd_kafka_new(_PRODUCER_TYPE, conf, text, _ERROR_TEXT_BYTES)
    if not client:  # only then does conf still belong to us
        library.rd_kafka_conf_destroy(conf)
        raise LibrdkafkaError(text.value.decode())
    return client


def _path() -> str:
    # Linux tells which file is mapped: a second copy of the library would work too,
    # but cost its memory again.
    maps = Path("/proc/self/maps")
    if maps.exists():
        mapped = re.search(r"/\S.*librdkafka\S*$", maps.read_text(), re.MULTILINE)
        if mapped:
            return mapped.group()
    package = Path(confluent_kafka.__file__).parent
    # Where the wheels for Linux and Windows, and for macOS, put it.
    for directory in (
        package.with_name("confluent_kafka.libs"),
        package / ".dylibs",
    ):
        for found in sorted(directory.glob("librdkafka*")):
            return str(found)
    raise LibrdkafkaError(f"no librdkafka beside {package}")
