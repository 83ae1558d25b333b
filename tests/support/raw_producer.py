"""A producer below confluent-kafka: it sends header names that are no text."""

import ctypes

from scheduling.adapters.librdkafka import load_librdkafka, new_client

_END, _TOPIC, _VALUE, _FLAGS, _HEADERS = 0, 1, 4, 7, 10
_COPY = 2


def send_with_headers(bootstrap, topic, value, headers):
    """Send a record with headers of bytes and bytes; return once a broker has it."""
    library = ctypes.CDLL(load_librdkafka()._name)
    library.rd_kafka_headers_new.restype = ctypes.c_void_p
    client = ctypes.c_void_p(new_client({"bootstrap.servers": bootstrap}))
    added = ctypes.c_void_p(library.rd_kafka_headers_new(ctypes.c_size_t(len(headers))))
    size = ctypes.c_ssize_t
    for name, text in headers:
        library.rd_kafka_header_add(added, name, size(len(name)), text, size(len(text)))
    failed = library.rd_kafka_producev(
        client,
        *(ctypes.c_int(_TOPIC), ctypes.c_char_p(topic.encode())),
        *(ctypes.c_int(_VALUE), ctypes.c_char_p(value), ctypes.c_size_t(len(value))),
        *(ctypes.c_int(_FLAGS), ctypes.c_int(_COPY)),
        *(ctypes.c_int(_HEADERS), added),
        ctypes.c_int(_END),
    )
    assert failed == 0
    assert library.rd_kafka_flush(client, ctypes.c_int(10_000)) == 0
    library.rd_kafka_destroy(client)
