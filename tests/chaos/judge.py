"""What the topics show, against what the clients were promised; no row is looked at."""

import json
import threading
import time
import uuid
from collections import defaultdict
from dataclasses import dataclass, field

from confluent_kafka import Consumer, TopicPartition

from scheduling.topics import COMMAND_RESULT, PHASE_TRANSITION

# The harness's clock and the database's are one; a millisecond is lost by rounding.
TOLERANCE_SECONDS = 0.001
# What was due just before an outage was still on its way.
MARGIN_SECONDS = 0.1
MOST_LATEST = 10
# The 99th percentile of the lateness in peace shall be no more.
WANTED_SECONDS = 5.0


class Watcher(threading.Thread):
    """Notes when each event came, as a consumer of the topic sees it."""

    def __init__(self, bootstrap):
        super().__init__(name="watcher", daemon=True)
        self._address = bootstrap
        self._stopping = False
        self.seen_at = {}

    def run(self):
        reader = Consumer(
            {
                "bootstrap.servers": self._address,
                "group.id": f"chaos-{uuid.uuid4()}",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 10,
                "reconnect.backoff.max.ms": 200,
                "log_level": 0,
            }
        )
        topics = reader.list_topics(PHASE_TRANSITION, 10).topics
        partitions = topics[PHASE_TRANSITION].partitions
        reader.assign([TopicPartition(PHASE_TRANSITION, n, 0) for n in partitions])
        while not self._stopping:
            for message in reader.consume(500, 0.05):
                if message.error() is None:
                    event_id = dict(message.headers())["event-id"].decode()
                    self.seen_at.setdefault(event_id, time.time())
        reader.close()

    def stop(self):
        """Let it end."""
        self._stopping = True
        self.join(5)


def read_topic(bootstrap, topic):
    """Return all records of a topic as they stand: headers and payloads."""
    reader = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"chaos-{uuid.uuid4()}",
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )
    places = [TopicPartition(topic, n, 0) for n in _partitions(reader, topic)]
    ends = {p.partition: reader.get_watermark_offsets(p, timeout=20)[1] for p in places}
    left = {number for number, end in ends.items() if end}
    reader.assign(places)
    found = []
    give_up_at = time.monotonic() + 120
    while left and time.monotonic() < give_up_at:
        for message in reader.consume(1_000, 0.2):
            if message.error() is not None:
                continue
            headers = {name: value.decode() for name, value in message.headers() or []}
            found.append((headers, json.loads(message.value())["payload"]))
            if message.offset() + 1 >= ends[message.partition()]:
                left.discard(message.partition())
    reader.close()
    if left:
        raise TimeoutError(f"{topic} could not be read to its end")
    return found


def _partitions(reader, topic):
    return reader.list_topics(topic, 20).topics[topic].partitions


@dataclass
class Verdict:
    """What was found wrong, by kind, the figures, and the jobs with two records.

    latest: job ids of those that came latest, with their lateness in ms: of all, and of
        what came due while Kafka and PostgreSQL were there.
    late: of each that came later than is wanted, job id, due instant in epoch seconds,
        lateness in ms, and whether it came due while Kafka or PostgreSQL was away.
    events: of each event that was promised for an instant and came, due instant and
        arrival in epoch seconds.
    """

    wrong: dict = field(default_factory=dict)
    figures: dict = field(default_factory=dict)
    repeated: list = field(default_factory=list)
    latest: dict = field(default_factory=dict)
    late: list = field(default_factory=list)
    events: list = field(default_factory=list)

    @property
    def is_incomplete(self):
        """Whether something promised is not there, which may still come."""
        return bool(self.wrong["lost"] or self.wrong["commands without one answer"])


def judge(bootstrap, ledger, seen_at, outages):
    """Compare; every list of `wrong` should be empty.

    Args:
        seen_at: Epoch seconds of each event id's first arrival.
        outages: From when to when Kafka or PostgreSQL was away, in epoch seconds.
    """
    records = read_topic(bootstrap, PHASE_TRANSITION)
    job_of = {headers["event-id"]: headers["job-id"] for headers, _ in records}
    by_job = defaultdict(list)
    by_phase = defaultdict(list)
    for headers, payload in records:
        by_job[headers["job-id"]].append(headers["event-id"])
        by_phase[payload["projectId"], payload["phaseId"]].append(headers["event-id"])
    jobs = ledger.jobs.values()
    gone = {"cancelled", "replaced"}
    dues = {
        event_id: one.due
        for one in jobs
        if one.fate == "scheduled"
        for event_id in by_job[one.job_id]
    }
    scheduled = frozenset(dues)
    for phase, due in ledger.wanted.items():
        dues.update(dict.fromkeys(by_phase[phase], due))
    found = {
        event_id: due for phase, due in ledger.found.items() for event_id in by_phase[phase]
    }
    answers = defaultdict(set)
    for headers, payload in read_topic(bootstrap, COMMAND_RESULT):
        answers[payload["correlationId"]].add((headers["event-id"], payload["success"]))
    verdict = Verdict()
    verdict.wrong = {
        "lost": [
            one.job_id for one in jobs if one.fate not in gone and not by_job[one.job_id]
        ]
        + [
            f"phase {phase}"
            for phase in (*ledger.wanted, *ledger.found)
            if not by_phase[phase]
        ],
        "early": [
            job_of[event_id]
            for event_id, due in (dues | found).items()
            if event_id in seen_at and seen_at[event_id] < due - TOLERANCE_SECONDS
        ],
        "fired after cancel": [
            one.job_id for one in jobs if one.fate in gone and by_job[one.job_id]
        ],
        "two event ids": [job for job, ids in by_job.items() if len(set(ids)) > 1]
        + [f"phase {phase}" for phase, ids in by_phase.items() if len(set(ids)) > 1],
        "commands without one answer": [
            command
            for command in ledger.commands
            if {done for _, done in answers[command]} != {True} or len(answers[command]) > 1
        ],
    }
    seen = {one: due for one, due in dues.items() if one in seen_at}
    late = sorted((seen_at[one] - due) * 1000 for one, due in seen.items())

    def is_in_outage(due):
        return any(began - MARGIN_SECONDS <= due <= ended for began, ended in outages)

    in_peace = {one: due for one, due in seen.items() if not is_in_outage(due)}
    late_in_peace = sorted((seen_at[one] - due) * 1000 for one, due in in_peace.items())
    # These need no consumer, whose group forms anew whenever one of it dies.
    late_by_api = sorted(
        (seen_at[one] - due) * 1000 for one, due in in_peace.items() if one in scheduled
    )
    verdict.events = [(due, seen_at[one]) for one, due in seen.items()]
    verdict.late = [
        (job_of[one], due, round((seen_at[one] - due) * 1000, 1), is_in_outage(due))
        for one, due in seen.items()
        if seen_at[one] - due > WANTED_SECONDS
    ]
    latest = [
        one
        for some in (seen, in_peace)
        for one in sorted(some, key=lambda one: some[one] - seen_at[one])[:MOST_LATEST]
    ]
    verdict.latest = {
        job_of[one]: round((seen_at[one] - seen[one]) * 1000, 1) for one in latest
    }
    distinct = {headers["event-id"] for headers, _ in records}
    verdict.repeated = [
        job for job, events in by_job.items() if len(events) > len(set(events))
    ]
    verdict.figures = {
        "jobs promised by the API": len(ledger.jobs),
        "of them cancelled or moved": sum(one.fate in gone for one in jobs),
        "phases promised by records": len(ledger.wanted),
        "phases that only recovery finds": len(ledger.found),
        "commands": len(ledger.commands),
        "requests refused": len(ledger.refused),
        "requests repeated": ledger.repeats,
        "records on the topic": len(records),
        "physical duplicates": len(records) - len(distinct),
        "lateness p50 ms": _percentile(late, 0.50),
        "lateness p99 ms": _percentile(late, 0.99),
        "lateness max ms": late[-1] if late else None,
        "due while Kafka and PostgreSQL were there": len(late_in_peace),
        "lateness of these p50 ms": _percentile(late_in_peace, 0.50),
        "lateness of these p99 ms": _percentile(late_in_peace, 0.99),
        "those scheduled by the API alone p50 ms": _percentile(late_by_api, 0.50),
        "those scheduled by the API alone p99 ms": _percentile(late_by_api, 0.99),
    }
    return verdict


def _percentile(values, share):
    return values[min(len(values) - 1, int(len(values) * share))] if values else None
