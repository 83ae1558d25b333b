"""A peer at work: its store, the program that schedules, and those that fire."""

import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import psycopg

from tests.peers.catalogue import PEERS
from tests.peers.control import Disturbance, cpu_seconds
from tests.peers.watcher import BLOCK, FAR, WARM
from tests.support.servers import ROOT

PROGRAMS = Path(__file__).parent / "programs"
MARK = "peers "
START_SECONDS = 60
# A peer that looks every 30 s may take its time.
WARM_SECONDS = 100
WARM_JOBS = 20
SETTLE_SECONDS = 3
PROBE_JOBS = 40


class StandError(RuntimeError):
    """A peer, or its store, does not do what it has to."""


@dataclass
class Services:
    """The PostgreSQL server and the Kafka node that all peers use.

    home: Where the peers are installed.
    stands: Those that are open.
    """

    database_url: str
    bootstrap: str
    home: Path
    directory: Path
    stands: set = field(default_factory=set)
    _templates: set = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def url(self, database):
        """Return the address of a database of the server."""
        parts = urlsplit(self.database_url)
        return f"postgresql://{parts.username}@{parts.hostname}:{parts.port}/{database}"

    def execute(self, statement, *, database="postgres", user=None):
        """Execute one statement, and return its rows if it has any."""
        url = self.url(database)
        if user is not None:
            url = url.replace(f"//{urlsplit(url).username}@", f"//{user}@")
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def make_database(self, name, *, template, set_up):
        """Make a database with a peer's tables, which are set up once."""
        with self._lock:
            if template not in self._templates:
                self.drop_database(template)
                self.execute(f"CREATE DATABASE {template}")
                set_up(self.url(template))
                self._templates.add(template)
            self.drop_database(name)
            self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")

    def drop_database(self, name):
        """Drop a database, whoever uses it: the server's own vacuum, too."""
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", user="postgres")

    def close(self):
        """End what still runs, and leave nothing on the server."""
        for stand in list(self.stands):
            stand.close()
        for template in self._templates:
            self.drop_database(template)

    def postmaster(self):
        """Return the server's first process."""
        with psycopg.connect(self.url("postgres")) as connection:
            return psutil.Process(connection.info.backend_pid).parent()


class Redis:
    """A Redis server of one's own; what it has acknowledged is on disk within a second."""

    def __init__(self, directory, *, hz):
        directory.mkdir()
        self.port = _free_port()
        with (directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("redis-server", "--bind", "127.0.0.1", "--port", str(self.port)),
                    *("--dir", str(directory), "--save", "", "--appendonly", "yes"),
                    *("--appendfsync", "everysec", "--maxmemory-policy", "noeviction"),
                    *("--hz", str(hz)),
                ],
                stdout=log,
                stderr=log,
            )
        self._wait()

    def _wait(self):
        give_up_at = time.monotonic() + START_SECONDS
        while time.monotonic() < give_up_at:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as asked:
                    asked.sendall(b"PING\r\n")
                    if asked.recv(64).startswith(b"+PONG"):
                        return
            except OSError:
                pass
            time.sleep(0.05)
        raise StandError("Redis does not answer")

    def process(self):
        """Return its process."""
        return psutil.Process(self._process.pid)

    def stop(self):
        """End it; nothing of it is needed any more."""
        self._process.kill()
        self._process.wait()


class Stand:
    """One peer with a store of its own, for one measurement; leave it to end it.

    Args:
        block: The numbers of its jobs begin at this many times BLOCK.
    """

    def __init__(self, name, services, *, block):
        self.name = name
        self.peer = PEERS[name]
        self.block = block
        self._services = services
        self._directory = services.directory / f"{block}-{name}"
        self._directory.mkdir()
        self._environment = _environment(self.peer, services)
        self._database = None
        self._redis = None
        self._scheduler = None
        self._worker = None

    # --- Life -------------------------------------------------------------------------
    def __enter__(self):
        self._services.stands.add(self)
        try:
            self._open_store()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def _open_store(self):
        if self.peer.store == "redis":
            self._redis = Redis(self._directory / "redis", hz=self.peer.redis_hz)
            self._environment["PEERS_REDIS_URL"] = f"redis://127.0.0.1:{self._redis.port}/0"
            return
        plain = self.name.replace("-", "_")
        database = f"peers_{self.block}_{plain}"
        self._services.make_database(
            database, template=f"peers_template_{plain}", set_up=self._set_up
        )
        self._database = database
        self._name_database(self._services.url(database))

    def _name_database(self, url):
        self._environment["PEERS_DATABASE_URL"] = url
        self._environment["DATABASE_URL"] = url.replace("postgresql:", "postgres:")

    def _set_up(self, url):
        if self.peer.setup is None:
            return
        self._name_database(url)
        with self._log("setup").open("ab") as log:
            subprocess.run(
                self._complete(self.peer.setup),
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=True,
                timeout=120,
            )

    def close(self):
        """End all of it, and throw its store away."""
        self._services.stands.discard(self)
        self.kill()
        _end(self._scheduler)
        self._scheduler = None
        if self._redis is not None:
            self._redis.stop()
        if self._database is not None:
            self._services.drop_database(self._database)
            self._database = None

    # --- Processes --------------------------------------------------------------------
    def start_scheduler(self):
        """Start the program that schedules, which fires too where there is no other."""
        with self._log("scheduler").open("ab") as log:
            self._scheduler = subprocess.Popen(
                self._complete(self.peer.scheduler),
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self._answer()

    def start_worker(self):
        """Start what fires."""
        if self.peer.worker is None:
            if self._scheduler is None:
                self.start_scheduler()
            return
        with self._log("worker").open("ab") as log:
            self._worker = subprocess.Popen(
                self._complete(self.peer.worker),
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start(self, watcher):
        """Start all, and see a few jobs fire, so that everything is warm and connected.

        Raises:
            StandError: They don't, in time.
        """
        self.start_worker()
        if self._scheduler is None:
            self.start_scheduler()
        due_ms = _now_ms() + 4_000
        self.schedule(WARM, WARM_JOBS, due_ms=due_ms, span_ms=1_000)
        give_up_at = time.monotonic() + WARM_SECONDS
        while not watcher.is_warm(self.block, WARM_JOBS):
            self.check()
            if time.monotonic() > give_up_at:
                raise StandError(f"{self.name} fires nothing:\n{self._tails()}")
            time.sleep(0.1)
        time.sleep(SETTLE_SECONDS)

    def kill(self):
        """End whatever fires, with no chance to put anything in order."""
        if self.peer.worker is None:
            _end(self._scheduler)
            self._scheduler = None
        _end(self._worker)
        self._worker = None

    def check(self):
        """See that it still runs.

        Raises:
            StandError: It does not.
        """
        for process in (self._worker, self._scheduler):
            if process is not None and process.poll() is not None:
                raise StandError(f"{self.name} has ended:\n{self._tails()}")

    # --- Scheduling -------------------------------------------------------------------
    def schedule(self, first, count, *, due_ms, span_ms=0, bulk=False):
        """Schedule jobs evenly over a span, and return how many seconds it took.

        Args:
            first: Of the block.
        """
        asked = {
            "first": self.block * BLOCK + first,
            "count": count,
            "dueMs": due_ms,
            "spanMs": span_ms,
            "bulk": bulk,
        }
        self._scheduler.stdin.write(json.dumps(asked) + "\n")
        self._scheduler.stdin.flush()
        return self._answer()["seconds"]

    def lead_ms(self, count):
        """Return how far ahead so many jobs must be due, to be there in time."""
        far = _now_ms() + 24 * 3_600_000
        seconds = self.schedule(FAR, PROBE_JOBS, due_ms=far, span_ms=PROBE_JOBS)
        return 4_000 + int(1_800 * count * seconds / PROBE_JOBS)

    def _answer(self):
        for line in self._scheduler.stdout:
            if line.startswith(MARK):
                return json.loads(line.removeprefix(MARK))
        raise StandError(f"{self.name} does not answer:\n{self._tails()}")

    # --- Cost -------------------------------------------------------------------------
    def quieten_store(self):
        """Let the store do now what it would do some time after many writes."""
        if self._database is not None:
            for statement in ("VACUUM ANALYZE", "CHECKPOINT"):
                self._services.execute(statement, database=self._database, user="postgres")

    def control(self):
        """Return what tells how much the machine is disturbed, for a `with`."""
        return Disturbance(self._services)

    def used_cpu(self):
        """Return how much CPU what fires has used, and how much its store."""
        fires = self._scheduler if self.peer.worker is None else self._worker
        store = self._redis.process() if self._redis else self._services.postmaster()
        return cpu_seconds(psutil.Process(fires.pid)), cpu_seconds(store)

    def stop_scheduling(self):
        """End the program that schedules, where it does nothing else."""
        if self.peer.worker is not None:
            _end(self._scheduler)
            self._scheduler = None

    # --- Small things -----------------------------------------------------------------
    def _complete(self, command):
        home = self._services.home
        return [
            word.format(
                project=sys.executable, venv=home / "venv/bin", home=home, programs=PROGRAMS
            )
            for word in command
        ]

    def _log(self, name):
        return self._directory / f"{name}.log"

    def _tails(self):
        return "\n".join(
            path.read_text(errors="replace")[-1_500:]
            for path in sorted(self._directory.glob("*.log"))
        )


def _environment(peer, services):
    """Return what a peer's programs find in their environment."""
    return {
        **os.environ,
        "KAFKA_BOOTSTRAP_SERVERS": services.bootstrap,
        "PYTHONPATH": f"{PROGRAMS}:{ROOT}" if peer is PEERS["autopilot"] else str(PROGRAMS),
        # As in production: Autopilot asks for them.
        "DEBUG": "0",
        "SECRET_KEY": secrets.token_urlsafe(50),
        "JWT_SIGNING_KEY": secrets.token_urlsafe(50),
        "ALLOWED_HOSTS": "127.0.0.1",
        **peer.environment,
    }


def _end(process):
    """Kill a process and all below it."""
    if process is None:
        return
    try:
        top = psutil.Process(process.pid)
        tree = [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        tree = []
    for one in tree:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()
    psutil.wait_procs(tree, timeout=10)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _now_ms():
    return int(time.time() * 1000)


def _free_port():
    """Return a port below those that the kernel gives to outgoing connections."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def prepare(home):
    """Install the peers, each from its own registry, and nothing into the project."""
    here = Path(__file__).parent
    home.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "venv", home / "venv"], check=True)
    pip = [home / "venv/bin/pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", here / "requirements.txt"], check=True)
    shutil.copy(here / "package.json", home)
    subprocess.run(["npm", "install", "--no-audit", "--no-fund"], cwd=home, check=True)
