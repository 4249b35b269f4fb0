"""A house whose memberships are read, and what its events say about them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import orjson

from bridge.detect.edges import tags_of
from bridge.model import Collection
from bridge.runtime.memberships.loop import Memberships, MembershipSource
from bridge.runtime.memberships.rounds import RoundsPlan
from bridge.runtime.reading import ReadingPlan
from bridge.runtime.shard import Shard
from bridge.store.record import decode_record
from tests.runtime.shards import House
from tests.support.clock import VirtualClock

Edge = tuple[str, str]
"""Tag and customer."""


class Told(NamedTuple):
    """An event of an edge; at: when it was detected."""

    verb: str
    edge: Edge
    path: str
    at: str


class Club(House):
    """See the module. poll_s, sweep_s: of the memberships; rate: requests a second that they believe they have."""

    def __init__(
        self,
        clock: VirtualClock,
        customers: int = 50,
        tags: int = 8,
        *,
        poll_s: float = 5.0,
        sweep_s: float = 600.0,
        rate: float = 100.0,
        silent: bool = False,
        switches: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(clock, customers, tags, **switches or {})
        plan = RoundsPlan(poll_s, sweep_s, rate)
        plans = {name: ReadingPlan(5.0, 600.0) for name in (Collection.CUSTOMERS, Collection.TAGS)}
        memberships = MembershipSource(self.source.memberships, plan)
        self.reader = replace(self.reader, memberships=memberships, silent_snapshot=silent, plans=plans)

    async def tell(self, seconds: float, *happenings: tuple[float, Callable[[], Any]]) -> Shard:
        """Live so long; each happening after so many seconds. `Any`: whatever the world answers."""
        begin = self.clock.monotonic()

        async def play() -> None:
            for after, happen in happenings:
                await self.clock.sleep(begin + after - self.clock.monotonic())
                happen()

        async with asyncio.TaskGroup() as group:
            group.create_task(play())
            return await self.live(seconds)

    def uid(self, customer_id: str) -> str:
        return self.world.customers.uids[self.world.customers.live_row_of[customer_id]]

    @property
    def true(self) -> set[Edge]:
        """The edges that the world has."""
        customers = self.world.customers
        return {(tag, customers.uids[row]) for tag, rows in customers.members.items() for row in rows}

    @property
    def stored(self) -> set[Edge]:
        """The edges that the state has."""
        found = set()
        for key, value in self.store.scan("acme/customers/"):
            found |= {(tag, key.split("/", 2)[2]) for tag in tags_of(decode_record(value).document)}
        return found

    @property
    def told(self) -> list[Told]:
        """The events about edges, in order."""
        return [
            Told(data["verb"], (data["tag"]["uid"], data["key"].split("/")[1]), data["cause"]["path"], data["at"])
            for data in self._data()
            if "tag" in data
        ]

    def verbs(self) -> Counter[str]:
        return Counter(kind.removesuffix(".v1") for kind in [*self.types("customers"), *self.types("tags")])

    def _data(self) -> list[dict[str, Any]]:
        found = []
        for record in self.kafka.events("customers"):
            data = orjson.loads(record.value or b"")
            kind = dict(record.headers)["ce_type"].decode()
            found.append({**data, "verb": kind.split(".")[2], "at": data["detected_at"]})
        return found

    def folded(self) -> set[Edge]:
        """What the events add up to; every step is checked."""
        documents: dict[str, Any] = {}
        for data in self._data():
            key, before, after = data["key"], data["before"], data["after"]
            if data["verb"] not in ("snapshot", "created"):
                assert before == documents.get(key), f"{data['verb']} of {key} does not follow its event before"
            if "tag" in data:
                assert data["changed"] == ["/tags"]
                assert (data["tag"]["uid"] in tags_of(after)) is (data["verb"] == "tagged")
                assert {**before, "tags": 0} == {**after, "tags": 0}
            documents[key] = after
        return {(tag, key.split("/")[1]) for key, body in documents.items() for tag in tags_of(body)}

    def check(self) -> None:
        """The events add up to the state, and the state is what the world is."""
        assert self.stored == self.true
        assert self.folded() == self.true


def loop_of(shard: Shard) -> Memberships:
    loop = shard.readings["acme"][-1]
    assert isinstance(loop, Memberships)
    return loop
