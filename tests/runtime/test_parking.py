"""A feed that raises something unforeseen each time (P13): its siblings go on, and after a while it is parked."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from bridge.errors import Malformed
from bridge.model import Collection, Path
from bridge.runtime.loop import SourceLoop
from bridge.runtime.parking import PARKED_AFTER, PARKED_RETRY_S, Parking, Surprises
from bridge.runtime.schedule import RETRY_DELAY_S_FIRST
from bridge.runtime.step import SourceStep
from bridge.source.feed import Page
from tests.runtime.processes import Process
from tests.runtime.shards import House
from tests.support.clock import VirtualClock, run_virtual

HOUR_S = 3600.0


def parked(house: House) -> dict[str, float]:
    """The metric by collection."""
    lines = [
        line for line in house.metrics.render()[1].decode().splitlines() if line.startswith("bridge_feeds_parked{")
    ]
    return {line.split('"')[1]: float(line.rsplit(" ", 1)[1]) for line in lines}


def status(process: Process, collection: Collection) -> SourceLoop:
    assignment = process.supervisor.assignment
    assert assignment is not None
    (owner,) = assignment.owners.values()
    assert owner.shard is not None
    (reading,) = [reading for reading in owner.shard.readings["acme"] if reading.collection is collection]
    return reading


async def running(process: Process, body: Callable[[], Any]) -> list[str]:
    """Do something while the process runs; the log lines of both."""
    with capture_logs() as said:
        task = asyncio.get_running_loop().create_task(process.supervisor.run())
        await body()
        process.supervisor.stop()
        await task
    return [str(line["event"]) for line in said]


def test_a_feed_that_raises_each_time_is_parked_and_its_siblings_do_not_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(clock: VirtualClock) -> None:
        process = Process(clock)
        house = process.house
        asked: list[float] = []

        async def surprise(*_: object) -> Page:
            asked.append(clock.monotonic())
            raise KeyError("a name")

        async def body() -> None:
            with monkeypatch.context() as patched:
                patched.setattr(house.source.feeds[Collection.TAGS], "page", surprise)
                await asyncio.sleep(HOUR_S)
                gaps = [later - earlier for earlier, later in itertools.pairwise(asked)][: PARKED_AFTER - 1]
                assert gaps[0] < 2 * RETRY_DELAY_S_FIRST
                assert sorted(gaps) == gaps
                assert len(asked) < PARKED_AFTER + HOUR_S / PARKED_RETRY_S
                assert parked(house) == {"customers": 0.0, "tags": 1.0}
                tags = status(process, Collection.TAGS)
                assert (tags.status.mode, tags.ready) == ("parked", False)
                assert "unforeseen KeyError" in (tags.status.last_error or "")
                assert house.kafka.calls.count("open") == 1
                staleness = house.metrics.staleness("acme", Collection.CUSTOMERS)
                assert staleness is not None
                assert staleness < 10
                assert status(process, Collection.CUSTOMERS).ready
            await asyncio.sleep(PARKED_RETRY_S * 1.3)
            assert parked(house) == {"customers": 0.0, "tags": 0.0}
            assert status(process, Collection.TAGS).ready
            assert house.types("tags") == ["tag.snapshot.v1"] * 8

        assert "the feed is parked" in await running(process, body)

    run_virtual(main)


@pytest.mark.parametrize("path", [Path.SNAPSHOT, Path.SWEEP])
def test_a_page_that_breaks_the_shard_each_time_leaves_it_longer_and_longer_lives(
    monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    async def main(clock: VirtualClock) -> None:
        process = Process(clock, sweep_interval_s=60.0)
        house = process.house
        absorb = SourceStep.absorb
        broken: list[float] = []

        def surprise(self: SourceStep, collection: Collection, page: Page, *rest: Any) -> Any:
            if collection is Collection.CUSTOMERS and page.path is path:
                broken.append(clock.monotonic())
                raise KeyError("a name")
            return absorb(self, collection, page, *rest)

        async def body() -> None:
            with monkeypatch.context() as patched:
                patched.setattr(SourceStep, "absorb", surprise)
                await asyncio.sleep(HOUR_S)
                assert len(broken) < PARKED_AFTER + HOUR_S / PARKED_RETRY_S
                assert parked(house) == {"customers": 1.0, "tags": 0.0}
                begin, tags = clock.monotonic(), house.metrics.staleness("acme", Collection.TAGS)
                assert tags is not None
                assert tags < 10
                house.world.create_tag("new")
                await asyncio.sleep(30)
                assert house.types("tags")[-1] == "tag.created.v1"
                assert all(moment < begin for moment in broken)
            await asyncio.sleep(PARKED_RETRY_S * 1.3)
            assert parked(house) == {"customers": 0.0, "tags": 0.0}
            assert house.types("customers") == ["customer.snapshot.v1"] * 50
            assert status(process, Collection.CUSTOMERS).ready

        assert "the feed is parked" in await running(process, body)

    run_virtual(main)


def test_a_good_page_before_the_one_that_breaks_the_shard_ends_no_row_of_surprises(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is lost with the life, and is good again in the next one."""

    async def main(clock: VirtualClock) -> None:
        process = Process(clock, customers=350)
        absorb = SourceStep.absorb
        broken: list[float] = []

        def surprise(self: SourceStep, collection: Collection, page: Page, *rest: Any) -> Any:
            if collection is Collection.CUSTOMERS and self.documents(collection):
                broken.append(clock.monotonic())
                raise KeyError("a name")
            return absorb(self, collection, page, *rest)

        async def body() -> None:
            with monkeypatch.context() as patched:
                patched.setattr(SourceStep, "absorb", surprise)
                await asyncio.sleep(HOUR_S)
            assert PARKED_AFTER <= len(broken) < PARKED_AFTER + HOUR_S / PARKED_RETRY_S
            assert parked(process.house) == {"customers": 1.0, "tags": 0.0}

        await running(process, body)

    run_virtual(main)


def test_what_kafka_and_the_disk_do_is_blamed_on_no_feed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(clock: VirtualClock) -> None:
        process = Process(clock)
        house = process.house

        def full(*_: object) -> Any:
            raise OSError("No space left on device")

        async def body() -> None:
            with monkeypatch.context() as patched:
                patched.setattr(SourceStep, "absorb", full)
                await asyncio.sleep(1200)
                assert set(parked(house).values()) <= {0.0}
            await asyncio.sleep(120)
            assert house.types("tags") == ["tag.snapshot.v1"] * 8

        assert "the feed is parked" not in await running(process, body)

    run_virtual(main)


def test_an_answer_that_is_merely_malformed_parks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(clock: VirtualClock) -> None:
        process = Process(clock)

        async def malformed(*_: object) -> Page:
            raise Malformed("half a page")

        async def body() -> None:
            monkeypatch.setattr(process.house.source.feeds[Collection.TAGS], "page", malformed)
            await asyncio.sleep(HOUR_S)
            assert parked(process.house) == {"customers": 0.0, "tags": 0.0}

        assert "the feed is parked" not in await running(process, body)

    run_virtual(main)


def test_one_good_answer_ends_a_row_of_surprises() -> None:
    surprises, parking = Surprises(), Parking()
    assert surprises.delay_s(0.0) == 0.0
    for _ in range(PARKED_AFTER):
        assert not surprises.parked
        surprises.happened("?")
        parking.sweeps.happened("?")
    assert surprises.parked
    assert parking.parked
    assert surprises.delay_s(0.0) == PARKED_RETRY_S
    surprises.over()
    assert (surprises.parked, surprises.any, surprises.said) == (False, False, None)
