"""What comes to the topic, as a consumer of it sees it; nothing else is believed."""

import threading
import time
import uuid
from collections import Counter, defaultdict

from confluent_kafka import Consumer, TopicPartition

from scheduling.topics import PHASE_TRANSITION

# A measurement has the numbers of one block. Its jobs come first; behind them stand those
# that never fall due, and those that warm it up.
BLOCK = 100_000
FAR = 40_000
WARM = 90_000


class Watcher(threading.Thread):
    """Notes when each record came, by the number that is its key."""

    def __init__(self, bootstrap):
        super().__init__(name="watcher", daemon=True)
        self._reader = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": f"peers-{uuid.uuid4()}",
                "enable.auto.commit": False,
                "log_level": 0,
            }
        )
        partitions = self._reader.list_topics(PHASE_TRANSITION, 20).topics[PHASE_TRANSITION]
        places = [TopicPartition(PHASE_TRANSITION, n) for n in partitions.partitions]
        for place in places:
            place.offset = self._reader.get_watermark_offsets(place, timeout=20)[1]
        self._reader.assign(places)
        self._stopping = False
        self._came = defaultdict(list)
        self._jobs = Counter()
        self._warm = Counter()

    def run(self):
        while not self._stopping:
            message = self._reader.poll(0.2)
            if message is None or message.error() is not None:
                continue
            number = int(message.key())
            self._came[number].append(time.time())
            if len(self._came[number]) == 1:
                block, place = divmod(number, BLOCK)
                if place < FAR:
                    self._jobs[block] += 1
                elif place >= WARM:
                    self._warm[block] += 1
        self._reader.close()

    def stop(self):
        """Let it end."""
        self._stopping = True
        self.join(5)

    def seen(self, block):
        """Return how many different jobs of a block have come."""
        return self._jobs[block]

    def is_warm(self, block, count):
        """Tell whether so many of those that warm a block up have come."""
        return self._warm[block] >= count

    def arrivals(self, block, count):
        """Return for each job of a block when it came, in epoch seconds."""
        first = block * BLOCK
        return [list(self._came.get(first + at, ())) for at in range(count)]

    def wait(self, block, count, *, seconds, check):
        """Wait until all jobs of a block have come; False when the time is up."""
        give_up_at = time.monotonic() + seconds
        while self.seen(block) < count:
            if time.monotonic() > give_up_at:
                return False
            check()
            time.sleep(0.1)
        return True
