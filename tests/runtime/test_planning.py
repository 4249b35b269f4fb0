"""What `bridge plan` counts is what a bridge publishes next, and nothing is published or stored for it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from bridge.errors import CursorRejected, EnvironmentUnavailable
from bridge.model import Collection, Document, Gone, Reject
from bridge.runtime.planning import Planned, Sample, plan_source
from bridge.runtime.reading import ReadingPlan
from bridge.source.dintero import models
from bridge.source.dintero.whole import WholeFeed
from bridge.source.feed import Cursor, Familiar, Page, none_familiar
from bridge.store import record as records
from bridge.store.memory import MemoryStore
from tests.runtime.shards import TOPICS, House
from tests.support.clock import VirtualClock, run_virtual

SWEEP_S = 30.0


def settled(clock: VirtualClock, customers: int = 50, lanes: int = 4) -> House:
    """A house that sweeps often, so that what a plan finds is published soon."""
    house = House(clock, customers, lanes=lanes)
    plans = dict.fromkeys((Collection.CUSTOMERS, Collection.TAGS), ReadingPlan(5.0, SWEEP_S))
    house.reader = replace(house.reader, plans=plans)
    return house


async def plan(house: House, samples: int = 3) -> dict[Collection, Planned]:
    """Against a copy of the state; nothing else is left behind."""
    before = dict(house.store.scan("")), len(house.kafka.records)
    scratch = MemoryStore()
    scratch.apply(before[0].items(), house.store.position)
    planned = await plan_source(house.reader, scratch, TOPICS, samples, lambda *_: None)
    assert (dict(house.store.scan("")), len(house.kafka.records)) == before
    return {each.collection: each for each in planned}


def names(house: House) -> list[str]:
    return list(house.world.customers.live_row_of)


def test_a_bridge_that_is_up_to_date_would_publish_nothing() -> None:
    async def main(clock: VirtualClock) -> None:
        house = settled(clock)
        await house.live(20)
        planned = await plan(house)
        assert planned[Collection.CUSTOMERS] == Planned("acme", Collection.CUSTOMERS, 50)
        assert planned[Collection.TAGS] == Planned("acme", Collection.TAGS, 8)

    run_virtual(main)


def test_what_is_planned_is_what_is_published_next() -> None:
    async def main(clock: VirtualClock) -> None:
        house = settled(clock, customers=350)
        await house.live(20)
        world, customers = house.world, names(house)
        world.update_customer(customers[0], {"first_name": "Ada"})
        world.update_customer(customers[1], {"first_name": "Bo", "last_name": "Berg"})
        world.rename_customer(customers[2], "another-name")
        world.create_customer({"type": "customer", "customer_id": "new"})
        world.create_tag("new tag")
        gone = world.customers.uids[world.customers.live_row_of[customers[3]]]
        world.delete_customer(customers[3])
        world.delete_tag(next(iter(world.tags)))

        planned = await plan(house)
        found, tags = planned[Collection.CUSTOMERS], planned[Collection.TAGS]
        assert found.events == {
            "bridge.customer.updated.v1": 2,
            "bridge.customer.renamed.v1": 1,
            "bridge.customer.created.v1": 1,
        }
        assert (found.missing, found.missing_keys, found.held) == (1, [f"acme/{gone}"], False)
        assert (tags.events, tags.missing) == ({"bridge.tag.created.v1": 1}, 1)
        uid = world.customers.uids[world.customers.live_row_of[customers[1]]]
        sample = Sample("bridge.customer.updated.v1", f"acme/{uid}", ("/first_name", "/last_name"))
        assert sample in found.samples

        await house.live(2 * SWEEP_S)
        published = Counter(f"bridge.{name}" for name in house.types("customers")[350:])
        assert published == found.events + Counter({"bridge.customer.deleted.v1": found.missing})
        assert Counter(house.types("tags")[8:]) == {"tag.created.v1": 1, "tag.deleted.v1": 1}

    run_virtual(main)


@pytest.mark.parametrize("silent", [False, True])
def test_a_bridge_that_has_never_run_would_read_everything_for_the_first_time(silent: bool) -> None:
    async def main(clock: VirtualClock) -> None:
        house = settled(clock, customers=250)
        house.reader = replace(house.reader, silent_snapshot=silent)
        planned = (await plan(house))[Collection.CUSTOMERS]
        assert planned.events == ({} if silent else {"bridge.customer.snapshot.v1": 250})
        assert planned.stored == (250 if silent else 0)
        assert planned.read >= 250  # contacts bring rows along that come again

    run_virtual(main)


def test_a_first_reading_under_way_is_planned_to_its_end() -> None:
    async def main(clock: VirtualClock) -> None:
        house = settled(clock, customers=450, lanes=1)
        house.api.switches = house.api.switches.changed({"page_latency_ms": 1000})
        await house.live(2.5)
        done = len(house.types("customers"))
        assert 0 < done < 450
        planned = (await plan(house))[Collection.CUSTOMERS]
        assert planned.events == {"bridge.customer.snapshot.v1": 450 - done}
        assert planned.missing == 0

    run_virtual(main)


def test_a_new_essence_is_rebased_and_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    mapping = models.customer

    def mapped(row: object, endpoint: str) -> Document | Gone | Reject:
        found = mapping(row, endpoint)
        return found._replace(body={**found.body, "tier": "gold"}) if isinstance(found, Document) else found

    async def main(clock: VirtualClock) -> None:
        house = settled(clock)
        await house.live(20)
        monkeypatch.setattr(models, "customer", mapped)
        assert (await plan(house))[Collection.CUSTOMERS].events == {"bridge.customer.updated.v1": 50}
        monkeypatch.setattr(records, "ESSENCE", 2)
        planned = await plan(house)
        assert (planned[Collection.CUSTOMERS].rebased, planned[Collection.CUSTOMERS].events) == (50, {})
        assert planned[Collection.TAGS] == Planned("acme", Collection.TAGS, 8)

    run_virtual(main)


def test_rows_that_would_be_refused_are_dead_letters_and_not_missing() -> None:
    async def main(clock: VirtualClock) -> None:
        house = settled(clock)
        await house.live(20)
        feed = house.source.feeds[Collection.TAGS]
        assert isinstance(feed, WholeFeed)

        def stricter(row: Any, endpoint: str) -> Document | Gone | Reject:
            """`Any`: JSON."""
            return Reject(row["id"], endpoint, "no", b"{}") if row["id"] < "8" else models.tag(row, endpoint)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(feed, "_list", replace(feed._list, mapping=stricter))
            planned = (await plan(house))[Collection.TAGS]
        refused = sum(tag < "8" for tag in house.world.tags)
        assert (planned.refused, planned.missing, planned.events) == ({"malformed": refused}, 0, {})

    run_virtual(main)


def test_many_deletions_would_be_held() -> None:
    async def main(clock: VirtualClock) -> None:
        house = settled(clock, customers=200)
        await house.live(20)
        for name in names(house)[:60]:
            house.world.delete_customer(name)
        planned = (await plan(house, samples=2))[Collection.CUSTOMERS]
        assert (planned.missing, len(planned.missing_keys), planned.held) == (60, 2, True)

    run_virtual(main)


def test_samples_are_bounded_for_each_type() -> None:
    async def main(clock: VirtualClock) -> None:
        house = settled(clock)
        assert len((await plan(house, samples=5))[Collection.CUSTOMERS].samples) == 5
        assert (await plan(house, samples=0))[Collection.CUSTOMERS].samples == []

    run_virtual(main)


def test_a_provider_that_asks_for_patience_gets_it_and_one_that_is_down_is_told() -> None:
    async def main(clock: VirtualClock) -> None:
        house = settled(clock)
        await house.live(20)
        house.api.switches = house.api.switches.changed({"fault_500": 0.3})
        assert (await plan(house))[Collection.CUSTOMERS].read == 50
        house.api.switches = house.api.switches.changed({"fault_500": 1.0})
        with pytest.raises(EnvironmentUnavailable, match="source acme: customers cannot be read"):
            await plan(house)
        house.api.switches = house.api.switches.changed({"fault_500": 0.0, "scopes": "nothing"})
        with pytest.raises(EnvironmentUnavailable, match="403"):
            await plan(house)

    run_virtual(main)


def test_a_position_of_another_release_is_read_from_the_beginning() -> None:
    async def main(clock: VirtualClock) -> None:
        house = settled(clock)
        await house.live(20)
        key = records.cursor_key("acme", "customers")
        cursor = records.encode_json({"mode": "of another release", "@sweep": {"at": 1.0}})
        house.store.apply([(key, cursor)], house.store.position)
        assert (await plan(house))[Collection.CUSTOMERS].read == 50

    run_virtual(main)


def test_a_collection_without_a_feed_is_named() -> None:
    async def main(clock: VirtualClock) -> None:
        house = settled(clock)
        plans = {**house.reader.plans, Collection.MEMBERSHIPS: ReadingPlan(5.0)}
        house.reader = replace(house.reader, plans=plans)
        note = (await plan(house))[Collection.MEMBERSHIPS].note
        assert note is not None
        assert "not planned yet" in note

    run_virtual(main)


def test_a_reading_that_has_to_begin_again_counts_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(clock: VirtualClock) -> None:
        house = settled(clock, customers=250)
        await house.live(20)
        house.world.update_customer(names(house)[0], {"first_name": "Ada"})
        page, count = house.source.customers.page, 0

        async def breaks_once(cursor: Cursor | None, familiar: Familiar = none_familiar) -> Page:
            nonlocal count
            count += 1
            if count == 3:
                raise CursorRejected("not known any more")
            return await page(cursor, familiar)

        monkeypatch.setattr(house.source.customers, "page", breaks_once)
        assert (await plan(house))[Collection.CUSTOMERS].events == {"bridge.customer.updated.v1": 1}

    run_virtual(main)
