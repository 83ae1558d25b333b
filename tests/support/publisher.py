"""A publisher whose broker does what the test says."""

import threading

from scheduling.adapters.event_publisher import Outcome, Verdict


class ScriptedPublisher:
    """Keeps what it is given, and answers by `judge(record)`, else with a yes.

    batches: the records of each call.
    """

    def __init__(self, judge=lambda record: Verdict.ACKNOWLEDGED):
        self.batches = []
        self.seems_out_of_reach = False
        self.is_back = False
        self._judge = judge
        self._lock = threading.Lock()

    @property
    def records(self):
        """All records it was given, in order."""
        return [record for batch in self.batches for record in batch]

    def warm_up(self):
        """Need nothing."""

    def is_in_reach(self, *, timeout_seconds):
        """Tell what the test says."""
        return self.is_back

    def publish(self, records, *, deadline_seconds, while_waiting):
        """Return an outcome for each record."""
        with self._lock:
            self.batches.append(list(records))
        return [self._outcome(self._judge(record)) for record in records]

    def _outcome(self, said):
        return (
            said if isinstance(said, Outcome) else Outcome(verdict=said, error=said.value)
        )

    def close(self):
        """Need nothing."""
