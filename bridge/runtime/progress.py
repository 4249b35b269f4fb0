"""Progress: the watermarks of a shard's collections on their way into the progress topic.

A watermark is written in a transaction of the shard, never beside one: that it is there proves that its writer was the
owner, and that everything before it is published. Any commit takes along what has moved; while a shard is quiet the
watermarks get a transaction of their own now and then. What was written last is also in the state, so that the next
owner never goes back behind it, be its clock late.
"""

from __future__ import annotations

from bridge.clock import Clock
from bridge.event.progress import Progress
from bridge.model import Collection, iso, key_of
from bridge.publish.topics import TopicPlan
from bridge.publish.transaction import Record
from bridge.runtime.ledger import Batch, Ledger
from bridge.store.record import counters_key, decode_counters, decode_json, encode_json

PROGRESS_S = 10.0
"""A quiet collection's watermark in the topic is at most this much older than the one in the metrics."""

PROGRESS = "progress"
"""Second part of a state key, `source/progress/collection`."""


class ProgressBook:
    """Of one opening of a shard. Synchronous; called by the committer alone."""

    def __init__(self, ledger: Ledger, topics: TopicPlan, clock: Clock) -> None:
        self._ledger = ledger
        self._topics = topics
        self._clock = clock
        self._moved: dict[tuple[str, Collection], float] = {}
        self._written_at = clock.monotonic()

    def note(self, batch: Batch) -> None:
        """Remember what the batch makes true."""
        self._moved.update(batch.caught_up)

    @property
    def due(self) -> bool:
        """Whether something has waited so long that it gets a transaction of its own."""
        return bool(self._moved) and self._clock.monotonic() - self._written_at >= PROGRESS_S

    def write(self, batch: Batch) -> None:
        """Put everything that has moved into the batch in flight, which is about to be committed."""
        at = iso(int(self._clock.wall() * 1_000_000))
        for (source, collection), moment in self._moved.items():
            until = int(moment * 1_000_000)  # rounded down: rather too early
            if until <= last_written(self._ledger, source, collection):
                continue
            sequence = decode_counters(self._ledger.get(counters_key(source))).sequence
            progress = Progress(
                source=source, collection=collection, complete_until=iso(until), sequence=sequence, at=at
            )
            batch.records.append(Record(self._topics.progress, None, progress.key, progress.encode()))
            batch.state[_key(source, collection)] = encode_json({"until": until})
        self._moved.clear()
        self._written_at = self._clock.monotonic()


def last_written(ledger: Ledger, source: str, collection: Collection) -> int:
    """The watermark that was written last, by whatever owner, in microseconds since 1970; 0 before the first."""
    stored = ledger.get(_key(source, collection))
    return 0 if stored is None else int(decode_json(stored)["until"])


def _key(source: str, collection: Collection) -> str:
    return key_of(source, PROGRESS, collection)
