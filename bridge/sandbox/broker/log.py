"""PartitionLog: one partition as the broker holds it: records, markers, what a `read_committed` reader may see of it.

A record belongs to a transaction of a producer and is undecided until the marker of that transaction is appended; the
marker takes an offset of its own. The last stable offset is where the oldest undecided transaction begins. Compaction
removes entries and keeps the offsets of the others.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

from bridge.publish.transaction import Record
from bridge.sandbox.broker.refusal import Refusal, Why


class Writer(NamedTuple):
    """Who writes: the number that Kafka gave to a transactional id, its epoch, and the number of the transaction."""

    producer: int
    epoch: int
    transaction: int


@dataclass(slots=True)
class Entry:
    """One offset. committed: None while undecided. marker: it is a marker and holds no record."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    writer: Writer | None
    committed: bool | None
    marker: bool = False


@dataclass(slots=True)
class _Batches:
    """What is remembered of a producer to know a batch that comes twice: base offsets by sequence, of one epoch."""

    epoch: int
    bases: list[int] = field(default_factory=list)


_offset_of = attrgetter("offset")


class PartitionLog:
    """Append-only but for compaction."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.end = 0
        """Offset of the next entry."""
        self.begin = 0
        """Oldest offset that may exist; compaction does not move it."""
        self._undecided: dict[int, list[Entry]] = {}
        self._producers: dict[int, _Batches] = {}

    @property
    def stable_end(self) -> int:
        """The last stable offset."""
        return min((entries[0].offset for entries in self._undecided.values()), default=self.end)

    def append(self, writer: Writer, sequence: int, records: Sequence[Record], timestamp_ms: int) -> int:
        """One batch of a transaction; the offset of its first record. A batch that is known is not written again.

        sequence: counts the batches of this producer and epoch in this partition, from 0.
        """
        known = self._producers.setdefault(writer.producer, _Batches(writer.epoch))
        if writer.epoch < known.epoch:
            raise Refusal(Why.FENCED)
        if writer.epoch > known.epoch:
            known.epoch, known.bases = writer.epoch, []
        if sequence < len(known.bases):
            return known.bases[sequence]
        if sequence > len(known.bases):
            raise Refusal(Why.OUT_OF_ORDER)
        base = self.end
        known.bases.append(base)
        undecided = self._undecided.setdefault(writer.producer, [])
        for record in records:
            entry = self._add(timestamp_ms, record, writer, None)
            undecided.append(entry)
        return base

    def append_plain(self, record: Record, timestamp_ms: int) -> int:
        """A record outside of any transaction."""
        return self._add(timestamp_ms, record, None, True).offset

    def mark(self, writer: Writer, timestamp_ms: int, *, commit: bool) -> None:
        """Decide what the producer has written here."""
        for entry in self._undecided.pop(writer.producer, ()):
            entry.committed = commit
        known = self._producers.setdefault(writer.producer, _Batches(writer.epoch))
        if writer.epoch > known.epoch:
            known.epoch, known.bases = writer.epoch, []
        self.entries.append(Entry(self.end, timestamp_ms, None, None, (), writer, commit, marker=True))
        self.end += 1

    def read(self, start: int, end: int, *, committed: bool = True) -> Iterator[Entry]:
        """Records from one offset to before another; only those that a `read_committed` reader gets, or all."""
        if committed:
            end = min(end, self.stable_end)
        entries = self.entries
        for at in range(bisect_left(entries, start, key=_offset_of), len(entries)):
            entry = entries[at]
            if entry.offset >= end:
                return
            if not entry.marker and (entry.committed or not committed):
                yield entry

    def at_time(self, timestamp_ms: int) -> int:
        """The first offset at or after a time, the end when there is none."""
        return next((entry.offset for entry in self.entries if entry.timestamp_ms >= timestamp_ms), self.end)

    def compact(self, up_to: int, tombstones_ms: int) -> int:
        """Keep the last committed value of each key before `up_to`; how many entries went.

        tombstones_ms: removals with an older time vanish too. Nothing undecided is touched.
        """
        up_to = min(up_to, self.stable_end)
        last: dict[bytes | None, int] = {
            entry.key: entry.offset
            for entry in self.entries
            if entry.offset < up_to and entry.committed and not entry.marker
        }
        before = len(self.entries)
        self.entries = [entry for entry in self.entries if entry.offset >= up_to or _stays(entry, last, tombstones_ms)]
        return before - len(self.entries)

    def cut(self, begin: int) -> None:
        """Retention: forget everything before an offset."""
        self.begin = max(self.begin, min(begin, self.stable_end))
        self.entries = self.entries[bisect_left(self.entries, self.begin, key=_offset_of) :]

    def _add(self, timestamp_ms: int, record: Record, writer: Writer | None, committed: bool | None) -> Entry:
        entry = Entry(self.end, timestamp_ms, record.key, record.value, tuple(record.headers), writer, committed)
        self.entries.append(entry)
        self.end += 1
        return entry


def _stays(entry: Entry, last: dict[bytes | None, int], tombstones_ms: int) -> bool:
    if entry.marker or not entry.committed or last.get(entry.key) != entry.offset:
        return False
    return entry.value is not None or entry.timestamp_ms >= tombstones_ms
