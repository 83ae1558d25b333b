"""What django-q2 writes of a task into its queue, and what it may take from there.

As it comes, that is a pickle signed with SECRET_KEY: whoever knows the key and can insert
a row runs any code in the cluster. Ours is JSON under the same signature, and names
a function of the product, or the row is refused.
"""

import json
from datetime import datetime
from typing import Any, Final

import django_q.signing
from django.conf import settings
from django.core.serializers.json import DjangoJSONEncoder

PUBLISH_TASK: Final = "scheduling.tasks.publish_due"
# Not `hook` and not `chain`: each names a function that is called as well.
_NEEDED: Final = frozenset({"id", "name", "func", "args", "kwargs", "started"})
_KNOWN: Final = _NEEDED | {"save", "timeout", "ack_failure", "group", "cluster"}


class TaskSerializer:
    """Stands in the place of django-q2's PickleSerializer."""

    @staticmethod
    def dumps(package: Any) -> bytes:
        """Return a task as JSON.

        All else that django-q2 would write are its statistics, for a cache that keeps
        nothing (settings.Q_CLUSTER).
        """
        if not isinstance(package, dict):
            return b"{}"
        func = package.get("func")
        named = f"{func.__module__}.{func.__qualname__}" if callable(func) else func
        return json.dumps({**package, "func": named}, cls=DjangoJSONEncoder).encode()

    @staticmethod
    def loads(content: bytes) -> dict[str, Any]:
        """Return the task that a row holds.

        Raises:
            BadSignature: It is none of ours; django-q2 then deletes the row and says so.
        """
        try:
            task = json.loads(content)
            _check(task)
            return {**task, "started": datetime.fromisoformat(task["started"])}
        except (TypeError, ValueError) as error:
            raise django_q.signing.BadSignature(f"is no task of ours: {error}") from None


def _check(task: Any) -> None:
    """Refuse what a cluster must not run.

    Raises:
        ValueError: It is no task, or no function of the product's.
    """
    if not isinstance(task, dict) or not task.keys() >= _NEEDED:
        raise ValueError("not in a task's form")
    if not task.keys() <= _KNOWN:
        raise ValueError(f"it asks for {sorted(task.keys() - _KNOWN)}")
    if task["func"] not in {PUBLISH_TASK, *settings.CHORES}:
        raise ValueError(f"{task['func']!r} is not to be run")
    if not isinstance(task["args"], list) or not isinstance(task["kwargs"], dict):
        raise TypeError("not in a task's form")


def install() -> None:
    """Let django-q2 sign and read these packages and no others, in this process."""
    django_q.signing.PickleSerializer = TaskSerializer
