"""What stands in django-q2's tables runs nothing that is not the product's."""

import base64
import os
import pickle
from multiprocessing import Event, Queue

import pytest
from django.core import signing
from django.db import connection
from django_q.conf import Conf
from django_q.models import OrmQ, Task
from django_q.monitor import save_task
from django_q.pusher import pusher
from django_q.signing import BadSignature, SignedPackage
from django_q.tasks import async_task

from scheduling import tasks
from scheduling.adapters.due_broker import DueBroker

CHORE = "scheduling.tasks.clean_up"


@pytest.fixture
def marker(tmp_path):
    """Return a file that is there once somebody's code has run."""
    return tmp_path / "was-run"


@pytest.fixture
def exploit(marker):
    """Return what makes the marker when it is unpickled."""

    class Exploit:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    return Exploit()


class _Pickle:
    dumps = staticmethod(pickle.dumps)


def signed(task, *, serializer=signing.JSONSerializer):
    """Return a package as whoever has SECRET_KEY can sign it."""
    return signing.dumps(task, key=Conf.SECRET_KEY, salt=Conf.PREFIX, serializer=serializer)


def task_of(**fields):
    """Return a task as it stands in a package."""
    return {
        "id": "1",
        "name": "one",
        "func": CHORE,
        "args": [],
        "kwargs": {},
        "started": "2026-03-07T17:00:00+00:00",
        **fields,
    }


def take(payload):
    """Let a pusher take a row from the queue; return the tasks that it passes on."""
    row = OrmQ.objects.create(
        key=Conf.CLUSTER_NAME, payload=payload, lock="2026-01-01T00:00:00Z"
    )
    handed, stop = Queue(), Event()
    broker = DueBroker()
    broker.dequeue = lambda: [(row.pk, row.payload)]
    stop.set()
    pusher(handed, stop, broker)
    handed.put(None)
    return list(iter(handed.get, None))


class TestSignedPackage:
    def test_comes_back_as_it_was(self, now):
        task = task_of(args=[1.5], kwargs={"a": None}, started=now, save=False)

        assert SignedPackage.loads(SignedPackage.dumps(task)) == task

    def test_names_a_function_that_was_given_itself(self, now):
        task = task_of(func=tasks.clean_up, started=now)

        assert SignedPackage.loads(SignedPackage.dumps(task))["func"] == CHORE

    def test_of_a_pickle_is_refused_and_runs_nothing(self, exploit, marker):
        with pytest.raises(BadSignature):
            SignedPackage.loads(signed(exploit, serializer=_Pickle))

        assert not marker.exists()

    @pytest.mark.parametrize(
        "package",
        [
            None,
            [],
            "x",
            {},
            task_of(func="os.system"),
            task_of(func="scheduling.tasks.publish.os.system"),
            task_of(func=None),
            task_of(func=["os.system"]),
            task_of(args="x"),
            task_of(kwargs=[]),
            task_of(started="soon"),
            task_of(started=None),
            task_of(hook="os.mkdir"),
            task_of(chain=[["os.mkdir", [], {}]]),
        ],
        ids=str,
    )
    def test_of_anything_else_than_a_task_of_ours_is_refused(self, package):
        with pytest.raises(BadSignature):
            SignedPackage.loads(signed(package))

    def test_of_another_key_is_refused(self, now):
        package = signing.dumps(task_of(), key="another", salt=Conf.PREFIX)

        with pytest.raises(BadSignature):
            SignedPackage.loads(package)


@pytest.mark.django_db
class TestQueue:
    def test_passes_on_what_the_product_put_there(self):
        async_task(CHORE)

        (task,) = take(OrmQ.objects.get().payload)
        assert (task["func"], task["args"], task["kwargs"]) == (CHORE, [], {})

    @pytest.mark.parametrize("kind", ["pickle", "function"])
    def test_drops_a_forged_row_and_goes_on(self, exploit, marker, kind):
        if kind == "pickle":
            payload = signed(exploit, serializer=_Pickle)
        else:
            payload = signed(task_of(func="os.mkdir", args=[str(marker)]))

        assert take(payload) == []

        assert not OrmQ.objects.exists()
        assert not marker.exists()


def forge_result(exploit, *, now):
    """Put a task's row into the table as somebody with the database's rights can."""
    Task.objects.create(
        id="forged", name="forged", func=CHORE, started=now, stopped=now, success=True
    )
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE django_q_task SET result = %s",
            [base64.b64encode(pickle.dumps(exploit)).decode()],
        )


@pytest.mark.django_db
class TestResults:
    def test_that_somebody_wrote_into_the_table_are_not_read(self, exploit, marker, now):
        forge_result(exploit, now=now)
        # As the monitor gets it; `sync` keeps this test's connection.
        ended = {"stopped": now, "success": False, "result": "x", "sync": True}
        ours = task_of(started=now, save=False) | ended

        save_task(ours, DueBroker())

        assert Task.objects.filter(id="1", success=False).exists()
        assert not marker.exists()

    def test_would_run_if_they_were(self, exploit, marker, now):
        forge_result(exploit, now=now)

        Task.objects.get(id="forged")

        assert marker.exists()


class TestSchedules:
    def test_of_django_q_are_not_looked_at(self):
        """A row of its table would else have the cluster call any function."""
        assert Conf.SCHEDULER is False
