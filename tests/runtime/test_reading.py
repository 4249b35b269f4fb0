"""The loop of a feed: deletions only when they are certain, and a provider in trouble is left in peace."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bridge.model import Collection, Path
from bridge.runtime.step import SourceStep, StepResult
from bridge.sandbox.switches import Switches
from bridge.sandbox.world import World
from bridge.source.dintero.customers import CustomersFeed
from bridge.source.feed import Page
from bridge.source.transport import Request, Response
from bridge.store.record import StateRecord, cursor_key, encode_json, encode_record
from tests.runtime.shards import House
from tests.support.clock import VirtualClock, run_virtual


def tags(world: World) -> list[str]:
    return list(world.tags)


def test_a_tag_that_is_gone_is_deleted_after_a_second_look() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        await house.live(3)
        house.world.delete_tag(tags(house.world)[0])
        before = house.api.statistics().requests.get("tags 200", 0)
        await house.live(3)
        assert house.types("tags")[8:] == ["tag.deleted.v1"]
        assert house.api.statistics().requests["tags 200"] == before + 2

    run_virtual(main)


def test_an_empty_list_once_deletes_nothing() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        await house.live(3)
        house.api.switches = house.api.switches.changed({"empty_tag_list_once": True})
        await house.live(12)
        assert house.types("tags")[8:] == []

    run_virtual(main)


def test_many_tags_missing_at_once_are_held_and_shown() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock, tags=100)
        await house.live(3)
        for tag in tags(house.world)[:60]:
            house.world.delete_tag(tag)
        shard = house.shard()
        async with asyncio.TaskGroup() as group:
            group.create_task(shard.serve())
            await asyncio.sleep(12)
            _, text = house.metrics.render()
            assert 'bridge_deletions_held{collection="tags",source="acme"} 60.0' in text.decode()
            assert ("acme", Collection.TAGS) not in shard.caught_up  # what is held is not proved published
            shard.drain()
        assert house.types("tags")[100:] == []

    run_virtual(main)


def test_a_deleted_customer_is_deleted_after_a_confirming_read_with_the_providers_time() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        await house.live(3)
        customer_id = next(iter(house.world.customers.live_row_of))
        house.world.delete_customer(customer_id)
        await house.live(12)
        assert house.types("customers")[50:] == ["customer.deleted.v1"]
        assert house.api.statistics().requests["customer 404"] >= 1

    run_virtual(main)


def test_refused_credentials_are_tried_once_a_minute_and_delete_nothing() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        await house.live(3)
        house.api.access.revoke_all()
        house.api.switches = house.api.switches.changed({"scopes": "nothing"})
        shard = house.shard()
        async with asyncio.TaskGroup() as group:
            group.create_task(shard.serve())
            await asyncio.sleep(600)
            asked = sum(house.api.statistics().requests.values())
            assert asked < 60  # two feeds, ten minutes, a token now and then; without patience it would be hundreds
            assert not any(reading.ready for reading in shard.readings["acme"])
            assert "403" in (shard.readings["acme"][0].status.last_error or "")
            house.api.switches = Switches()
            await asyncio.sleep(70)
            assert all(reading.ready for reading in shard.readings["acme"])
            shard.drain()
        assert house.types("customers") == ["customer.snapshot.v1"] * 50

    run_virtual(main)


def test_a_position_that_the_feed_cannot_use_is_given_up_and_nothing_is_published_twice() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        await house.live(3)
        house.store.apply([(cursor_key("acme", "customers"), encode_json({"mode": "of another release"}))], 99)
        house.kafka.state_end = 101
        house.world.create_customer({"type": "customer", "customer_id": "new"})
        await house.live(12)
        assert house.types("customers")[50:] == ["customer.snapshot.v1"]

    run_virtual(main)


def test_a_provider_that_refuses_its_own_cursor_is_asked_ever_more_slowly_and_read_when_it_is_mended() -> None:
    """Each time the first page of the list is good, and the second cannot be asked for."""

    async def main(clock: VirtualClock) -> None:
        house = House(clock, customers=150, cursor_kind="customer_id")
        shard = house.shard()
        async with asyncio.TaskGroup() as group:
            group.create_task(shard.serve())
            await asyncio.sleep(3600)
            asked = house.api.statistics().requests
            # A page, its follower refused, three times anew: eight requests a minute at most, once it waits longest.
            assert sum(count for name, count in asked.items() if name.startswith("customers ")) < 700
            customers = next(one for one in shard.readings["acme"] if one.collection is Collection.CUSTOMERS)
            assert "check cursor_kind" in (customers.status.last_error or "")
            assert not customers.status.caught_up
            house.api.switches = Switches()
            await asyncio.sleep(120)
            assert customers.status.caught_up
            shard.drain()
        assert house.types("customers") == ["customer.snapshot.v1"] * 150

    run_virtual(main)


def test_a_provider_that_says_later_is_not_asked_before() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        await house.live(3)
        switches = {"fault_429": 1.0, "fault_429_retry_after": "120"}
        house.api.switches = house.api.switches.changed(switches)
        shard = house.shard()
        async with asyncio.TaskGroup() as group:
            group.create_task(shard.serve())
            await asyncio.sleep(20)
            asked = sum(house.api.statistics().requests.values())
            await asyncio.sleep(95)
            assert sum(house.api.statistics().requests.values()) == asked
            house.api.switches = Switches()
            house.world.create_tag("after the storm")
            await asyncio.sleep(60)
            shard.drain()
        assert house.types("tags")[8:] == ["tag.created.v1"]

    run_virtual(main)


def test_staleness_grows_while_the_provider_cannot_be_read_and_not_while_it_is_quiet() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        shard = house.shard()
        async with asyncio.TaskGroup() as group:
            group.create_task(shard.serve())
            await asyncio.sleep(100)
            customers = shard.readings["acme"][0].collection
            assert (house.metrics.staleness("acme", customers) or 0) <= 6
            house.api.switches = house.api.switches.changed({"fault_500": 1.0})
            await asyncio.sleep(300)
            assert 295 <= (house.metrics.staleness("acme", customers) or 0) <= 310
            shard.drain()

    run_virtual(main)


def test_rows_that_were_never_published_are_forgotten_and_hold_no_deletion() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        refused = {f"acme/tags/gone-{number}": encode_record(StateRecord(None, 0, 0, "x")) for number in range(60)}
        house.store.apply(refused.items(), 1)
        await house.live(3)
        assert not house.store.get_many(list(refused))
        assert house.types("tags") == ["tag.snapshot.v1"] * 8

    run_virtual(main)


def test_the_first_reading_asks_for_the_next_page_before_it_has_written_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    happened: list[str] = []
    page, absorb = CustomersFeed.page, SourceStep.absorb

    async def ask(self: CustomersFeed, *args: Any) -> Page:
        happened.append("ask")
        return await page(self, *args)

    def write(self: SourceStep, collection: Collection, page: Page, *rest: Any) -> StepResult:
        if collection is Collection.CUSTOMERS:
            happened.append("write" if page.path is Path.SNAPSHOT else "other")
        return absorb(self, collection, page, *rest)

    monkeypatch.setattr(CustomersFeed, "page", ask)
    monkeypatch.setattr(SourceStep, "absorb", write)

    async def main(clock: VirtualClock) -> None:
        house = House(clock, customers=250)
        await house.live(3)
        assert house.types("customers") == ["customer.snapshot.v1"] * 250

    run_virtual(main)
    pages = happened.count("write")
    # 250 in pages of 100, and two empty ones that prove the end; behind the last nothing is asked for ahead of time.
    assert happened[: 2 * pages] == ["ask", *["ask", "write"] * (pages - 1), "write"]


def test_a_first_reading_that_ends_leaves_no_request_under_way() -> None:
    """Also between two pages, when nobody is waiting for those that are asked for ahead."""

    async def main(clock: VirtualClock) -> None:
        house = House(clock, 5_000, page_latency_ms=100)
        send, under_way, sent = house.api.send, 0, 0

        async def watched(request: Request) -> Response:
            nonlocal under_way, sent
            under_way, sent = under_way + 1, sent + 1
            try:
                await clock.sleep(sent % 7 / 20)
                return await send(request)
            finally:
                under_way -= 1

        house.api.send = watched  # type: ignore[method-assign]
        for life in range(20):
            await house.live(2.0 if life == 0 else 0.1 + life / 100)
            assert under_way == 0
        assert 100 < len(house.types("customers")) < 5_000

    run_virtual(main)
