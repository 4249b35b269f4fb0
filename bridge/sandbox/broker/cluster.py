"""Broker: topics, transactions and groups of one fake Kafka, and everything in it that happens by itself.

Synchronous: each request is one call that acts at once and answers or raises `Refusal`. What happens later (markers,
timeouts, requests on their way) waits in a heap and is done, in order of its time, before the next request looks;
nobody can tell the difference, and no task is needed. Time comes from the `Clock`, chance from a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from random import Random
from typing import NamedTuple

from bridge.clock import Clock
from bridge.publish.topics import RECORD_BYTES_MAX, Cluster, Topic, TopicPlan
from bridge.publish.transaction import Record, record_bytes
from bridge.sandbox.broker.group import Group
from bridge.sandbox.broker.log import Entry, PartitionLog, Writer
from bridge.sandbox.broker.refusal import Refusal, Why
from bridge.sandbox.broker.transactions import At, Identity, Transactions

MARKER_DELAY_S_MAX = 0.02
"""Usual time from the decision to the last marker."""

SLOW_MARKER_S_MAX = 2.0
SLOW_MARKERS = 0.02
"""Share of markers that take much longer: their partition's leader is busy or has just moved."""


_OFFSETS = "__consumer_offsets/"
"""Stands for the one partition of that topic which belongs to the group named behind it."""


class Settings(NamedTuple):
    """Bounds a broker has. slow_markers: share of markers that take up to `SLOW_MARKER_S_MAX`."""

    record_bytes_max: int = RECORD_BYTES_MAX
    slow_markers: float = SLOW_MARKERS


class _Offsets:
    """The partition of committed offsets that belongs to one group: pending until their transaction is marked."""

    def __init__(self) -> None:
        self.committed: dict[At, int] = {}
        self._pending: dict[int, dict[At, int]] = {}

    def write(self, writer: Writer, at: At, offset: int) -> None:
        self._pending.setdefault(writer.producer, {})[at] = offset

    def mark(self, writer: Writer, *, commit: bool) -> None:
        pending = self._pending.pop(writer.producer, {})
        if commit:
            self.committed.update(pending)


class Broker:
    """See the module. tell: hears one line about each notable thing."""

    def __init__(
        self,
        clock: Clock,
        chance: Random,
        settings: Settings = Settings(),  # noqa: B008 - immutable
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.clock = clock
        self.settings = settings
        self.tell = tell
        self._chance = chance
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._busy = False
        self._topics: dict[str, list[PartitionLog]] = {}
        self._limits: dict[str, int] = {}
        self._groups: dict[str, Group] = {}
        self._offsets: dict[str, _Offsets] = {}
        self._at = 0.0
        self.transactions = Transactions(self, self._now, self._marker_delay_s, tell)

    # Time.

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """See `transactions.Partitions`. At the same moment, in order of the calls."""
        self._number += 1
        heappush(self._heap, (self._now() + max(0.0, delay_s), self._number, action))

    def catch_up(self) -> None:
        """Do what is due."""
        if self._busy:
            return
        self._busy = True
        now = self.clock.monotonic()
        try:
            while self._heap and self._heap[0][0] <= now:
                self._at, _, action = heappop(self._heap)
                action()
        finally:
            self._busy = False

    # Topics.

    def create(self, topics: Iterable[Topic]) -> None:
        """Make what is missing."""
        for topic in topics:
            if topic.name not in self._topics:
                self._topics[topic.name] = [PartitionLog() for _ in range(topic.partitions)]
                self._limits[topic.name] = int(topic.config.get("max.message.bytes", self.settings.record_bytes_max))

    def cluster(self, plan: TopicPlan) -> Cluster:
        """What `publish.topics.ensure` would say."""
        self.create(plan.declared())
        partitions = {topic.name: len(self._topics[topic.name]) for topic in plan.declared()}
        return Cluster("fake", partitions, min(self._limits[name] for name in partitions), [])

    def recreate(self, topic: str) -> None:
        """Somebody deletes the topic and makes it anew, empty."""
        self.catch_up()
        self._topics[topic] = [PartitionLog() for _ in self._topics[topic]]

    def partitions(self, topic: str) -> int:
        """How many a topic has; 0 when it does not exist."""
        return len(self._topics.get(topic, ()))

    def log(self, at: At) -> PartitionLog:
        """One partition, caught up."""
        self.catch_up()
        topic, number = at
        if number >= self.partitions(topic):
            raise Refusal(Why.NO_TOPIC)
        return self._topics[topic][number]

    def send(self, topic: str, partition: int, key: bytes, value: bytes | None) -> int:
        """A plain producer without transactions; the offset."""
        return self.log((topic, partition)).append_plain(Record(topic, partition, key, value), self._wall_ms())

    def compact(self, topic: str, tombstone_age_s: float, share: float = 1.0) -> int:
        """Compact the older part of each partition of a topic; how many entries went."""
        self.catch_up()
        oldest_ms = self._wall_ms() - int(tombstone_age_s * 1000)
        return sum(log.compact(int(log.end * share), oldest_ms) for log in self._topics[topic])

    # Requests of transactional producers.

    def init(self, transactional_id: str, timeout_s: float) -> Identity:
        """InitProducerId."""
        self.catch_up()
        return self.transactions.init(transactional_id, timeout_s)

    def add(self, who: Identity, partitions: Iterable[At]) -> None:
        """AddPartitionsToTxn."""
        self.catch_up()
        self.transactions.add(who, partitions)

    def add_offsets(self, who: Identity, group: str) -> None:
        """AddOffsetsToTxn."""
        self.add(who, [_offsets_of(group)])

    def produce(self, who: Identity, at: At, sequence: int, records: Sequence[Record]) -> int:
        """One batch, all of it or nothing; the offset of its first record."""
        log = self.log(at)
        writer = self.transactions.writer(who, at)
        if any(record_bytes(record) > self._limits[at[0]] for record in records):
            raise Refusal(Why.TOO_LARGE)
        return log.append(writer, sequence, records, self._wall_ms())

    def commit_offset(self, who: Identity, group: str, at: At, offset: int) -> None:
        """TxnOffsetCommit."""
        self.catch_up()
        writer = self.transactions.writer(who, _offsets_of(group))
        self._offsets.setdefault(group, _Offsets()).write(writer, at, offset)

    def end(self, who: Identity, *, commit: bool) -> None:
        """EndTxn."""
        self.catch_up()
        self.transactions.end(who, commit=commit)

    # Requests of consumers.

    def group(self, name: str, topic: str) -> Group:
        """The coordinator of a group that shares this topic."""
        self.catch_up()
        if name not in self._groups:
            self._groups[name] = Group(self.partitions(topic), self._now, self.later, self.tell)
        return self._groups[name]

    def committed(self, group: str, at: At) -> int | None:
        """OffsetFetch, as the old protocol has it: what is decided but not marked yet does not count."""
        self.catch_up()
        return self._offsets.setdefault(group, _Offsets()).committed.get(at)

    def read(self, at: At, start: int, end: int | None = None) -> list[Entry]:
        """What a `read_committed` reader gets from here to the last stable offset, or to before `end`."""
        log = self.log(at)
        return list(log.read(start, log.end if end is None else end))

    # What the coordinator needs; see `transactions.Partitions`.

    def mark(self, at: At, writer: Writer, *, commit: bool) -> None:
        """See `transactions.Partitions`."""
        topic, number = at
        if topic.startswith(_OFFSETS):
            self._offsets.setdefault(topic.removeprefix(_OFFSETS), _Offsets()).mark(writer, commit=commit)
        else:
            self._topics[topic][number].mark(writer, self._wall_ms(), commit=commit)

    def _now(self) -> float:
        """The time of what is being done: of the action that was due, else now."""
        return self._at if self._busy else self.clock.monotonic()

    def _wall_ms(self) -> int:
        return int((self.clock.wall() - self.clock.monotonic() + self._now()) * 1000)

    def _marker_delay_s(self) -> float:
        slow = self._chance.random() < self.settings.slow_markers
        return self._chance.random() * (SLOW_MARKER_S_MAX if slow else MARKER_DELAY_S_MAX)


def _offsets_of(group: str) -> At:
    return (_OFFSETS + group, 0)
