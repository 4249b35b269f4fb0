"""FakeReader: `PartitionReader` over the fake broker, and with it the bridge's own restore.

Chunks end where they like, so that a restore is applied in several parts whatever its size.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from random import Random
from typing import Self

from bridge.clock import Clock
from bridge.errors import EnvironmentUnavailable
from bridge.publish.reading import At, Message
from bridge.publish.statelog import Progress, Restored, restore_with
from bridge.sandbox.broker.link import Link
from bridge.sandbox.broker.log import Entry
from bridge.sandbox.broker.refusal import Lost
from bridge.store.base import Store

READ = "read"
"""Kind of these requests, as `Power.cut_at` names it."""

CHUNK_RECORDS_MAX = 40
ATTEMPTS_MAX = 20
"""Of one request, before the reader says that Kafka is away."""


class FakeReader:
    """Implements `publish.reading.LogReader`."""

    def __init__(self, link: Link, chance: Random) -> None:
        self._link = link
        self._chance = chance
        self._positions: dict[At, int] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def partitions(self, topics: Sequence[str]) -> list[At]:
        """Every partition of these topics, which must exist."""
        for topic in topics:
            if not self._link.broker.partitions(topic):
                raise EnvironmentUnavailable(f"topic {topic} does not exist")
        return [(topic, number) for topic in topics for number in range(self._link.broker.partitions(topic))]

    async def begins(self, partitions: Iterable[At]) -> dict[At, int]:
        """See `LogReader`."""
        return {at: self._link.broker.log(at).begin for at in partitions}

    async def ends(self, partitions: Iterable[At]) -> dict[At, int]:
        """See `LogReader`."""
        await self._asked()
        return {at: self._link.broker.log(at).stable_end for at in partitions}

    async def log_ends(self, partitions: Iterable[At]) -> dict[At, int]:
        """See `LogReader`."""
        await self._asked()
        return {at: self._link.broker.log(at).end for at in partitions}

    async def offsets_at(self, partitions: Sequence[At], timestamp_ms: int) -> dict[At, int]:
        """See `LogReader`."""
        await self._asked()
        logs = {at: self._link.broker.log(at) for at in partitions}
        return {at: min(log.at_time(timestamp_ms), log.stable_end) for at, log in logs.items()}

    def assign(self, starts: Mapping[At, int]) -> None:
        """See `LogReader`."""
        self._positions = dict(starts)

    async def chunks(self, ends: Mapping[At, int] | None) -> AsyncGenerator[list[Message], None]:
        """See `LogReader`; always with ends."""
        assert ends is not None, "nobody follows the fake"
        for at, end in ends.items():
            while self._positions[at] < end:
                await self._asked()
                size = self._chance.randint(1, CHUNK_RECORDS_MAX)
                entries = self._link.broker.read(at, self._positions[at], end)[:size]
                self._positions[at] = entries[-1].offset + 1 if len(entries) == size else end
                if entries:
                    yield [message_of(at, entry) for entry in entries]

    async def _asked(self) -> None:
        """One exchange with the broker."""
        for _ in range(ATTEMPTS_MAX):
            try:
                return await self._link.call(READ, lambda: None)
            except Lost:
                continue
        raise EnvironmentUnavailable("the fake Kafka cannot be read")


async def fake_restore(
    link: Link,
    chance: Random,
    topic: str,
    shard: int,
    store: Store,
    clock: Clock,
    progress: Progress,
    *,
    fenced: bool = False,
) -> Restored:
    """`publish.statelog.restore` over the fake."""
    async with FakeReader(link, chance) as reader:
        await reader.partitions([topic])
        return await restore_with(reader, (topic, shard), store, clock, progress, fenced=fenced)


def message_of(at: At, entry: Entry) -> Message:
    """An entry as the readers hand it on."""
    return Message(*at, entry.offset, entry.timestamp_ms, entry.key, entry.value, entry.headers)
