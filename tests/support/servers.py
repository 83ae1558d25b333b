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

ROOT = Path(__file__).resolve().parents[2]


class PostgresServer:
    """A throw-away PostgreSQL server in a directory that must not be there yet."""

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

    def restart_at_once(self):
        """Restart it as after a crash, and return once it takes connections."""
        programs = max(Path("/usr/lib/postgresql").glob("*/bin"))
        data = self._directory / "data"
        command = [programs / "pg_ctl", "-D", data, "-m", "immediate", "-w", "restart"]
        command += ["-l", self._directory / "again.log"]
        if os.geteuid() == 0:
            command = ["runuser", "-u", "postgres", "--", *command]
        subprocess.run(command, check=True, timeout=60, cwd="/", stdout=subprocess.DEVNULL)
        psycopg.connect(self.url.replace("postgres://", "postgresql://")).close()

    def stop(self):
        """Stop it and remove its directory."""
        subprocess.run(
            [".ci/postgres.sh", "stop", str(self._directory)],
            cwd=ROOT,
            timeout=60,
            check=True,
        )


class KafkaNode:
    """A Kafka node that can be killed and started again on its data.

    Args:
        topics: `NAME:PARTITIONS` of each topic to create.
    """

    def __init__(self, directory, topics):
        command = [sys.executable, ".ci/kafka/kafka.py", "run", "--dir", str(directory)]
        for topic in topics:
            command += ["--topic", topic]
        self._starter = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        line = self._starter.stdout.readline()
        self.address = next(word for word in line.split() if word.startswith("127.0.0.1:"))
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
