"""`python -m tests.chaos [--seconds 180] [--seed N] [--raw FILE]`.

Starts a PostgreSQL server, an Apache Kafka node, two clusters, two consumers and a web
process of its own, lets clients work while it kills, pauses and restarts, and then judges
from outside what stands on the topics, and by `verify --topic` what stands in the tables.
Exit code 0 where everything held.
"""

import argparse
import contextlib
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from rich.console import Console
from rich.table import Table

from scheduling.adapters.tcp_forwarder import TcpForwarder
from scheduling.topics import ALL_TOPICS, DEFAULT_PARTITIONS
from tests.chaos.faults import Faults
from tests.chaos.fleet import Fleet
from tests.chaos.growth import Growth, summary, with_lateness
from tests.chaos.judge import Watcher, judge
from tests.chaos.load import (
    SOON,
    Api,
    Ledger,
    Records,
    Scheduler,
    Upstream,
    wait_for_all,
)
from tests.support.challenge_service import ScriptedChallengeService
from tests.support.servers import ROOT, KafkaNode, PostgresServer

NAME = "chaos"
CLIENTS = 4
JOBS_PER_SECOND = 5
# How long after the last fault all may take that was promised, and `verify` to agree.
DRAIN_SECONDS = 90
VERIFY_SECONDS = 60
MOST_SHOWN = 5
READY_SECONDS = 120
AHEAD_SECONDS = 30
RECOVERY_OFTEN = {"RECOVERY_SYNC_INTERVAL": "3000"}


def main():
    """Run it, and return the exit code."""
    options = _options()
    # What it started is stopped whichever way it is asked to end.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console()
    console.print(
        f"chaos for {options.seconds} s, seed {options.seed}; again by: "
        f"make chaos DURATION={options.seconds} SEED={options.seed}"
    )
    with (
        tempfile.TemporaryDirectory(prefix="chaos-") as scratch,
        contextlib.ExitStack() as end,
    ):
        directory = Path(scratch)
        # PostgreSQL's own user passes through to its directory.
        directory.chmod(0o755)
        postgres = PostgresServer(directory / "postgres")
        end.callback(postgres.stop)
        kafka = KafkaNode(
            directory / "kafka", [f"{name}:{DEFAULT_PARTITIONS}" for name in ALL_TOPICS]
        )
        end.callback(kafka.kill)
        report = _run(options, directory, postgres, kafka, end)
    _show(console, report)
    if options.raw:
        options.raw.write_text(json.dumps(report, indent=2), encoding="utf-8")
    return 1 if any(report["wrong"].values()) else 0


def _options():
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seconds", type=int, default=180, help="how long faults last")
    parser.add_argument(
        "--kill-every", type=int, default=1, help="seconds from one kill to the next"
    )
    parser.add_argument(
        "--only-kills",
        action="store_true",
        help="no pause, no outage: for an hour that shows whether anything grows",
    )
    parser.add_argument("--log", type=Path, help="a file for what the processes write")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--raw", type=Path, help="a file for the report as JSON")
    return parser.parse_args()


def _run(options, directory, postgres, kafka, end):
    """Let clients and faults have their time, and return the report.

    Args:
        end: Calls back when all is over, whatever happened.
    """
    password = secrets.token_urlsafe(16)
    port = _free_port()
    environment = os.environ | {
        "DATABASE_URL": postgres.url,
        "KAFKA_BOOTSTRAP_SERVERS": kafka.address,
        "DEBUG": "0",
        "SECRET_KEY": secrets.token_urlsafe(50),
        "JWT_SIGNING_KEY": secrets.token_urlsafe(50),
        "ALLOWED_HOSTS": "127.0.0.1",
        "DJANGO_SUPERUSER_USERNAME": NAME,
        "DJANGO_SUPERUSER_PASSWORD": password,
        "DJANGO_SUPERUSER_EMAIL": "chaos@example.org",
        "PORT": str(port),
    }
    _manage(environment, "migrate", "-v", "0")
    _manage(environment, "createsuperuser", "--noinput", "-v", "0")
    log_path = options.log or directory / "product.log"
    with (
        log_path.open("ab") as log,
        ScriptedChallengeService() as upstream,
        contextlib.closing(
            TcpForwarder(port=0, target_port=urlsplit(postgres.url).port)
        ) as tunnel,
    ):
        environment |= upstream.environment() | RECOVERY_OFTEN
        fleet = Fleet(
            _commands(port, postgres.url, tunnel.port), environment=environment, log=log
        )
        end.callback(fleet.kill)
        watcher = Watcher(kafka.address)
        watcher.start()
        _wait_until_well(port, seconds=READY_SECONDS)
        ledger = Ledger()
        until = time.monotonic() + options.seconds
        clients = [
            Scheduler(
                Api(port, ledger, name=NAME, password=password),
                ledger,
                seed=options.seed + number,
                first_project=number * 1_000_000,
                per_second=JOBS_PER_SECOND,
                until=until,
            )
            for number in range(1, CLIENTS + 1)
        ]
        records = Records(
            kafka.address, ledger, seed=options.seed, first_project=900_000_000, until=until
        )
        shower = Upstream(upstream, ledger, until=until)
        faults = Faults(
            fleet=fleet,
            postgres=postgres,
            kafka=kafka,
            tunnel=tunnel,
            seconds=options.seconds,
            kill_every=options.kill_every,
            only_kills=options.only_kills,
            seed=options.seed,
        )
        growth = Growth(fleet, postgres.url)
        growth.start()
        for thread in (*clients, records, shower, faults):
            thread.start()
        wait_for_all([*clients, records, shower, faults], seconds=options.seconds + 180)
        growth.stop()
        quiet_since = time.monotonic()
        time.sleep(SOON[1])
        verdict = judge(kafka.address, ledger, watcher.seen_at, faults.outages)
        while verdict.is_incomplete and time.monotonic() < quiet_since + DRAIN_SECONDS:
            time.sleep(3)
            verdict = judge(kafka.address, ledger, watcher.seen_at, faults.outages)
        drained = time.monotonic() - quiet_since
        asked = [*verdict.wrong["lost"], *verdict.wrong["early"], *verdict.latest]
        told = _histories(postgres.url, asked)
        changes = _changes_of_breakers(postgres.url)
        check = _verify(environment, until=time.monotonic() + VERIFY_SECONDS)
        watcher.stop()
        not_in_order = fleet.stop()
    samples = with_lateness(growth.samples, verdict.events)
    failed = [client.error for client in clients if client.error] + faults.errors
    if not ledger.jobs or not ledger.commands:
        failed.append("the clients were promised nothing: the faults left no time")
    return {
        "seed": options.seed,
        "seconds": options.seconds,
        "faults": dict(faults.done) | {"restarts": fleet.restarts},
        "figures": verdict.figures
        | {"seconds to judge after the faults": round(drained, 1)},
        "repeated": verdict.repeated,
        "latest": verdict.latest,
        "late": verdict.late,
        "histories": told,
        "samples": samples,
        "growth": summary(samples),
        "outages": faults.outages,
        "breakers": changes,
        "wrong": verdict.wrong
        | {
            "verify": check,
            "did not stop in order": not_in_order,
            "harness": failed,
        },
    }


def _commands(port, database_url, tunnel_port):
    """Return what is run; each would be a unit of a service manager.

    The second cluster reaches the database through the tunnel, and its host's clock is
    ahead.
    """
    web = ("-m", "gunicorn", "-k", "asgi", "--no-control-socket", "--graceful-timeout", "5")
    bound = ("--bind", f"127.0.0.1:{port}", "autopilot_site.asgi:application")
    cluster, consumer = ("manage.py", "qcluster"), ("manage.py", "consume_events")
    ahead = ("-m", "tests.chaos.ahead", str(AHEAD_SECONDS), "qcluster")
    other_way = database_url.replace(f":{urlsplit(database_url).port}/", f":{tunnel_port}/")
    return {
        "web": ((*web, *bound), {}),
        "cluster-a": (cluster, {}),
        "cluster-b": (ahead, {"DATABASE_URL": other_way}),
        **{
            name: (consumer, {"KAFKA_GROUP_INSTANCE_ID": name})
            for name in ("consumer-a", "consumer-b")
        },
    }


def _wait_until_well(port, *, seconds):
    """Wait until the web process says that every part of the system is there.

    Raises:
        TimeoutError: It does not in time.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return
        time.sleep(0.5)
    raise TimeoutError(f"the system is not well after {seconds} s")


def _manage(environment, *arguments, **options):
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=environment,
        check=options.pop("check", True),
        timeout=120,
        **options,
    )


def _verify(environment, *, until):
    """Return the violations that `verify --topic` finds once nothing is on its way."""
    while True:
        done = _manage(
            environment, "verify", "--topic", "--json", check=False, capture_output=True
        )
        found = json.loads(done.stdout or b"{}")
        wrong = [
            f"{one['name']}: {violation}"
            for one in found.get("invariants", [])
            for violation in one["violations"]
        ]
        if found.get("ok"):
            return []
        if time.monotonic() > until:
            return wrong or [done.stdout.decode()[-500:] + done.stderr.decode()[-500:]]
        time.sleep(3)


def _histories(url, job_ids):
    """Return what the tables say of jobs, by id: for whoever looks for the reason."""
    with psycopg.connect(url) as session:
        return {
            job_id: [
                row
                for (row,) in session.execute(
                    "SELECT row_to_json(j) FROM scheduling_scheduledtransition j"
                    " WHERE job_id = %(id)s UNION ALL"
                    " (SELECT row_to_json(e) FROM scheduling_auditentry e"
                    " WHERE job_id = %(id)s ORDER BY id)",
                    {"id": job_id},
                )
            ]
            for job_id in job_ids
        }


def _changes_of_breakers(url):
    """Return when circuit breakers opened and closed, and why."""
    with psycopg.connect(url) as session:
        rows = session.execute(
            "SELECT extract(epoch FROM at)::float8, action, changes"
            " FROM scheduling_auditentry WHERE action LIKE 'breaker.%%' ORDER BY id",
            {},
        )
        return [list(row) for row in rows]


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _show(console, report):
    """Print the report as one table."""
    table = Table(title=f"chaos, {report['seconds']} s, seed {report['seed']}")
    table.add_column("what")
    table.add_column("seen", justify="right")
    for group in ("faults", "figures"):
        for name, value in report[group].items():
            total = sum(value.values()) if isinstance(value, dict) else value
            table.add_row(name, f"{total:,.1f}" if isinstance(total, float) else str(total))
        table.add_section()
    for name, (first, last) in report["growth"].items():
        table.add_row(f"{name}, first and last", f"{first} / {last}")
    table.add_section()
    for name, found in report["wrong"].items():
        table.add_row(name, str(len(found)))
    console.print(table)
    for name, found in report["wrong"].items():
        for one in found[:MOST_SHOWN]:
            console.print(f"{name}: {one}", markup=False)


if __name__ == "__main__":
    sys.exit(main())
