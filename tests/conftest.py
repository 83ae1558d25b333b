"""What every test may ask for: an instant, actors, a database address, a Kafka cluster."""

import os
from datetime import UTC, datetime

import pytest
from django.db import connection
from django.db.backends.sqlite3.base import DatabaseOperations

from scheduling import live_settings
from scheduling.adapters import event_publisher
from scheduling.adapters.breakers import forget_copies
from scheduling.adapters.challenge_service import close_challenge_service
from scheduling.adapters.embedded_kafka import EmbeddedKafka
from scheduling.adapters.topics_admin import ensure_topics
from scheduling.domain.actors import Role, cli_actor, user_actor
from scheduling.topics import ALL_TOPICS
from tests.support.challenge_service import ScriptedChallengeService
from tests.support.tampering import GUARDS

_DROP, _CREATE = (
    [line for guard in GUARDS for line in getattr(guard, name)["sqlite"]]
    for name in ("DROP", "CREATE")
)
_sqlite_flush = DatabaseOperations.sql_flush


def _flush_past_the_triggers(self, style, tables, **kwargs):
    """Empty the tables between tests: only here may the audit be emptied."""
    statements = _sqlite_flush(self, style, tables, **kwargs)
    return [*_DROP, *statements, *_CREATE]


DatabaseOperations.sql_flush = _flush_past_the_triggers


# What a test asks for that is another thing on real services.
_SERVICES = {"db", "transactional_db", "kafka", "process_environment"}
_SLOW_MARKS = ("processes", "browser")
_SERVICE_MARKS = ("django_db", "processes", "broker", "postgres", "alone", "browser")


def pytest_addoption(parser):
    """Let a run on real services leave out what it would only repeat."""
    parser.addoption(
        "--only-services",
        action="store_true",
        help="run only the tests that use a database or a broker",
    )


def _uses_services(item):
    if item.get_closest_marker("first_start"):
        return False
    marks = any(item.get_closest_marker(name) for name in _SERVICE_MARKS)
    return marks or bool(_SERVICES.intersection(item.fixturenames))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Leave out what a run on real services would only repeat, where that is asked for."""
    if config.getoption("only_services"):
        others = [item for item in items if not _uses_services(item)]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if _uses_services(item)]
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    items[:] = _slow_ones_first(items, workers=workers)


def _slow_ones_first(items, *, workers):
    """Return the tests so that half of the workers begin with those that wait.

    pytest-xdist gives each worker as many tests, next to each other. Left to chance, the
    modules that start processes are all that goes on at the end, one after the other; and
    where all workers begin with them, half of the processor is idle meanwhile. A slow
    module stays together, for what its tests share; of the others as many as fit.
    """
    modules = {}
    for item in items:
        # The longest, which wait for minutes, stand alone.
        is_long = item.get_closest_marker("long") is not None
        modules.setdefault((is_long, item.path), []).append(item)
    slow, fast = [], []
    for (is_long, _), tests in modules.items():
        waits = any(tests[0].get_closest_marker(name) for name in _SLOW_MARKS)
        if is_long:
            slow.insert(0, tests)
        elif waits:
            slow.append(tests)
        else:
            fast.append(tests)
    shares = [[] for _ in range(workers)]
    for number, tests in enumerate(slow):
        shares[number % -(-workers // 2)] += tests
    left = [item for tests in fast for item in tests]
    for number, share in enumerate(shares):
        waiting = len(left) + sum(len(one) for one in shares[number:])
        size = max(0, waiting // (workers - number) - len(share))
        share.extend(left[:size])
        del left[:size]
    return [item for share in shares for item in share]


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup, django_db_blocker):
    """Let the test database go at the end, whoever is still connected to it.

    Daemon threads of the product that a test started, such as a look at health that was
    given up, have sessions of their own, which only a process's end closes.
    """
    yield
    with django_db_blocker.unblock():
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    # The server's own, such as a vacuum, end by themselves.
                    " AND usename = current_user"
                )


@pytest.fixture(autouse=True)
def closed_breakers():
    """Let no test meet a circuit breaker that another one has opened."""
    forget_copies()


@pytest.fixture(autouse=True)
def _settings_of_the_environment():
    """Forget what a test has set by hand."""
    yield
    live_settings.forget()


@pytest.fixture
def now():
    """Return the present instant, in whole milliseconds."""
    instant = datetime.now(UTC)
    return instant.replace(microsecond=instant.microsecond // 1000 * 1000)


@pytest.fixture
def operator():
    """Return an actor who may override."""
    return user_actor("olivia", role=Role.OPERATOR)


@pytest.fixture
def viewer():
    """Return an actor who may only look."""
    return user_actor("victor", role=Role.VIEWER)


@pytest.fixture
def shell():
    """Return whoever runs management commands."""
    return cli_actor("sara")


@pytest.fixture
def phase_data(now):
    """Return a maker of phase data: END of a phase in an hour, with what is given."""

    def make(**fields):
        due = fields.pop("due_in", 3600)
        instant = datetime.fromtimestamp(round(now.timestamp() + due, 3), UTC)
        return {
            "projectId": 12345,
            "phaseId": 67890,
            "phaseTypeName": "Registration",
            "state": "END",
            "endTime": instant.isoformat(timespec="milliseconds"),
            "operator": "admin",
            "projectStatus": "ACTIVE",
            **fields,
        }

    return make


@pytest.fixture
def embedded_kafka(settings, monkeypatch):
    """Return an embedded broker with our topics, of this test alone, that can be broken."""
    # The process's publisher may be one that an earlier test's broker was left with.
    monkeypatch.setattr(event_publisher, "_publisher", None)
    with EmbeddedKafka(topics=dict.fromkeys(ALL_TOPICS, 1)) as broker:
        settings.KAFKA_CLIENT = {
            **settings.KAFKA_CLIENT,
            "bootstrap.servers": broker.bootstrap,
        }
        yield broker


@pytest.fixture
def kafka(request, settings):
    """Return the address of a Kafka cluster with our topics.

    The one that KAFKA_BOOTSTRAP_SERVERS names, unless the test asks for an embedded one
    by `embedded_kafka`; without either, an embedded one.
    """
    is_real = bool(os.environ.get("KAFKA_BOOTSTRAP_SERVERS"))
    if is_real and "embedded_kafka" not in request.fixturenames:
        ensure_topics(settings.KAFKA_CLIENT, partitions=3)
        return os.environ["KAFKA_BOOTSTRAP_SERVERS"]
    return request.getfixturevalue("embedded_kafka").bootstrap


@pytest.fixture
def process_environment(transactional_db, kafka):
    """Return the environment for a process of the product on this test's neighbours."""
    database = connection.settings_dict
    if connection.vendor == "sqlite":
        url = f"sqlite:///{database['NAME']}"
    else:
        secret = f":{database['PASSWORD']}" if database["PASSWORD"] else ""
        url = (
            f"postgres://{database['USER']}{secret}@{database['HOST']}:"
            f"{database['PORT']}/{database['NAME']}"
        )
    return {
        **os.environ,
        "DATABASE_URL": url,
        "KAFKA_BOOTSTRAP_SERVERS": kafka,
        "DJANGO_SETTINGS_MODULE": "autopilot_site.settings",
        "PYTHONUNBUFFERED": "1",
    }


@pytest.fixture
def challenge_api(settings):
    """Return a scriptable Challenge service, the one in force; patiently, and once."""
    with ScriptedChallengeService() as service:
        settings.CHALLENGE_SERVICE = service.settings()
        settings.RECOVERY = settings.RECOVERY.model_copy(
            update={"challenge_service_timeout": 20_000, "challenge_service_retries": 0}
        )
        yield service
    close_challenge_service()


@pytest.fixture
def hasty(challenge_api, settings):
    """Give the Challenge service a second for an answer, where none comes in time."""
    settings.RECOVERY = settings.RECOVERY.model_copy(
        update={"challenge_service_timeout": 1_000}
    )
