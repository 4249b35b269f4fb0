"""Topic: what has arrived in Kafka, as any reader of committed records sees it. The only place where figures come from.

While a process is measured only the ends of the partitions are asked for (last stable offsets), so that counting
costs next to nothing; what lies between them is read and counted afterwards.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import NamedTuple

import orjson

from bridge.clock import SystemClock
from bridge.model import instant
from bridge.publish.admin import Admin
from bridge.publish.reading import At, Message, PartitionReader, read_topics
from bridge.publish.settings import KafkaSettings
from bridge.publish.topics import TopicPlan, ensure

PARTITIONS = 12
"""Of a plain loop's topic, as many as a bridge's default."""

SHARDS = 16
"""Of a bridge; the default."""

LOOK_S = 0.03
"""Between two looks at the ends."""

SETTLED_S = 1.0
"""A topic that has not grown for so long is complete."""

TIMEOUT_S = 600.0


class Arrival(NamedTuple):
    """One change in the topic: when the provider made it and when a reader had it, wall-clock seconds."""

    key: bytes
    changed_at: float
    seen_at: float


class Topic:
    """One topic of a cluster."""

    def __init__(self, bootstrap: str, name: str) -> None:
        self.bootstrap = bootstrap
        self.name = name
        self._settings = KafkaSettings(bootstrap_servers=bootstrap.split(","), client_id="bench")

    @property
    def bridge(self) -> str:
        """The name of the bridge whose topic this is."""
        return self.name.partition(".")[0]

    async def create(self) -> None:
        """A topic for a plain loop."""
        async with Admin(self._settings) as admin:
            await admin.create([(self.name, PARTITIONS, {})])
            while not await admin.all_led({self.name}):  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(LOOK_S)

    async def create_bridge(self) -> None:
        """This one and all others of its bridge, so that making them is no part of any figure."""
        await ensure(self._settings, TopicPlan(self.bridge, SHARDS), create=True)

    async def delete(self) -> None:
        """Give the disk back: this topic, or all of its bridge."""
        async with Admin(self._settings) as admin:
            _, topics, _ = await admin.existing()
            await admin._client.delete_topics([name for name in topics if name.partition(".")[0] == self.bridge])

    async def settled(self, at_least: int, failed: Callable[[], str | None] = lambda: None) -> float:
        """Wall-clock second of the last growth of a topic that got at least so many records and grows no more.

        failed: the last words of a process that has ended too early.
        """
        async with self._reader() as (reader, partitions):
            total, grown_at, began = -1, 0.0, time.time()
            while True:
                now_total, now = sum((await reader.ends(partitions)).values()), time.time()
                if now_total != total:
                    total, grown_at = now_total, now
                elif total >= at_least and now - grown_at > SETTLED_S:
                    return grown_at
                if now - began > TIMEOUT_S or (total < at_least and now - grown_at > SETTLED_S and failed()):
                    raise AssertionError(f"{self.name}: {total} of {at_least} records; {failed()}")
                await asyncio.sleep(LOOK_S)

    async def grown(self, timeout_s: float) -> float:
        """Wall-clock second of the first record after this call."""
        async with self._reader() as (reader, partitions):
            before, began = sum((await reader.ends(partitions)).values()), time.time()
            while time.time() - began < timeout_s:
                await asyncio.sleep(LOOK_S)
                if sum((await reader.ends(partitions)).values()) != before:
                    return time.time()
        raise AssertionError(f"{self.name} has not grown within {timeout_s:.0f} s")

    async def count(self) -> tuple[int, int]:
        """Committed records, and different keys among them."""
        records = 0
        keys: set[bytes | None] = set()
        async with self._reader() as (reader, partitions):
            ends = await reader.ends(partitions)
            reader.assign(await reader.begins(partitions))
            async with aclosing(reader.chunks(ends)) as chunks:
                async for chunk in chunks:
                    records += len(chunk)
                    keys.update(message.key for message in chunk)
        return records, len(keys)

    async def latest(self) -> dict[bytes, int]:
        """Of every key what its last event says there is now, as a hash."""
        found: dict[bytes, int] = {}
        async with self._reader() as (reader, partitions):
            ends = await reader.ends(partitions)
            reader.assign(await reader.begins(partitions))
            async with aclosing(reader.chunks(ends)) as chunks:
                async for chunk in chunks:
                    for message in chunk:
                        after = orjson.loads(message.value or b"{}").get("after")
                        found[message.key or b""] = hash(orjson.dumps(after, option=orjson.OPT_SORT_KEYS))
        return found

    async def arrivals(self, found: list[Arrival]) -> None:
        """Note every record from now on, until cancelled."""
        follow = read_topics(self._settings, [self.name], SystemClock(), since="latest", follow=True)
        async with aclosing(follow) as messages:
            async for message in messages:
                found.append(Arrival(message.key or b"", _changed_at(message), time.time()))

    @asynccontextmanager
    async def _reader(self) -> AsyncIterator[tuple[PartitionReader, list[At]]]:
        async with PartitionReader(self._settings, SystemClock()) as reader:
            yield reader, await reader.partitions([self.name])


def _changed_at(message: Message) -> float:
    """The provider's time of the change: of an event in its header, of a plain row inside."""
    for name, value in message.headers:
        if name == "ce_time":
            return instant((value or b"").decode()) / 1e6
    return instant(orjson.loads(message.value or b"{}")["updated_at"]) / 1e6
