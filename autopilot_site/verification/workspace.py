"""Temporary tables in which the checks find every job, live or archived, as one row.

The database does the work, set by set, so that memory here stays constant at any number
of jobs. Instants are seconds since 1970 there, so that one SQL serves both databases.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple

from django.db import connection, transaction

from scheduling.domain.lifecycle import ALLOWED_CHANGES, LIVE

JOBS = "scheduling_scheduledtransition"
AUDIT = "scheduling_auditentry"
_TABLES = (
    "verify_job",
    "verify_trail",
    "verify_record",
    "verify_event",
    "verify_span",
    "verify_body",
)

_COLUMNS: tuple[tuple[str, str], ...] = (
    ("job_id", "text"),
    ("event_id", "uuid"),
    ("project_id", "text"),
    ("phase_id", "text"),
    ("state", "text"),
    ("key", "text"),
    ("status", "text"),
    ("attempts", "integer"),
    ("topic_partition", "integer"),
    ("topic_offset", "integer"),
    ("replaces", "text"),
    ("claim_token", "text"),
    ("due_at", "instant"),
    ("ready_at", "instant"),
    ("forced_at", "instant"),
    ("created_at", "instant"),
    ("started_at", "instant"),
    ("completed_at", "instant"),
    ("finalized_at", "instant"),
    ("lease_until", "instant"),
    ("unproven_since", "instant"),
)
# How many bodies go into their table at a time.
_BODIES = 1_000
_ALLOWED = ", ".join(
    f"'{old}>{new}'" for old, news in ALLOWED_CHANGES.items() for new in sorted(news)
)
_LIVE = ", ".join(f"'{status}'" for status in sorted(LIVE))


def seconds(expression: str) -> str:
    """Return SQL for an instant's seconds since 1970, also where it is JSON text.

    SQLite's own functions round to milliseconds; the fraction is taken from the text.
    """
    if connection.vendor == "postgresql":
        # `extract` would go through a numeric, which takes much longer.
        return f"date_part('epoch', ({expression})::timestamptz)"
    whole = f"strftime('%%s', substr({expression}, 1, 19))"
    return f"(CAST({whole} AS REAL) + CAST('0' || substr({expression}, 20) AS REAL))"


def _column(name: str, kind: str, expression: str) -> str:
    """Return SQL for one column of `verify_job`."""
    if kind == "instant":
        expression = seconds(expression)
    elif kind == "integer":
        expression = f"CAST({expression} AS bigint)"
    elif kind == "uuid":
        expression = f"replace(CAST({expression} AS text), '-', '')"
    elif name == "claim_token":
        expression = f"CAST({expression} AS text)"
    return f"{expression} AS {name}"


def _jobs_sql(*, since: datetime | None) -> str:
    """Return the SQL of all jobs: rows, and what clean-up left in the audit."""
    rows = ", ".join(_column(name, kind, f"t.{name}") for name, kind in _COLUMNS)
    archived = ", ".join(
        _column(name, kind, f"a.changes->'job'->>'{name}'") for name, kind in _COLUMNS
    )
    changed = touched = ""
    if since is not None:
        touched = "AND a.at >= %(since)s"
        # One IN over a union is a join; an OR of two is a loop over both for each row.
        changed = f"""WHERE t.job_id IN (
            SELECT job_id FROM {JOBS} WHERE status IN ({_LIVE}) OR updated_at >= %(since)s
            UNION SELECT job_id FROM {AUDIT} WHERE at >= %(since)s)"""  # noqa: S608
    return f"""
        CREATE TEMPORARY TABLE verify_job AS
        SELECT {rows}, 0 AS is_archived FROM {JOBS} t {changed}
        UNION ALL
        SELECT {archived}, 1 AS is_archived FROM {AUDIT} a
        WHERE a.action = 'transition.archived' {touched}
    """  # noqa: S608 -- names of ours


def _trail_sql(*, since: datetime | None) -> str:
    """Return the SQL of each job's audit entries, summed up in one pass.

    gap_id: first entry that starts from another status than the one before left.
    stale_id: first entry of a hand that held nothing any more.
    """
    chosen = ""
    if since is not None:
        chosen = f"""AND job_id IN (
            SELECT job_id FROM {AUDIT} WHERE at >= %(since)s
            UNION SELECT job_id FROM verify_job)"""  # noqa: S608
    # Or else PostgreSQL would sort the entries with all that stands in them.
    fence = "MATERIALIZED" if connection.vendor == "postgresql" else ""
    return f"""
        CREATE TEMPORARY TABLE verify_trail AS
        WITH entry AS {fence} (
            SELECT id, job_id, action, old_status, new_status,
                CASE WHEN action = 'transition.scheduled'
                    THEN {seconds("changes->>'endTime'")} END AS end_time,
                CASE WHEN action = 'transition.scheduled'
                    THEN replace(changes->>'eventId', '-', '') END AS event_id,
                role = '' OR NOT (actor LIKE 'user:_%%' OR actor LIKE 'cli:_%%'
                    OR actor LIKE 'kafka:_%%' OR actor LIKE 'system:_%%')
                    AS is_authorless,
                reason = '' AND (actor LIKE 'user:%%' OR actor LIKE 'cli:%%')
                    AND action IN ('transition.cancelled', 'transition.run_now',
                    'transition.retried') AS is_reasonless
            FROM {AUDIT} WHERE action LIKE 'transition.%%' {chosen}),
        step AS (
            SELECT entry.*,
                lag(new_status) OVER trail AS previous,
                row_number() OVER trail AS number,
                lead(id) OVER trail IS NULL AS is_last
            FROM entry
            WINDOW trail AS (PARTITION BY job_id ORDER BY id))
        SELECT job_id, count(*) AS entries,
            min(CASE WHEN number = 1 THEN action END) AS first_action,
            min(CASE WHEN number = 1 THEN old_status END) AS first_old_status,
            min(CASE WHEN number = 1 THEN end_time END) AS end_time,
            min(CASE WHEN number = 1 THEN event_id END) AS event_id,
            min(CASE WHEN is_last THEN new_status END) AS last_status,
            min(CASE WHEN number > 1 AND old_status <> previous THEN id END) AS gap_id,
            min(CASE WHEN number > 1 AND old_status <> new_status
                AND old_status || '>' || new_status NOT IN ({_ALLOWED}) THEN id END)
                AS forbidden_id,
            min(CASE WHEN is_authorless THEN id END) AS authorless_id,
            min(CASE WHEN is_reasonless THEN id END) AS reasonless_id,
            min(CASE WHEN previous IN ('completed', 'cancelled') AND new_status <> previous
                OR action = 'transition.claimed' AND previous <> 'scheduled'
                OR action IN ('transition.given_back', 'transition.rescued',
                    'transition.attempt_failed', 'transition.failed')
                    AND previous <> 'running'
                OR action = 'transition.completed'
                    AND previous IN ('completed', 'cancelled', 'expired')
                THEN id END) AS stale_id,
            min(CASE WHEN new_status = 'cancelled' THEN id END) AS cancelled_id,
            max(CASE WHEN action IN ('transition.claimed', 'transition.completed')
                THEN id END) AS fired_id,
            sum(CASE WHEN action = 'transition.completed' THEN 1 ELSE 0 END) AS completions,
            sum(CASE WHEN action = 'transition.run_now' THEN 1 ELSE 0 END) AS demands,
            sum(CASE WHEN action = 'transition.claimed' THEN 1
                WHEN action IN ('transition.given_back', 'transition.rescued') THEN -1
                ELSE 0 END) AS attempts
        FROM step GROUP BY job_id
    """  # noqa: S608 -- names of ours


class Row(NamedTuple):
    """One row that a check found: whose, what, and how many there are in all."""

    job_id: str | None
    values: tuple[Any, ...]
    total: int


class Workspace:
    """The temporary tables of one verification, on this thread's connection."""

    def __init__(self, *, since: datetime | None) -> None:
        self._since = since

    @contextmanager
    def open(self) -> Iterator[None]:
        """Drop the tables at the end; they live no longer than the session anyway."""
        self._drop()
        try:
            yield
        finally:
            if not connection.needs_rollback and connection.connection is not None:
                self._drop()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """See the jobs and their audit as of one instant, and fill the job tables.

        On SQLite the transaction must not be Django's: an IMMEDIATE one would keep the
        engine from writing for as long as the checks last.
        """
        if connection.in_atomic_block:
            self._fill()
            yield
        elif connection.vendor == "postgresql":
            with transaction.atomic():
                self.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                # Of the few large sorts none has to go through a file.
                self.execute("SET LOCAL work_mem = '64MB'")
                # To compile such queries takes longer than to run them.
                self.execute("SET LOCAL jit = off")
                self._fill()
                yield
        else:
            self.execute("BEGIN DEFERRED")
            try:
                self._fill()
                yield
            finally:
                self.execute("COMMIT")

    def _fill(self) -> None:
        """Make the tables of the jobs and of their trails."""
        since = self._since
        value = since and connection.ops.adapt_datetimefield_value(since)
        self.execute(_jobs_sql(since=since), since=value)
        self.execute(_trail_sql(since=since), since=value)
        if connection.vendor == "postgresql":
            # It joins all with all, by hashing; it would guess how much that is.
            self._analyze("verify_job (job_id, event_id, status)", "verify_trail (job_id)")
            return
        self.execute("CREATE INDEX verify_job_job ON verify_job (job_id)")
        self.execute("CREATE INDEX verify_job_event ON verify_job (event_id)")
        self.execute("CREATE INDEX verify_trail_job ON verify_trail (job_id)")

    def make_record_table(self) -> None:
        """Make the empty table of what stands on the topic."""
        self.execute(
            "CREATE TEMPORARY TABLE verify_record (job_id text, event_id text, key text,"
            " part integer, place bigint, at double precision, digest text)"
        )

    def add_records(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Add records, in the order of the table's columns."""
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO verify_record VALUES (%s, %s, %s, %s, %s, %s, %s)", rows
            )

    def make_body_table(self, rows: Iterator[tuple[str, str, str]]) -> None:
        """Make the table of what each completed row would publish: job, event, digest."""
        self.execute(
            "CREATE TEMPORARY TABLE verify_body (job_id text, event_id text, digest text)"
        )
        with connection.cursor() as cursor:
            while batch := list(itertools.islice(rows, _BODIES)):
                cursor.executemany("INSERT INTO verify_body VALUES (%s, %s, %s)", batch)
        self.execute("CREATE INDEX verify_body_event ON verify_body (event_id)")

    def add_spans(self, rows: Sequence[tuple[int, int, int, int]]) -> None:
        """Add what each partition holds: number, low, end, and the end before."""
        self.execute(
            "CREATE TEMPORARY TABLE verify_span (part integer, low bigint, ends bigint,"
            " ended_before bigint, oldest double precision)"
        )
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO verify_span VALUES (%s, %s, %s, %s, NULL)", rows
            )
        self.execute(
            "UPDATE verify_span SET oldest = (SELECT min(r.at) FROM verify_record r"
            " WHERE r.part = verify_span.part)"
        )

    def index_records(self) -> None:
        """Prepare the records for the checks, with the first of each event apart."""
        self.execute("CREATE INDEX verify_record_event ON verify_record (event_id)")
        self.execute("CREATE INDEX verify_record_place ON verify_record (part, place)")
        self.execute("CREATE INDEX verify_record_job ON verify_record (job_id)")
        self.execute(
            "CREATE TEMPORARY TABLE verify_event AS"
            " SELECT event_id, job_id, part, place, at FROM ("
            "  SELECT r.*, row_number() OVER ("
            "   PARTITION BY event_id ORDER BY part, place) AS number"
            "  FROM verify_record r WHERE event_id IS NOT NULL) numbered"
            " WHERE number = 1"
        )
        self._analyze("verify_record", "verify_event")

    def execute(self, sql: str, **values: Any) -> None:
        """Execute one statement."""
        with connection.cursor() as cursor:
            cursor.execute(sql, values)

    def count(self, sql: str, **values: Any) -> int:
        """Return the number that a query answers."""
        with connection.cursor() as cursor:
            cursor.execute(sql, values)
            return int(cursor.fetchone()[0] or 0)

    def count_each(
        self, source: str, conditions: Sequence[str], **values: Any
    ) -> Sequence[int]:
        """Return for how many rows each condition holds, by one look at the rows."""
        counts = ", ".join(f"count(*) FILTER (WHERE {one})" for one in conditions)
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {counts} FROM {source}", values)  # noqa: S608 -- ours
            found: Sequence[int] = cursor.fetchone()
        return found

    def find(self, sql: str, *, most: int, **values: Any) -> list[Row]:
        """Return the first rows of a query whose first column is a job id."""
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT found.*, count(*) OVER () FROM ({sql}) found"  # noqa: S608
                " ORDER BY 1 LIMIT %(most)s",
                {**values, "most": most},
            )
            return [Row(row[0], row[1:-1], row[-1]) for row in cursor.fetchall()]

    def stream(self, sql: str, **values: Any) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query, some at a time."""
        with connection.chunked_cursor() as cursor:
            cursor.execute(sql, values)
            while rows := cursor.fetchmany(2_000):
                yield from rows

    def _analyze(self, *tables: str) -> None:
        """Tell the planner how large the tables are; PostgreSQL would guess."""
        if connection.vendor == "postgresql":
            for table in tables:
                self.execute(f"ANALYZE {table}")

    def _drop(self) -> None:
        """Drop what there is."""
        for table in _TABLES:
            self.execute(f"DROP TABLE IF EXISTS {table}")
