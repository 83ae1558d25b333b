"""PostgreSQL servers and Kafka nodes of one's own, which may be killed and come back."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import psycopg
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from psycopg import sql

ROOT = Path(__file__).resolve().parents[2]


class PostgresServer:
    """A throw-away PostgreSQL server in a directory that must not be there yet.

    It asks for no password and takes any connection, until `demand_tls`.
    """

    def __init__(self, directory):
        self._directory = directory
        started = subprocess.run(
            [".ci/postgres.sh", "start", str(directory)],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.url = started.stdout.strip().removeprefix("DATABASE_URL=")

    def demand_tls(self, authority, *, password):
        """Let it take connections over TLS only, and ask for a password from now on."""
        with psycopg.connect(self.url, autocommit=True) as session:
            change = sql.SQL("ALTER ROLE {} PASSWORD {}")
            session.execute(change.format(sql.Identifier(session.info.user), password))
        data = self._directory / "data"
        key, certificate = authority.issue()
        for name, text in (("server.key", key), ("server.crt", certificate)):
            _write_as_owner(data / name, text)
        rules = "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n"
        (data / "pg_hba.conf").write_text(rules)
        with (data / "postgresql.conf").open("a") as conf:
            conf.write("ssl = on\n")
        trusted = self._directory.parent / "trusted.pem"
        trusted.write_bytes(authority.pem)
        plain = self.url
        self.url = (
            f"{plain.replace('@', f':{password}@')}"
            f"?sslmode=verify-full&sslrootcert={trusted}"
        )
        self._pg_ctl("reload")
        _wait_until_refused(plain)

    def restart_at_once(self):
        """Restart it as after a crash, and return once it takes connections."""
        log = self._directory / "again.log"
        self._pg_ctl("restart", "-m", "immediate", "-w", "-l", log)
        psycopg.connect(self.url).close()

    def _pg_ctl(self, *words):
        """Tell the server something, as the user that it runs as."""
        programs = max(Path("/usr/lib/postgresql").glob("*/bin"))
        command = [programs / "pg_ctl", "-D", self._directory / "data", *words]
        if os.geteuid() == 0:
            command = ["runuser", "-u", "postgres", "--", *command]
        subprocess.run(command, check=True, timeout=60, cwd="/", stdout=subprocess.DEVNULL)

    def stop(self):
        """Stop it and remove its directory."""
        subprocess.run(
            [".ci/postgres.sh", "stop", str(self._directory)],
            cwd=ROOT,
            timeout=60,
            check=True,
        )


def _write_as_owner(path, text):
    """Write a file that the server alone may read."""
    path.touch(mode=0o600)
    path.write_bytes(text)
    owner = path.parent.stat()
    os.chown(path, owner.st_uid, owner.st_gid)


def _wait_until_refused(url):
    """Wait until the server takes no connection without TLS any more."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            psycopg.connect(url, sslmode="disable").close()
        except psycopg.OperationalError:
            return
        time.sleep(0.05)
    raise AssertionError("connections without TLS are still taken")


class KafkaNode:
    """A Kafka node that can be killed and started again on its data.

    `address` is open to everybody; `secured_address` speaks TLS, and knows one user.

    Args:
        topics: `NAME:PARTITIONS` of each topic to create.
        certificate: A file with its key and its certificate, for the second listener.
        user: `NAME:PASSWORD` of that one's user.
    """

    def __init__(self, directory, topics, *, certificate=None, user=""):
        command = [sys.executable, ".ci/kafka/kafka.py", "run", "--dir", str(directory)]
        if certificate:
            command += ["--certificate", str(certificate), "--user", user]
        for topic in topics:
            command += ["--topic", topic]
        self._starter = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        line = self._starter.stdout.readline()
        addresses = [word for word in line.split() if word.startswith("127.0.0.1:")]
        self.address, self.secured_address = addresses[0], addresses[-1]
        java = psutil.Process(self._starter.pid).children()[0]
        self._command = java.cmdline()
        self._java = java
        self._log = directory / "again.log"

    def kill(self):
        """End it with no chance to put anything in order."""
        if self._starter.poll() is None:
            self._starter.kill()
            self._starter.wait(10)
            self._starter.stdout.close()
        if self._java.is_running():
            self._java.kill()
            self._java.wait(10)

    def start(self):
        """Start it on the same data and return once it answers."""
        with self._log.open("ab") as sink:
            self._java = psutil.Popen(self._command, stdout=sink, stderr=sink)
        client = AdminClient({"bootstrap.servers": self.address, "log_level": 0})
        end = time.monotonic() + 60
        while True:
            try:
                client.list_topics(timeout=2)
            except KafkaException:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
            else:
                return
