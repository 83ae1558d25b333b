"""`manage.py consume_events`, which dies without a word at the point that CRASH_AT names.

The points are where a real process might be killed; they are laid over the product's
functions here, so that the product itself knows nothing of them.
"""

import os
import sys
from pathlib import Path

import django
from django.core.management import call_command

EXIT_CODE = 77
ROOT = Path(__file__).resolve().parents[2]


def die():
    """End at once: nothing is flushed, closed or told."""
    os._exit(EXIT_CODE)


def always(*_):
    return True


def before(owner, name, when=always):
    """Die instead of calling the function, where its first argument is the right one."""
    real = getattr(owner, name)

    def call(*args, **kwargs):
        if when(*args):
            die()
        return real(*args, **kwargs)

    setattr(owner, name, call)


def after(owner, name, when=always):
    """Die once the function has done its work, where that was the right one."""
    real = getattr(owner, name)

    def call(*args, **kwargs):
        result = real(*args, **kwargs)
        if when(*args):
            die()
        return result

    setattr(owner, name, call)


def arrange(point):
    """Lay the point over the product."""
    from scheduling.consumers.loop import ConsumerLoop
    from scheduling.models import InboxMessage
    from scheduling.services import commands, incoming, outgoing

    def has_rows(rows, *_):
        return bool(rows)

    def is_inbox(rows, *_):
        return bool(rows) and isinstance(rows[0], InboxMessage)

    {
        "before-handling": lambda: before(incoming, "_read"),
        "effect-before-inbox": lambda: before(incoming, "insert_rows", is_inbox),
        "inbox-before-commit": lambda: after(incoming, "insert_rows", is_inbox),
        "commit": lambda: after(incoming, "_apply_in_transaction"),
        "command-before-answer": lambda: before(commands, "queue_answer"),
        "answer-before-commit": lambda: after(commands, "queue_answer"),
        "before-dead-letter": lambda: before(incoming, "set_aside"),
        "dead-letter-before-commit": lambda: after(incoming, "set_aside"),
        "dead-letter-commit": lambda: after(incoming, "_set_aside"),
        "taken-before-sending": lambda: before(outgoing, "_record"),
        "sent-before-marking": lambda: before(outgoing, "_settle", has_rows),
        "marked": lambda: after(outgoing, "_settle", has_rows),
        "before-offset": lambda: before(ConsumerLoop, "_commit"),
        "offset": lambda: after(ConsumerLoop, "_commit"),
    }[point]()


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    django.setup()
    arrange(os.environ["CRASH_AT"])
    call_command("consume_events")
