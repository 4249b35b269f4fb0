"""Sweeps beside the polls: they find what has no change time, and cost next to nothing where nothing changed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bridge.errors import CursorRejected, RetryLater
from bridge.model import Collection
from bridge.runtime.reading import ReadingPlan
from bridge.runtime.sweep import OWED_S, Sweep, joined, parted
from bridge.sandbox.world import World
from bridge.source.dintero import models
from bridge.source.feed import Cursor, Familiar, Page, none_familiar
from bridge.store.record import cursor_key, decode_json
from tests.runtime.shards import House
from tests.support.clock import VirtualClock, run_virtual

POLL_S = 5.0
SWEEP_S = 30.0


def house_with_sweeps(clock: VirtualClock, customers: int = 50, **switches: str | int) -> House:
    house = House(clock, customers, 8, **switches)
    plan = ReadingPlan(POLL_S, SWEEP_S)
    house.reader = replace(house.reader, plans=dict.fromkeys((Collection.CUSTOMERS, Collection.TAGS), plan))
    return house


def customer_ids(world: World) -> list[str]:
    return list(world.customers.live_row_of)


def stored(house: House) -> Cursor:
    key = cursor_key("acme", "customers")
    return decode_json(house.store.get_many([key])[key])


def mapped_rows(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The uids of rows that are looked into from now on."""
    found: list[str] = []
    mapping = models.customer

    def noted(row: object, endpoint: str) -> object:
        found.append(row["id"] if isinstance(row, dict) else "")
        return mapping(row, endpoint)

    monkeypatch.setattr(models, "customer", noted)
    return found


def test_a_change_without_a_change_time_is_found_by_the_next_sweep() -> None:
    async def main(clock: VirtualClock) -> None:
        house = house_with_sweeps(clock, rename_bumps_updated_at="false")
        await house.live(3)
        house.world.rename_customer(customer_ids(house.world)[7], "another-name")
        await house.live(SWEEP_S / 2)
        assert house.types("customers")[50:] == []
        await house.live(SWEEP_S)
        assert house.types("customers")[50:] == ["customer.renamed.v1"]

    run_virtual(main)


def test_a_rename_without_a_change_time_is_found_of_who_can_be_asked_for_by_nothing_else() -> None:
    """Found by the simulator, in the first minute of a life: then every row is doubted that a list may show late.

    Nobody has the old name, and there is no e-mail or phone number to ask by; the row's own name was not asked for.
    """

    async def main(clock: VirtualClock) -> None:
        house = house_with_sweeps(clock, rename_bumps_updated_at="false")
        house.world.create_customer({"customer_id": "nameless"})
        await house.live(3)
        house.world.rename_customer("nameless", "another-name")
        await house.live(SWEEP_S * 1.5)
        assert house.types("customers")[51:] == ["customer.renamed.v1"]

    run_virtual(main)


def test_sweeps_repeat_and_polls_keep_their_position() -> None:
    async def main(clock: VirtualClock) -> None:
        house = house_with_sweeps(clock)
        await house.live(3)
        position = {name: value for name, value in stored(house).items() if name != "@sweep"}
        began = stored(house)["@sweep"]["at"]
        await house.live(SWEEP_S + 2 * POLL_S)
        assert stored(house)["@sweep"]["at"] >= began + SWEEP_S
        assert "cursor" not in stored(house)["@sweep"]
        assert stored(house)["position"] == position["position"]
        assert house.types("customers")[50:] == []

    run_virtual(main)


def test_polls_go_on_while_a_long_sweep_is_under_way() -> None:
    async def main(clock: VirtualClock) -> None:
        house = house_with_sweeps(clock, customers=3000)
        await house.live(10)
        house.api.switches = house.api.switches.changed({"page_latency_ms": 1500})
        await house.live(SWEEP_S)  # a sweep of thirty pages has begun and takes 45 s
        assert "cursor" in stored(house)["@sweep"]
        house.world.update_customer(customer_ids(house.world)[5], {"first_name": "Ada"})
        await house.live(2 * POLL_S)
        assert house.types("customers")[3000:] == ["customer.updated.v1"]
        assert "cursor" in stored(house)["@sweep"]  # and no life of the shard has begun it anew

    run_virtual(main)


def test_a_sweep_that_fails_does_not_hold_up_the_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(clock: VirtualClock) -> None:
        house = house_with_sweeps(clock)
        await house.live(3)
        feed = house.source.customers
        page = feed.page

        async def no_sweeps(cursor: Cursor | None, familiar: Familiar = none_familiar) -> Page:
            if cursor is not None and cursor["mode"] == "sweep":
                raise RetryLater("no sweeps today", delay_s=3600.0)
            return await page(cursor, familiar)

        monkeypatch.setattr(feed, "page", no_sweeps)
        await house.live(SWEEP_S)
        house.world.update_customer(customer_ids(house.world)[5], {"first_name": "Ada"})
        await house.live(2 * POLL_S)
        assert house.types("customers")[50:] == ["customer.updated.v1"]

    run_virtual(main)


def test_rows_that_changed_nothing_are_not_looked_into_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(clock: VirtualClock) -> None:
        house = house_with_sweeps(clock)
        await house.live(SWEEP_S * 1.5)  # the first sweep learns what the rows look like
        looked_into = mapped_rows(monkeypatch)
        await house.live(SWEEP_S * 1.5)
        assert looked_into == []
        changed = house.world.update_customer(customer_ids(house.world)[3], {"last_name": "Lovelace"})
        await house.live(SWEEP_S * 1.5)
        assert set(looked_into) == {changed["id"]}
        assert house.types("customers")[50:] == ["customer.updated.v1"]

    run_virtual(main)


def test_a_row_that_returns_to_an_earlier_state_is_a_change() -> None:
    async def main(clock: VirtualClock) -> None:
        house = house_with_sweeps(clock, rename_bumps_updated_at="false")
        await house.live(SWEEP_S * 1.5)
        name = customer_ids(house.world)[3]
        for before, after in ((name, "for-a-while"), ("for-a-while", name)):
            house.world.rename_customer(before, after)
            await house.live(SWEEP_S * 1.5)
        assert house.types("customers")[50:] == ["customer.renamed.v1"] * 2

    run_virtual(main)


def test_a_lost_store_forgets_what_it_recognised() -> None:
    async def main(clock: VirtualClock) -> None:
        house = house_with_sweeps(clock)
        await house.live(SWEEP_S * 1.5)
        keys = [f"acme/customers/{uid}" for uid in house.world.customers.uids]
        assert len(house.store.fingerprints(keys)) == 50
        house.store.apply(house.store.get_many(keys).items(), house.store.position)  # as a restore does
        assert house.store.fingerprints(keys) == {}
        await house.live(SWEEP_S * 1.5)
        assert len(house.store.fingerprints(keys)) == 50
        assert house.types("customers")[50:] == []

    run_virtual(main)


def test_the_position_of_a_sweep_is_kept_beside_the_feeds_own() -> None:
    cursor: Cursor = {"mode": "poll", "position": 5}
    for sweep in (None, Sweep(3.0), Sweep(3.0, {"mode": "sweep"}), Sweep(3.0, owed=True)):
        assert parted(joined(cursor, sweep)) == (cursor, sweep)
    assert parted(None) == (None, None)
    assert not Sweep(3.0).due(10.0, 12.9)
    assert Sweep(3.0).due(10.0, 13.0)
    assert Sweep(3.0, {"mode": "sweep"}).due(10.0, 4.0)


@pytest.mark.parametrize("first_reading", [True, False])
def test_a_feed_that_lost_its_position_claims_nothing_before_a_sweep_is_over(
    monkeypatch: pytest.MonkeyPatch, first_reading: bool
) -> None:
    """What it reads anew does not show who was told before and has left since; nor do the polls behind it."""

    async def main(clock: VirtualClock) -> None:
        house = house_with_sweeps(clock, customers=1000, lanes=1, latency_ms="1000")
        feed = house.source.feeds[Collection.CUSTOMERS]
        page, caught_up = feed.page, house.metrics.caught_up
        gone: list[float] = []
        told: list[float] = []
        wrong: list[float] = []

        async def forgetful(cursor: Cursor | None, familiar: Familiar = none_familiar) -> Page:
            if not gone and clock.wall() > began + (5 if first_reading else 60):
                gone.append(clock.wall())
                house.world.delete_customer(customer_ids(house.world)[3])
                clock.step(3600)  # polls reach back a little, and that must not be what finds it
                house.world.update_customer(customer_ids(house.world)[5], {"first_name": "Ada"})
                raise CursorRejected("who are you")
            return await page(cursor, familiar)

        def note(source: str, collection: Collection, until: float) -> None:
            caught_up(source, collection, until)
            if collection is Collection.CUSTOMERS:
                told.append(until)
                if gone and until > gone[0] and "customer.deleted.v1" not in house.types("customers"):
                    wrong.append(until)

        began = clock.wall()
        monkeypatch.setattr(feed, "page", forgetful)
        house.metrics.caught_up = note  # type: ignore[assignment,method-assign]
        await house.live(40 if first_reading else 150)
        assert gone
        await house.live(60)
        assert house.types("customers").count("customer.snapshot.v1") == 1000
        assert house.types("customers").count("customer.deleted.v1") == 1
        assert wrong == []
        assert "owed" not in stored(house)["@sweep"]
        assert told[-1] > clock.wall() - 2 * POLL_S, "claims go on"

    run_virtual(main)


def test_a_sweep_that_is_owed_and_was_in_vain_comes_again_soon() -> None:
    """Found by the simulator: a process ended amid it, so it did not say who is absent; the next was hours away."""
    for sweep, due_s in ((Sweep(1000.0), 21_600.0), (Sweep(1000.0, owed=True), OWED_S)):
        assert not sweep.due(21_600.0, 1000.0 + due_s - 1)
        assert sweep.due(21_600.0, 1000.0 + due_s)
    assert Sweep(1000.0, owed=True).due(60.0, 1060.0)
