"""Polls that ask only for what has changed: no change is lost, and nothing is claimed that was not made true."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from bridge.model import Collection
from bridge.runtime.reading import ReadingPlan
from bridge.source.feed import ETAG
from bridge.store.record import cursor_key, decode_json
from tests.runtime.shards import House
from tests.support.clock import VirtualClock, run_virtual

TAGS = 100
POLL_S = 5.0


def house_with_etags(clock: VirtualClock, sweep_interval_s: float = 6 * 3600.0) -> House:
    house = House(clock, 0, TAGS, etag="honoured")
    plan = ReadingPlan(POLL_S, sweep_interval_s)
    house.reader = replace(house.reader, plans=dict.fromkeys((Collection.CUSTOMERS, Collection.TAGS), plan))
    return house


def stored(house: House) -> dict[str, Any]:
    key = cursor_key("acme", "tags")
    return decode_json(house.store.get_many([key])[key])


def answers(house: House, status: int) -> int:
    return house.api.statistics().requests.get(f"tags {status}", 0)


def test_a_quiet_list_is_sent_once_and_counts_as_read_each_time() -> None:
    async def main(clock: VirtualClock) -> None:
        house = house_with_etags(clock)
        shard = house.shard()
        async with asyncio.TaskGroup() as group:
            group.create_task(shard.serve())
            await asyncio.sleep(20 * POLL_S)
            assert answers(house, 200) == 1
            assert answers(house, 304) >= 19
            assert shard.caught_up["acme", Collection.TAGS] >= clock.wall() - POLL_S - 1
            written = len(house.kafka.records)
            await asyncio.sleep(20 * POLL_S)
            # Nothing to write down but that this is so.
            topics = {(record.topic, b"/progress/" in record.key) for record in house.kafka.records[written:]}
            assert topics == {("b.progress", False), ("b.state", True)}
            shard.drain()

    run_virtual(main)


def test_changes_and_deletions_are_found_as_ever() -> None:
    async def main(clock: VirtualClock) -> None:
        house = house_with_etags(clock)
        await house.live(3 * POLL_S)
        house.world.create_tag("new")
        await house.live(3 * POLL_S)
        house.world.delete_tag(next(iter(house.world.tags)))
        await house.live(3 * POLL_S)
        assert house.types("tags")[TAGS:] == ["tag.created.v1", "tag.deleted.v1"]
        assert answers(house, 304) >= 3

    run_virtual(main)


def test_what_is_held_is_asked_for_in_full_each_time_in_the_next_life_too() -> None:
    async def main(clock: VirtualClock) -> None:
        house = house_with_etags(clock)
        await house.live(3 * POLL_S)
        for tag in list(house.world.tags)[:60]:
            house.world.delete_tag(tag)
        await house.live(3 * POLL_S)
        assert ETAG not in stored(house)
        before = answers(house, 304)
        shard = house.shard()
        async with asyncio.TaskGroup() as group:
            group.create_task(shard.serve())
            await asyncio.sleep(3 * POLL_S)
            assert ("acme", Collection.TAGS) not in shard.caught_up
            shard.drain()
        assert answers(house, 304) == before
        assert house.types("tags")[TAGS:] == []

    run_virtual(main)


def test_a_list_that_lacked_what_is_there_after_all_is_asked_for_in_full_again() -> None:
    async def main(clock: VirtualClock) -> None:
        house = house_with_etags(clock)
        await house.live(3 * POLL_S)
        lost = next(iter(house.world.tags))
        tag = house.world.register.tags.pop(lost)
        listed = asyncio.Event()
        answer = house.api.answer

        def first_without(request: Any) -> Any:
            found = answer(request)
            if request.path.endswith("/tags") and not listed.is_set():
                listed.set()
                house.world.register.tags[lost] = tag  # the second look finds it ...
            return found

        house.api.answer = first_without  # type: ignore[method-assign]  # a provider that loses a row for a moment
        await house.live(POLL_S / 2)
        assert listed.is_set()
        assert ETAG not in stored(house)
        del house.world.register.tags[lost]  # ... and then the list is again as it was the first time
        await house.live(3 * POLL_S)
        assert house.types("tags")[TAGS:] == ["tag.deleted.v1"]

    run_virtual(main)


def test_a_sweep_finds_what_a_lying_etag_hid_and_later_polls_do_not_rely_on_what_was_before_it() -> None:
    async def main(clock: VirtualClock) -> None:
        house = house_with_etags(clock, sweep_interval_s=8 * POLL_S)
        shard = house.shard()
        async with asyncio.TaskGroup() as group:
            group.create_task(shard.serve())
            await asyncio.sleep(3 * POLL_S)
            uid, tag = next(iter(house.world.tags.items()))
            house.world.register.tags[uid] = tag | {"tag": "Hidden"}
            answer = house.api.answer

            def lying(request: Any) -> Any:
                found = answer(request)
                if "If-None-Match" in request.headers:
                    found.status, found.body = 304, b""
                return found

            house.api.answer = lying  # type: ignore[method-assign]  # a provider whose ETag lies
            await asyncio.sleep(3 * POLL_S)
            assert house.types("tags")[TAGS:] == []
            async with asyncio.timeout(8 * POLL_S):
                while not house.types("tags")[TAGS:]:  # noqa: ASYNC110 - virtual time; nobody tells of a commit
                    await asyncio.sleep(0.1)
            # At once, so that no poll comes in between: back to what the ETag of the poll before the sweep named.
            house.world.register.tags[uid] = tag
            house.api.answer = answer  # type: ignore[method-assign]
            await asyncio.sleep(3 * POLL_S)
            assert house.types("tags")[TAGS:] == ["tag.updated.v1"] * 2
            shard.drain()

    run_virtual(main)


def test_sweeps_of_a_quiet_list_repeat_and_take_one_page_each() -> None:
    async def main(clock: VirtualClock) -> None:
        house = house_with_etags(clock, sweep_interval_s=10 * POLL_S)
        await house.live(40 * POLL_S)
        # The first reading, and per sweep its page and the poll behind it, which learns the ETag anew.
        assert 5 <= answers(house, 200) <= 9
        assert answers(house, 304) >= 25
        assert "cursor" not in stored(house)["@sweep"]

    run_virtual(main)
