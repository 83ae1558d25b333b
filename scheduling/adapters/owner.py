"""Who holds a claim, and whether that owner is provably dead."""

import functools
import os
import socket
import weakref
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from django.db import connection
from typing_extensions import override


@functools.cache
def host_identity() -> str:
    """Return a name for this host and its process-id namespace.

    Two containers on one machine have the same boot id and different namespaces: the
    one can't tell whether a process of the other lives.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    namespace = Path("/proc/self/ns/pid").stat().st_ino
    return f"{socket.gethostname()}/{boot[:13]}/{namespace}"


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A process, and its PostgreSQL session where there is one.

    process: pid and start instant; a pid alone may be given to another process.
    session: backend pid and start instant (epoch seconds), or empty.
    """

    host: str
    process: str
    session: str

    @classmethod
    def current(cls) -> Self:
        """Return this process with its present database session."""
        return cls(
            host=host_identity(),
            process=_process_identity(os.getpid()) or "",
            session=_session_identity(),
        )

    @classmethod
    def of_process(cls, pid: int) -> Self:
        """Return a process of this host, without a session."""
        return cls(host=host_identity(), process=_process_identity(pid) or "", session="")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the owner that `str` wrote."""
        host, process, session = text.split("|")
        return cls(host=host, process=process, session=session)

    @override
    def __str__(self) -> str:
        return f"{self.host}|{self.process}|{self.session}"

    def is_dead_here(self) -> bool:
        """Tell whether it was a process of this host, and is gone."""
        if self.host != host_identity():
            return False
        pid = int(self.process.split("@")[0] or 0)
        return _process_identity(pid) != self.process

    def is_dead(self, *, claimed_at: datetime) -> bool:
        """Tell whether it is proven that this owner can't act any more.

        On this host its process decides. Elsewhere a lost session does, unless the
        database server was restarted since: that ends the sessions of the living too.
        False means "not proven": then the lease decides.
        """
        if self.host == host_identity():
            return self.is_dead_here()
        if not self.session or connection.vendor != "postgresql":
            return False
        backend, started = self.session.split("@")
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_postmaster_start_time() < %s AND NOT EXISTS ("
                " SELECT 1 FROM pg_stat_activity WHERE pid = %s"
                # PostgreSQL keeps from us when a session of another role began.
                " AND (backend_start IS NULL"
                " OR round(extract(epoch FROM backend_start) * 1000)::bigint = %s))",
                [claimed_at, int(backend), int(started)],
            )
            return bool(cursor.fetchone()[0])


def _process_identity(pid: int) -> str | None:
    """Return `pid@start` of a living process; None where there is none.

    The start is in clock ticks since boot (proc(5), field 22): a step of the wall clock
    doesn't move it.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name, in brackets, may itself hold spaces and brackets.
    state, *fields = text.rpartition(")")[2].split()
    return None if state in {"Z", "X"} else f"{pid}@{fields[18]}"


def _session_identity() -> str:
    """Return `pid@start` of our PostgreSQL session, start in epoch milliseconds."""
    if connection.vendor != "postgresql":
        return ""
    connection.ensure_connection()
    session = connection.connection
    if session not in _identities:
        _identities[session] = _ask_session_identity()
    return _identities[session]


# Asking costs more than a claim does; a session keeps its identity.
_identities: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def _ask_session_identity() -> str:
    """Ask PostgreSQL who we are."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid, round(extract(epoch FROM backend_start) * 1000)::bigint"
            " FROM pg_stat_activity WHERE pid = pg_backend_pid()"
        )
        pid, started = cursor.fetchone()
    return f"{pid}@{started}"
