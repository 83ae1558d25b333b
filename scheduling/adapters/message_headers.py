"""A record's headers, as far as the client library can tell them."""

import gc
import operator
from typing import Any

from confluent_kafka import Message

_NAME_AND_VALUE = 2
# Called from C, the method's result is checked: called from Python 3.11's specialised
# bytecode it is not, and its error comes up in whatever is called next.
_told_headers = operator.methodcaller("headers")


def headers_of(message: Message) -> list[tuple[str, Any]]:
    """Return a record's headers in their order, without those of an unreadable name.

    Any producer may send a name that is not UTF-8. confluent-kafka 2.16 then returns a
    list with an error set, and a null where the name should be: whoever so much as looks
    at the null ends the process. The collector's view of a pair counts only what is there.
    """
    try:
        pairs = _told_headers(message)
    except SystemError:
        # "returned a result with an exception set": the result is kept, and told now.
        pairs = _told_headers(message)
    return [
        (str(pair[0]), pair[1])
        for pair in pairs or []
        if len(gc.get_referents(pair)) == _NAME_AND_VALUE
    ]
