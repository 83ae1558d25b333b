"""Who is compared: how each is set up, schedules and fires, and what was set otherwise.

Commands are completed by `Stand`: {project} is the project's Python, {venv} the directory
of the peers' programs, {home} where BullMQ's modules are, {programs} ours.
"""

from dataclasses import dataclass, field

BULLMQ = ("node", "{home}/bullmq_peer.mjs")
PROCRASTINATE = ("{venv}/python", "{programs}/procrastinate_peer.py")
DJANGO_Q2 = {"DJANGO_SETTINGS_MODULE": "django_q2_settings"}


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One of those compared.

    scheduler: Speaks as `programs/asking.py` does.
    worker: Fires; None where the scheduler does that too.
    setup: Makes the tables, once.
    store: `postgres` or `redis`, where the jobs wait.
    has_bulk: Whether many can be scheduled by one call.
    """

    title: str
    store: str
    scheduler: tuple[str, ...]
    worker: tuple[str, ...] | None = None
    setup: tuple[str, ...] | None = None
    has_bulk: bool = True
    environment: dict[str, str] = field(default_factory=dict)
    redis_hz: int = 10


PEERS = {
    "autopilot": Peer(
        title="Autopilot",
        store="postgres",
        scheduler=("{project}", "{programs}/autopilot_scheduler.py"),
        worker=("{project}", "manage.py", "qcluster"),
        setup=("{project}", "manage.py", "migrate", "-v", "0"),
    ),
    "apscheduler": Peer(
        title="APScheduler on PostgreSQL",
        store="postgres",
        scheduler=("{venv}/python", "{programs}/apscheduler_peer.py"),
        has_bulk=False,
    ),
    "celery": Peer(
        title="Celery on Redis",
        store="redis",
        scheduler=("{venv}/python", "{programs}/celery_peer.py"),
        worker=("{venv}/celery", "-A", "celery_peer", "worker", "-l", "ERROR", "-c", "10"),
        has_bulk=False,
    ),
    "celery-visible-30": Peer(
        title="the same, visibility timeout 30 s, late acknowledgement",
        store="redis",
        scheduler=("{venv}/python", "{programs}/celery_peer.py"),
        worker=("{venv}/celery", "-A", "celery_peer", "worker", "-l", "ERROR", "-c", "10"),
        has_bulk=False,
        environment={"PEERS_VISIBILITY_SECONDS": "30"},
    ),
    "bullmq-pg": Peer(
        title="BullMQ on PostgreSQL",
        store="postgres",
        scheduler=BULLMQ,
        worker=(*BULLMQ, "worker"),
        setup=(*BULLMQ, "setup"),
        environment={"PEERS_BACKEND": "postgres", "PEERS_CONCURRENCY": "50"},
    ),
    "bullmq-redis": Peer(
        title="BullMQ on Redis",
        store="redis",
        scheduler=BULLMQ,
        worker=(*BULLMQ, "worker"),
        environment={"PEERS_CONCURRENCY": "50"},
    ),
    "bullmq-redis-hz500": Peer(
        title="the same, Redis `hz 500`",
        store="redis",
        scheduler=BULLMQ,
        worker=(*BULLMQ, "worker"),
        environment={"PEERS_CONCURRENCY": "50"},
        redis_hz=500,
    ),
    "procrastinate": Peer(
        title="procrastinate, 50 ms poll",
        store="postgres",
        scheduler=PROCRASTINATE,
        worker=(*PROCRASTINATE, "worker"),
        setup=(*PROCRASTINATE, "setup"),
        environment={"PEERS_POLL_SECONDS": "0.05", "PEERS_CONCURRENCY": "10"},
    ),
    "procrastinate-stock": Peer(
        title="the same, stock (5 s poll)",
        store="postgres",
        scheduler=PROCRASTINATE,
        worker=(*PROCRASTINATE, "worker"),
        setup=(*PROCRASTINATE, "setup"),
    ),
    "django-q2": Peer(
        title="django-q2, stock",
        store="postgres",
        scheduler=("{venv}/python", "{programs}/django_q2_scheduler.py"),
        worker=("{venv}/python", "-m", "django", "qcluster"),
        setup=("{venv}/python", "-m", "django", "migrate", "-v", "0"),
        environment=DJANGO_Q2,
    ),
}
# Compared unless others are named; the rest are the same peers set otherwise.
USUAL = (
    "autopilot",
    "apscheduler",
    "celery",
    "bullmq-pg",
    "bullmq-redis",
    "procrastinate",
    "django-q2",
)
