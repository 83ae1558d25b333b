"""A Challenge service for the benchmark: as many made-up challenges as it is told.

`python -m autopilot_site.benchmarks.challenge_pages 50000 1 …` prints its port and serves
until it is ended. It runs in a process of its own, so that what it costs is not counted.
"""

import argparse
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

from typing_extensions import override

OPERATOR: Final = "benchmark-recovery"
_IDS: Final = 0xBE << 120
_ONE_CHALLENGE: Final = re.compile(r"/challenges/([0-9a-f-]{36})")


@dataclass(frozen=True, kw_only=True)
class Challenges:
    """What is shown.

    start: when the first phase of each begins; the others follow, a day each.
    moved, over: every how-manieth challenge is moved by an hour, or is over; 0: none.
    """

    count: int
    phases: int
    first_project: int
    start: datetime
    moved: int = 0
    over: int = 0

    def active(self, first: int, size: int) -> Iterator[dict[str, Any]]:
        """Yield ACTIVE challenges by their places in the list."""
        # Of each `over` challenges the last one is over.
        group = self.over - 1
        for place in range(first, min(first + size, self.total)):
            gone = place // group if self.over else 0
            yield self.challenge(place + gone + 1)

    @property
    def total(self) -> int:
        """How many are ACTIVE."""
        return self.count - (self.count // self.over if self.over else 0)

    def challenge(self, number: int) -> dict[str, Any]:
        """Return one challenge as the API shows it."""
        return {
            "id": str(UUID(int=_IDS + number)),
            "projectId": self.first_project + number,
            "name": f"Benchmark {number}",
            "status": "COMPLETED" if self._is_over(number) else "ACTIVE",
            "createdBy": OPERATOR,
            "phases": [self._phase(number, place) for place in range(self.phases)],
        }

    def _phase(self, number: int, place: int) -> dict[str, Any]:
        """Return one phase."""
        moved = bool(self.moved) and number % self.moved == 0
        start = self.start + timedelta(days=place, hours=int(moved), seconds=number)
        shown = {
            "id": str(UUID(int=_IDS + (1 << 64) + number * 100 + place)),
            "name": f"Phase {place + 1}",
            "scheduledStartDate": start.isoformat(timespec="milliseconds"),
            "scheduledEndDate": (start + timedelta(days=1)).isoformat(
                timespec="milliseconds"
            ),
        }
        if place:
            shown["predecessor"] = str(
                UUID(int=_IDS + (1 << 64) + number * 100 + place - 1)
            )
        return shown

    def _is_over(self, number: int) -> bool:
        """Tell whether a challenge is over."""
        return bool(self.over) and number % self.over == 0


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, challenges: Challenges) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.challenges = challenges


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Otherwise each answer waits 40 ms for the client's acknowledgement.
    disable_nagle_algorithm = True

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer with a page of the list, or with one challenge."""
        server = self.server
        assert isinstance(server, _Server)  # noqa: S101 -- for the type checker
        shown, url = server.challenges, urlsplit(self.path)
        one = _ONE_CHALLENGE.fullmatch(url.path)
        if one:
            number = UUID(one[1]).int - _IDS
            self._send(shown.challenge(number), {})
            return
        query = dict(parse_qsl(url.query))
        page, size = int(query["page"]), int(query["perPage"])
        headers = {
            "X-Page": str(page),
            "X-Total": str(shown.total),
            "X-Total-Pages": str(-(-shown.total // size)),
        }
        self._send(list(shown.active((page - 1) * size, size)), headers)

    def _send(self, content: Any, headers: dict[str, str]) -> None:
        """Send an answer."""
        body = json.dumps(content).encode()
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    """Serve until this process is ended."""
    parser = argparse.ArgumentParser()
    for name in ("count", "phases", "first_project", "start", "moved", "over"):
        parser.add_argument(name, type=int)
    given = parser.parse_args()
    # It stands for a service on another host.
    os.nice(15)
    server = _Server(
        Challenges(
            count=given.count,
            phases=given.phases,
            first_project=given.first_project,
            start=datetime.fromtimestamp(given.start, UTC),
            moved=given.moved,
            over=given.over,
        )
    )
    print(f"port {server.server_port}", flush=True)  # noqa: T201 -- read by the benchmark
    server.serve_forever()


if __name__ == "__main__":
    main()
