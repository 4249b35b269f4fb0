"""Records that are sent to a shard in a house, and what it says to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import orjson

from bridge.publish.inbox import InboxRecord
from bridge.runtime.shard import Shard
from tests.runtime.shards import NUMBER, Kafka
from tests.support.clock import VirtualClock


class Home(Protocol):
    """Where shards live."""

    kafka: Kafka
    clock: VirtualClock

    def shard(self) -> Shard: ...


class Post:
    """Sends records to one shard after the other, offsets going on."""

    def __init__(self, house: Home) -> None:
        self.house = house
        self.sent: list[InboxRecord] = []

    def signal(self, kind: str, collection: str | None = None, id_: str | None = None, **more: Any) -> InboxRecord:
        offset = len(self.sent)
        fields = {"id": id_ or f"id-{offset}", "kind": kind, "source": "acme", "sent_at": "2026-11-21T08:15:30Z"}
        return self.raw(orjson.dumps({**fields, "collection": collection, **more}))

    def command(self, kind: str, id_: str | None = None, **fields: Any) -> InboxRecord:
        """One that needs the provider. `Any`: JSON."""
        named = {"id": id_ or f"id-{len(self.sent)}", "kind": kind, "source": "acme", "sent_at": "2026-11-21T08:15:30Z"}
        return self.raw(orjson.dumps({**named, **fields}))

    def raw(self, value: bytes | None, key: bytes | None = b"acme", at: float | None = None) -> InboxRecord:
        moment = self.house.clock.wall() if at is None else at
        record = InboxRecord(NUMBER, len(self.sent), key, value, (), int(moment * 1000))
        self.sent.append(record)
        return record

    @property
    def outcomes(self) -> list[dict[str, Any]]:
        return [orjson.loads(record.value or b"") for record in self.house.kafka.events("outcomes")]

    @property
    def last(self) -> tuple[str, str, str]:
        outcome = self.outcomes[-1]
        return outcome["id"], outcome["outcome"], outcome["detail"]

    @property
    def words(self) -> list[tuple[str, str]]:
        """Id and result of each outcome."""
        return [(outcome["id"], outcome["outcome"]) for outcome in self.outcomes]

    @property
    def reasons(self) -> list[str]:
        return [dict(letter.headers)["reason"].decode() for letter in self.house.kafka.events("deadletters")]


@asynccontextmanager
async def living(house: Home) -> AsyncIterator[Shard]:
    """A life of the shard that has read everything once."""
    shard = house.shard()
    async with asyncio.TaskGroup() as group:
        group.create_task(shard.serve())
        await asyncio.sleep(3)
        yield shard
        shard.drain()
