"""Watermarks: how far the progress topic and the staleness metric say that everything is published."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import orjson
import pytest

from bridge.errors import CommitUnknown
from bridge.model import instant
from bridge.runtime.progress import PROGRESS_S
from bridge.runtime.shard import TICK_S
from tests.runtime.shards import House
from tests.support.clock import VirtualClock, run_virtual

POLL_S = 5.0


def written(house: House) -> dict[str, list[dict[str, Any]]]:
    """The records of the progress topic by key. `Any`: JSON."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in house.kafka.events("progress"):
        found[record.key.decode()].append(orjson.loads(record.value or b""))
    return found


def until(record: dict[str, Any]) -> float:
    return instant(record["complete_until"]) / 1_000_000


def staleness(house: House) -> dict[str, float]:
    return {collection: seconds for _, collection, seconds in house.metrics.staleness_all()}


async def watched(house: House, seconds: float) -> list[dict[str, float]]:
    """The staleness ten times a second."""
    found = []
    for _ in range(round(seconds * 10)):
        await asyncio.sleep(0.1)
        found.append(staleness(house))
    return found


def test_a_record_tells_until_when_a_collection_is_complete_and_with_which_numbers() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        began = clock.wall()
        await house.live(60)
        assert written(house).keys() == {"acme/customers", "acme/tags"}
        for key, records in written(house).items():
            first, last = records[0], records[-1]
            assert f"{first['source']}/{first['collection']}" == key
            assert set(first) == {"source", "collection", "complete_until", "sequence", "at"}
            assert began <= until(first) <= instant(first["at"]) / 1_000_000
            assert last["sequence"] == 58
            assert until(last) > clock.wall() - PROGRESS_S - POLL_S - TICK_S

    run_virtual(main)


def test_a_quiet_source_is_written_every_now_and_then_and_never_backwards() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        await house.live(600)
        for records in written(house).values():
            moments = [until(record) for record in records]
            assert moments == sorted(set(moments))
            assert 600 / (PROGRESS_S + POLL_S + TICK_S) <= len(records) <= 600 / PROGRESS_S + 2

    run_virtual(main)


def test_a_commit_that_happens_anyway_takes_the_watermarks_along() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        shard = house.shard()
        async with asyncio.TaskGroup() as group:
            group.create_task(shard.serve())
            await asyncio.sleep(PROGRESS_S * 1.5)
            before, published = len(written(house)["acme/tags"]), house.kafka.published
            house.world.create_tag("new")
            await asyncio.sleep(POLL_S + 0.2)
            assert house.kafka.published == published + 1
            assert len(written(house)["acme/tags"]) == before + 1
            assert written(house)["acme/tags"][-1]["sequence"] == 59
            shard.drain()

    run_virtual(main)


def test_a_watermark_moves_only_with_a_commit() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        await house.live(30)
        before = written(house)
        house.kafka.fail = lambda _: CommitUnknown("?")
        with pytest.raises(ExceptionGroup):
            await house.live(60)
        assert written(house) == before

    run_virtual(main)


def test_the_next_owner_never_goes_back_behind_what_was_written_although_its_clock_is_late() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        await house.live(60)
        clock.step(-40)
        await house.live(100)
        for records in written(house).values():
            moments = [until(record) for record in records]
            assert moments == sorted(set(moments))
            assert moments[-1] > clock.wall() - PROGRESS_S - POLL_S - TICK_S, "it goes on once its time has come"

    run_virtual(main)


def test_the_staleness_of_a_blocked_source_grows_one_for_one() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)

        async def look() -> None:
            await asyncio.sleep(20)
            house.api.switches = house.api.switches.changed({"fault_500": 1.0})
            await asyncio.sleep(20)
            seen = await watched(house, 300)
            for collection in ("customers", "tags"):
                steps = [b[collection] - a[collection] for a, b in pairwise(seen)]
                assert steps == pytest.approx([0.1] * len(steps), abs=1e-6)
            topic = written(house)
            assert all(until(records[-1]) < clock.wall() - 300 for records in topic.values())
            house.api.switches = house.api.switches.changed({"fault_500": 0.0})
            await asyncio.sleep(120)
            assert max(staleness(house).values()) < POLL_S + TICK_S

        await during(house, look)

    run_virtual(main)


def test_the_staleness_goes_on_after_a_restart_where_it_was() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        await house.live(30)
        house.api.switches = house.api.switches.changed({"fault_500": 1.0})
        await asyncio.sleep(1000)

        async def look() -> None:
            await asyncio.sleep(1)
            assert min(staleness(house).values()) > 1000
            house.api.switches = house.api.switches.changed({"fault_500": 0.0})
            await asyncio.sleep(120)
            assert max(staleness(house).values()) < POLL_S + TICK_S

        await during(house, look)

    run_virtual(main)


def test_the_staleness_of_a_quiet_source_stays_below_the_poll_interval_and_a_second() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)

        async def look() -> None:
            await asyncio.sleep(10)
            seen = await watched(house, 120)
            assert max(max(each.values()) for each in seen) <= POLL_S + TICK_S + 0.1

        await during(house, look)

    run_virtual(main)


def test_the_staleness_is_never_ahead_of_the_truth() -> None:
    """A change that was made before the moment which is proved is published."""

    async def main(clock: VirtualClock) -> None:
        house = House(clock, latency_ms="700")

        async def look() -> None:
            await asyncio.sleep(20)
            for number in range(30):
                made = clock.wall()
                house.world.create_tag(f"tag {number}")
                known = len(house.kafka.events("tags"))
                while len(house.kafka.events("tags")) == known:
                    assert clock.wall() - staleness(house)["tags"] <= made
                    assert until(written(house)["acme/tags"][-1]) <= made
                    await asyncio.sleep(0.01)
                await asyncio.sleep(number * 0.37)

        await during(house, look)

    run_virtual(main)


async def during(house: House, look: Callable[[], Awaitable[None]]) -> None:
    """Look at a life of the shard."""
    shard = house.shard()
    async with asyncio.TaskGroup() as group:
        group.create_task(shard.serve())
        await look()
        shard.drain()
