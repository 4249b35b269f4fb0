"""Restore: bring a shard's store up to the last stable offset of its partition of the state topic.

The log is the truth, the store a cache of it; so before anything is read the two are compared, and a cache that
cannot be a prefix of this log raises `StaleCache`: the caller throws it away and restores again, from the beginning.
An owner calls it after its producer is open: nobody else can write the partition any more, and no transaction is left
undecided in it, so what is read is everything. Others read what is committed so far.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import aclosing
from typing import NamedTuple

from bridge.clock import Clock
from bridge.errors import PublishError, StateLost
from bridge.publish.reading import At, LogReader, Message, PartitionReader
from bridge.publish.settings import KafkaSettings
from bridge.publish.topics import TOMBSTONE_DAYS
from bridge.store.base import Store
from bridge.store.record import marker_key

APPLY_RECORDS_MAX = 2_000
"""Applied at once, and between two chances for other tasks: about ten milliseconds."""

_TOMBSTONE_MS = TOMBSTONE_DAYS * 24 * 3600 * 1000
_SKEW_MS = 3600 * 1000
"""Clocks of processes and brokers may differ by this much."""

_DECIDED_S = 5.0
_DECIDED_PAUSE_S = 0.05
"""For a marker that is being written to show everywhere."""

Progress = Callable[[int, int], None]
"""Told how many offsets are done, of how many; must be quick."""


class StaleCache(PublishError):
    """The local cache does not belong to this log, or missed removals: discard it and restore from the beginning."""


class Restored(NamedTuple):
    """What a restore did.

    records: read and applied, removals included. ignored: without a text key, so not ours. position: the store's, now.
    marker: the store holds the shard's marker, so the partition was written before.
    """

    records: int
    ignored: int
    position: int
    marker: bool


async def restore(
    settings: KafkaSettings,
    topic: str,
    shard: int,
    store: Store,
    clock: Clock,
    progress: Progress,
    *,
    fenced: bool = False,
) -> Restored:
    """Apply what the store lacks, in chunks, each all or nothing; cancelled, the store keeps the whole ones.

    fenced: the shard's producer is open, so a transaction that is not decided can only hang. Without it the restore
    ends before such a one. Raises `StaleCache`, `StateLost` (one hangs), `EnvironmentUnavailable`, or what the store
    raises.
    """
    async with PartitionReader(settings, clock) as reader:
        await reader.partitions([topic])
        return await restore_with(reader, (topic, shard), store, clock, progress, fenced=fenced)


async def restore_with(
    reader: LogReader, at: At, store: Store, clock: Clock, progress: Progress, *, fenced: bool = False
) -> Restored:
    """The same with a reader that is open already."""
    begin = (await reader.begins([at]))[at]
    end = await _decided_end(reader, at, clock) if fenced else (await reader.ends([at]))[at]
    if store.position > 0:
        await _check_cache(reader, at, store, begin, end, clock)
    start = max(store.position, begin)
    records, ignored = await _read(reader, at, (start, end), store, progress)
    if end > store.position:
        store.apply((), end)
    marker = marker_key(at[1])
    return Restored(records, ignored, store.position, marker in store.get_many([marker]))


async def _decided_end(reader: LogReader, at: At, clock: Clock) -> int:
    """The end of the partition, which is also its last stable offset: nobody has a transaction open in it.

    A transaction whose markers Kafka forgot (see `hanging`) is ended when the shard's producer opens. This is for those
    where that is not possible: what they wrote is neither committed nor aborted, and would come back to life with a
    later commit of the shard, after its changes have been published a second time.
    """
    deadline = clock.monotonic() + _DECIDED_S
    while True:
        end, log_end = (await reader.ends([at]))[at], (await reader.log_ends([at]))[at]
        if end == log_end:
            return end
        if clock.monotonic() > deadline:
            raise StateLost(
                f"a transaction hangs in {at[0]}-{at[1]} at offset {end}: Kafka has neither committed nor aborted it "
                f"although its producer is gone. Find and abort it: kafka-transactions.sh find-hanging --topic {at[0]} "
                f"--partition {at[1]}, and likewise in the event topics"
            )
        await clock.sleep(_DECIDED_PAUSE_S)


async def _check_cache(reader: LogReader, at: At, store: Store, begin: int, end: int, clock: Clock) -> None:
    """A store that holds something must be a prefix of the log, and young enough to have seen every removal."""
    position = store.position
    if not begin <= position <= end:
        raise StaleCache(
            f"the cache is at offset {position} of {at[0]}-{at[1]}, which has {begin} to {end}: the log was "
            "recreated or truncated"
        )
    oldest_ms = int(clock.wall() * 1000) - _TOMBSTONE_MS + _SKEW_MS
    if position < end and position < (await reader.offsets_at([at], oldest_ms))[at]:
        raise StaleCache(f"the cache of {at[0]}-{at[1]} is older than {TOMBSTONE_DAYS} days and may miss removals")
    # The marker is the first record ever written and never changes, so a log that begins with another is another.
    marker = marker_key(at[1])
    first = await _first(reader, at, begin, end)
    known = store.get_many([marker]).get(marker)
    if first is not None and first.key == marker.encode() and known is not None and first.value != known:
        raise StaleCache(f"the cache of {at[0]}-{at[1]} has another marker than the log: the topic was recreated")


async def _first(reader: LogReader, at: At, begin: int, end: int) -> Message | None:
    reader.assign({at: begin})
    async with aclosing(reader.chunks({at: end})) as chunks:
        async for chunk in chunks:
            return chunk[0]
    return None


async def _read(
    reader: LogReader, at: At, bounds: tuple[int, int], store: Store, progress: Progress
) -> tuple[int, int]:
    start, end = bounds
    records = ignored = 0
    expected = start
    progress(0, end - start)
    reader.assign({at: start})
    async with aclosing(reader.chunks({at: end})) as chunks:
        async for messages in chunks:
            if messages[0].offset < expected:
                raise StaleCache(f"{at[0]}-{at[1]} went back from offset {expected} while it was read")
            expected = messages[-1].offset + 1
            for first in range(0, len(messages), APPLY_RECORDS_MAX):
                part = messages[first : first + APPLY_RECORDS_MAX]
                pairs = list(_pairs(part))
                store.apply(pairs, part[-1].offset + 1)
                records += len(pairs)
                ignored += len(part) - len(pairs)
                progress(part[-1].offset + 1 - start, end - start)
                await asyncio.sleep(0)  # fetched records arrive without a wait, and others share the loop
    progress(end - start, end - start)
    return records, ignored


def _pairs(messages: Iterable[Message]) -> Iterable[tuple[str, bytes | None]]:
    """Keys as text; a record without one was not written by us."""
    for message in messages:
        if message.key is None:
            continue
        try:
            key = message.key.decode()
        except UnicodeDecodeError:
            continue
        yield key, message.value
