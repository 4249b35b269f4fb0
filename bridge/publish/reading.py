"""Reading partitions from one offset to another, without a group: what restore, verify and tail stand on.

`PartitionReader` hides how the library moves: it delivers committed records only, jumps over commit markers and
aborted records (a partition nearly always ends in a marker, so "until the last record" would wait for ever), and
its waits have no end. Here every wait has one, and a reader that makes no progress for a while says so.

Its consumer has `auto_offset_reset="earliest"`, like every consumer of ours: with the library's default an answer
about the end of the log that is still on its way overwrites a seek to the beginning, and a restore reads nothing,
silently. Ends of partitions are last stable offsets, because the library asks for them with the isolation level.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal, NamedTuple, Protocol, Self, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, READ_UNCOMMITTED
from aiokafka.errors import KafkaError

from bridge.clock import Clock
from bridge.errors import EnvironmentUnavailable
from bridge.publish.metadata import partition_counts
from bridge.publish.settings import KafkaSettings, client_options
from bridge.publish.wire import Wire, bootstrap, cut_consumer, describe, stop_or_cut, unreachable

FETCH_BYTES_MAX = 2 * 1024 * 1024
"""Per partition and fetch; one record at least travels whatever its size. A reader's memory is a few of these."""

STALL_S = 30.0
"""A reader that has not moved for this long gives up."""

_WAIT_MS = 50
"""One look for records. Short, because the library does not wake up when it only jumped over markers."""

At = tuple[str, int]
"""Topic and partition."""

Result = TypeVar("Result")


class Message(NamedTuple):
    """One record as it is in Kafka."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


async def read_topics(
    settings: KafkaSettings,
    topics: Sequence[str],
    clock: Clock,
    *,
    since: Literal["beginning", "latest"] | int = "beginning",
    follow: bool = False,
) -> AsyncGenerator[Message, None]:
    """Every committed record of these topics, in order per partition.

    since: a time in milliseconds since 1970, or one of the words. Ends at the last stable offsets of the start, or
    never when following. Raises `EnvironmentUnavailable`. Whoever leaves the loop early uses `contextlib.aclosing`.
    """
    async with PartitionReader(settings, clock) as reader:
        partitions = await reader.partitions(topics)
        ends = await reader.ends(partitions)
        match since:
            case "beginning":
                starts = await reader.begins(partitions)
            case "latest":
                starts = ends
            case moment:
                starts = await reader.offsets_at(partitions, moment)
        reader.assign(starts)
        async with aclosing(reader.chunks(None if follow else ends)) as chunks:
            async for chunk in chunks:
                for message in chunk:
                    yield message


class LogReader(Protocol):
    """What a restore needs of a reader: bounds of partitions, then what is between them.

    Called by one task; every wait is bounded and may raise `EnvironmentUnavailable`. Implementations:
    `PartitionReader` and the simulator's fake.
    """

    async def begins(self, partitions: Iterable[At]) -> dict[At, int]:
        """The oldest offset that still exists, per partition."""
        ...

    async def ends(self, partitions: Iterable[At]) -> dict[At, int]:
        """The last stable offset per partition: everything before it is committed or aborted."""
        ...

    async def log_ends(self, partitions: Iterable[At]) -> dict[At, int]:
        """The end per partition with what is not decided yet. Before `assign` only."""
        ...

    async def offsets_at(self, partitions: Sequence[At], timestamp_ms: int) -> dict[At, int]:
        """The first offset at or after a time, per partition; its end when there is none."""
        ...

    def assign(self, starts: Mapping[At, int]) -> None:
        """Read these partitions from these offsets; replaces what was assigned before."""
        ...

    def chunks(self, ends: Mapping[At, int] | None) -> AsyncGenerator[list[Message], None]:
        """Committed records of one partition at a time, in order, each before its end; for ever without ends."""
        ...


class PartitionReader:
    """A consumer of fixed partitions for the length of one `async with`. Calls raise `EnvironmentUnavailable`."""

    def __init__(self, settings: KafkaSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._consumer: Any = AIOKafkaConsumer(
            **client_options(settings),
            group_id=None,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            max_partition_fetch_bytes=FETCH_BYTES_MAX,
        )
        self._wire = Wire(self._consumer._client)

    async def __aenter__(self) -> Self:
        try:
            await bootstrap(self._settings, self._consumer.start())
        except BaseException:
            await self._cut()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await stop_or_cut(self._consumer.stop(), self._cut)

    async def partitions(self, topics: Sequence[str]) -> list[At]:
        """Every partition of these topics, which must exist. Comes first: what follows needs to know the leaders."""
        client = self._consumer._client
        found = await partition_counts(client, self._settings, dict.fromkeys(topics, 1), self._clock)
        for topic in topics:
            if not found[topic]:
                raise EnvironmentUnavailable(f"topic {topic} does not exist at Kafka {self._settings.servers}")
        return [(topic, number) for topic in topics for number in sorted(client.cluster.partitions_for_topic(topic))]

    async def begins(self, partitions: Iterable[At]) -> dict[At, int]:
        """The oldest offset that still exists, per partition."""
        return await self._offsets(self._consumer.beginning_offsets(_library(partitions)))

    async def ends(self, partitions: Iterable[At]) -> dict[At, int]:
        """The last stable offset per partition: everything before it is committed or aborted."""
        return await self._offsets(self._consumer.end_offsets(_library(partitions)))

    async def log_ends(self, partitions: Iterable[At]) -> dict[At, int]:
        """The end per partition with what is not decided yet. Before `assign` only: it borrows a setting."""
        fetcher = self._consumer._fetcher
        fetcher._isolation_level = READ_UNCOMMITTED
        try:
            return await self.ends(partitions)
        finally:
            fetcher._isolation_level = READ_COMMITTED

    async def offsets_at(self, partitions: Sequence[At], timestamp_ms: int) -> dict[At, int]:
        """The first offset at or after a time, per partition; its end when there is none."""
        ends = await self.ends(partitions)
        wanted = dict.fromkeys(_library(partitions), timestamp_ms)
        found = await self._ask(self._consumer.offsets_for_times(wanted), "offsets of a time")
        for at, answer in found.items():
            if answer is not None:
                ends[at.topic, at.partition] = answer.offset
        return ends

    def assign(self, starts: Mapping[At, int]) -> None:
        """Read these partitions from these offsets; replaces what was assigned before."""
        self._consumer.assign(_library(starts))
        for (topic, partition), offset in starts.items():
            self._consumer.seek(TopicPartition(topic, partition), offset)

    async def chunks(self, ends: Mapping[At, int] | None) -> AsyncGenerator[list[Message], None]:
        """Records of one partition at a time, in order, each before its end; for ever when there are no ends.

        Ends when every partition has been read up to its end, records or not.
        """
        open_ends = dict(ends or {})
        moved_at = self._clock.monotonic()
        positions: dict[At, int | None] = {}
        while True:
            self._close_finished(open_ends)
            if ends is not None and not open_ends:
                return
            for at, records in (await self._fetched()).items():
                end = None if ends is None else ends[at.topic, at.partition]
                chunk = [_message(record) for record in records if end is None or record.offset < end]
                if chunk:
                    yield chunk
            now = self._clock.monotonic()
            found = {at: self._position(at) for at in open_ends}
            if found != positions:
                positions, moved_at = found, now
            elif ends is not None and now - moved_at > STALL_S:
                topic, partition = next(iter(open_ends))
                raise unreachable(self._settings, f"no progress on {topic}-{partition} for {STALL_S:.0f} s")

    def _close_finished(self, open_ends: dict[At, int]) -> None:
        for at, end in list(open_ends.items()):
            position = self._position(at)
            if position is not None and position >= end:
                del open_ends[at]
                self._consumer.pause(TopicPartition(*at))

    async def _fetched(self) -> dict[Any, list[Any]]:
        records: dict[Any, list[Any]] = await self._ask(self._consumer.getmany(timeout_ms=_WAIT_MS), "the records")
        return records

    def _position(self, at: At) -> int | None:
        """Next offset, None while the library looks for one. Unlike its `position()` this does not wait."""
        state = self._consumer._subscription.subscription.assignment.state_value(TopicPartition(*at))
        return state.position if state.has_valid_position else None

    async def _offsets(self, call: Awaitable[Mapping[Any, int]]) -> dict[At, int]:
        found = await self._ask(call, "the bounds of a partition")
        return {(at.topic, at.partition): offset for at, offset in found.items()}

    async def _ask(self, call: Awaitable[Result], what: str) -> Result:
        try:
            async with asyncio.timeout(self._settings.answer_deadline_s):
                return await call
        except TimeoutError:
            raise unreachable(self._settings, f"it does not tell {what}") from None
        except KafkaError as error:
            raise unreachable(self._settings, f"it does not tell {what}: {describe(error)}") from error

    async def _cut(self) -> None:
        await cut_consumer(self._consumer, self._wire)


def _library(partitions: Iterable[At]) -> list[Any]:
    return [TopicPartition(topic, partition) for topic, partition in partitions]


def _message(record: Any) -> Message:  # the library's records have no types
    return Message(
        record.topic,
        record.partition,
        record.offset,
        record.timestamp,
        record.key,
        record.value,
        record.headers,
    )
