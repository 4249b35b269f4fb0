"""Deletions leave only with proof, and never too many of them at once without a person's word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from bridge.detect.scan import DeleteLimit
from bridge.errors import RetryLater
from bridge.model import Collection, Document, Gone, Path
from bridge.runtime.ledger import Ledger
from bridge.runtime.reading import Reading, ReadingPlan
from bridge.runtime.shard import Shard
from bridge.runtime.suspects import BURIED_S, Stage, Suspects
from bridge.source.feed import Cursor, Familiar, Page, none_familiar
from bridge.source.transport import Request, Response
from bridge.store.memory import MemoryStore
from bridge.store.record import suspect_key
from tests.runtime.shards import House
from tests.support.clock import VirtualClock, run_virtual

POLL_S = 5.0
SWEEP_S = 60.0
CUSTOMERS = 200


def house_of(clock: VirtualClock, customers: int = CUSTOMERS, sweep_s: float = 1e6, **switches: str) -> House:
    house = House(clock, customers, 8, **switches)
    plan = ReadingPlan(POLL_S, sweep_s)
    house.reader = replace(house.reader, plans=dict.fromkeys((Collection.CUSTOMERS, Collection.TAGS), plan))
    return house


@asynccontextmanager
async def life(house: House) -> AsyncIterator[Shard]:
    """One life of the shard; drained at the end."""
    shard = house.shard()
    async with asyncio.TaskGroup() as group:
        group.create_task(shard.serve())
        await asyncio.sleep(3)
        yield shard
        shard.drain()


def reading(shard: Shard) -> Reading:
    found = next(one for one in shard.readings["acme"] if one.collection is Collection.CUSTOMERS)
    assert isinstance(found, Reading)
    return found


def deleted(house: House) -> set[str]:
    """Uids that were told to be deleted; each once."""
    events = [record for record in house.kafka.events("customers") if b"deleted" in dict(record.headers)["ce_type"]]
    uids = [dict(record.headers)["ce_subject"].decode() for record in events]
    assert len(uids) == len(set(uids))
    return set(uids)


def vanish(house: House, count: int) -> set[str]:
    """So many customers are deleted at one moment; their uids."""
    customers = house.world.customers
    gone = {customers.uids[row] for row in list(customers.live_row_of.values())[:count]}
    for uid in gone:
        house.world.delete_customer(customers.customer_ids[customers.row_of[uid]])
    return gone


@pytest.mark.parametrize(
    "switches", [{}, {"tombstones_in_since": "never"}, {"tombstones": "never"}, {"deleted_read": "tombstone"}], ids=str
)
def test_a_third_of_the_customers_is_held_until_a_person_approves_and_then_exactly_those_go(
    switches: dict[str, str],
) -> None:
    async def main(clock: VirtualClock) -> None:
        house = house_of(clock, CUSTOMERS, SWEEP_S, **switches)
        async with life(house) as shard:
            gone = vanish(house, CUSTOMERS * 3 // 10)
            await asyncio.sleep(3 * SWEEP_S)
            assert deleted(house) == set()
            assert reading(shard).status.held == len(gone)
            assert set(reading(shard).status.held_uids) <= gone
            assert (
                'bridge_deletions_held{collection="customers",source="acme"} 60.0' in house.metrics.render()[1].decode()
            )
            assert reading(shard).approve() == len(gone)
            await asyncio.sleep(2 * POLL_S)
            assert deleted(house) == gone
            assert reading(shard).status.held == 0
            assert reading(shard).approve() == 0
        assert shard.caught_up["acme", Collection.CUSTOMERS] > clock.wall() - 2 * POLL_S

    run_virtual(main)


def test_approved_deletions_leave_at_once_however_seldom_is_polled() -> None:
    async def main(clock: VirtualClock) -> None:
        house = house_of(clock)
        async with life(house):
            gone = vanish(house, 100)
            await asyncio.sleep(30)
        seldom = ReadingPlan(10_000.0, 1e6)
        house.reader = replace(house.reader, plans=dict.fromkeys(house.reader.plans, seldom))
        fetch = house.source.customers.fetch

        async def slowly(known: Sequence[Document]) -> Mapping[str, Document | Gone]:
            await asyncio.sleep(20)
            return await fetch(known)

        house.source.customers.fetch = slowly  # type: ignore[method-assign]
        async with life(house) as shard:
            reading(shard).approve()
            await asyncio.sleep(60)
            assert gone <= deleted(house)

    run_virtual(main)


def test_an_approval_breaks_off_nothing_that_is_under_way() -> None:
    """Found by the simulator: a page of a sweep that had to wait for its turn was asked for again at each approval."""

    async def main(clock: VirtualClock) -> None:
        house = house_of(clock, sweep_s=30.0)
        send, broken_off = house.api.send, 0

        async def slowly(request: Request) -> Response:
            nonlocal broken_off
            if "since_datetime" not in dict(request.query) and request.path.endswith("/users"):
                try:
                    await asyncio.sleep(50)
                except asyncio.CancelledError:
                    broken_off += 1
                    raise
            return await send(request)

        async with life(house) as shard:
            house.api.send = slowly  # type: ignore[method-assign]
            for _ in range(30):
                await asyncio.sleep(20)
                reading(shard).approve()
            assert broken_off == 0

    run_virtual(main)


def test_what_is_held_blocks_the_watermark_and_nothing_else() -> None:
    async def main(clock: VirtualClock) -> None:
        house = house_of(clock)
        async with life(house) as shard:
            vanish(house, 100)
            await asyncio.sleep(30)
            before = shard.caught_up["acme", Collection.CUSTOMERS]
            house.world.update_customer(next(iter(house.world.customers.live_row_of)), {"first_name": "Åse"})
            await asyncio.sleep(30)
            assert house.types("customers")[CUSTOMERS:] == ["customer.updated.v1"]
            assert shard.caught_up["acme", Collection.CUSTOMERS] == before

    run_virtual(main)


def test_held_deletions_survive_the_process_and_a_later_one_is_held_with_them() -> None:
    async def main(clock: VirtualClock) -> None:
        house = house_of(clock)
        async with life(house):
            gone = vanish(house, 100)
            await asyncio.sleep(30)
        async with life(house) as shard:
            assert reading(shard).status.held == 100
            gone |= vanish(house, 1)
            await asyncio.sleep(30)
            assert deleted(house) == set()
            assert reading(shard).status.held == 101
            reading(shard).approve()
        async with life(house):  # approved, and the process ends before they were read once more
            await asyncio.sleep(2 * POLL_S)
            assert deleted(house) == gone

    run_virtual(main)


def test_a_reading_that_dies_between_two_pages_forgets_no_sign() -> None:
    """The tombstones of the first pages are not shown by the polls that follow."""

    async def main(clock: VirtualClock) -> None:
        house = house_of(clock, page_latency_ms="500")
        async with life(house):
            await asyncio.sleep(10)
        gone = vanish(house, 20)
        for customer_id in list(house.world.customers.live_row_of)[:120]:
            await asyncio.sleep(0.1)
            house.world.update_customer(customer_id, {"first_name": "Åse"})
        absorb = house.kafka.published
        shard = house.shard()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(shard.serve())
            await asyncio.sleep(1.2)
            assert house.kafka.published > absorb  # a page is committed, and the next one is under way
            task.cancel()
        assert deleted(house) == set()
        async with life(house):
            await asyncio.sleep(60)
        assert deleted(house) == gone

    run_virtual(main)


def test_an_empty_list_once_lets_nothing_go_and_the_next_sweep_forgets_it() -> None:
    """Held, because all lookups say the same; then the provider is itself again."""

    async def main(clock: VirtualClock) -> None:
        house = house_of(clock, sweep_s=SWEEP_S)
        async with life(house) as shard:
            await asyncio.sleep(SWEEP_S - POLL_S)
            fetch = house.source.customers.fetch

            async def all_gone(known: Sequence[Document]) -> dict[str, Document | Gone]:
                return {document.uid: Gone(document.uid, 0) for document in known}

            house.source.customers.fetch = all_gone  # type: ignore[method-assign]
            house.api.switches = house.api.switches.changed({"empty_page": 1.0})
            await asyncio.sleep(SWEEP_S)
            assert reading(shard).status.held == CUSTOMERS
            house.api.switches = house.api.switches.changed({"empty_page": 0.0})
            house.source.customers.fetch = fetch  # type: ignore[method-assign]
            await asyncio.sleep(2 * SWEEP_S)
            assert reading(shard).status.held == 0
            assert deleted(house) == set()
        assert shard.caught_up["acme", Collection.CUSTOMERS] > clock.wall() - 2 * POLL_S

    run_virtual(main)


def test_a_list_that_lacks_what_is_there_holds_and_deletes_nothing() -> None:
    """A list in another order at each request: a sweep misses a third of it."""

    async def main(clock: VirtualClock) -> None:
        house = house_of(clock, sweep_s=SWEEP_S, list_order="shuffled")
        async with life(house) as shard:
            await asyncio.sleep(5 * SWEEP_S)
            assert deleted(house) == set()
            assert reading(shard).status.held == 0
        assert shard.caught_up["acme", Collection.CUSTOMERS] > clock.wall() - 2 * POLL_S

    run_virtual(main)


def test_an_absence_is_found_by_the_next_sweep_and_confirmed() -> None:
    async def main(clock: VirtualClock) -> None:
        house = house_of(clock, sweep_s=SWEEP_S, tombstones="never")
        async with life(house):
            gone = vanish(house, 3)
            await asyncio.sleep(SWEEP_S / 2)
            assert deleted(house) == set()
            await asyncio.sleep(SWEEP_S)
            assert deleted(house) == gone
        assert [kind for kind in house.types("customers") if "deleted" in kind] == ["customer.deleted.v1"] * 3

    run_virtual(main)


def test_a_sweep_that_this_life_has_not_read_from_its_beginning_says_nothing_about_absence() -> None:
    async def main(clock: VirtualClock) -> None:
        house = house_of(clock, sweep_s=SWEEP_S, tombstones="never", page_latency_ms="1000")
        async with life(house) as shard:
            await asyncio.sleep(SWEEP_S + 5)
            assert reading(shard).status.mode == Path.SWEEP
            gone = vanish(house, 3)
        async with life(house):
            await asyncio.sleep(SWEEP_S / 2)
            assert deleted(house) == set()
            await asyncio.sleep(2 * SWEEP_S)
        assert deleted(house) == gone

    run_virtual(main)


def test_a_provider_that_cannot_confirm_delays_deletions_and_nothing_else() -> None:
    async def main(clock: VirtualClock) -> None:
        house = house_of(clock)
        async with life(house) as shard:
            fetch = house.source.customers.fetch

            async def failing(_: object) -> dict[str, None]:
                raise RetryLater("not now")

            house.source.customers.fetch = failing  # type: ignore[assignment,method-assign]
            gone = vanish(house, 2)
            await asyncio.sleep(30)
            assert deleted(house) == set()
            house.world.update_customer(next(iter(house.world.customers.live_row_of)), {"first_name": "Åse"})
            await asyncio.sleep(2 * POLL_S)
            assert house.types("customers")[CUSTOMERS:] == ["customer.updated.v1"]
            house.source.customers.fetch = fetch  # type: ignore[method-assign]
            await asyncio.sleep(120)
            assert deleted(house) == gone
        assert shard.caught_up["acme", Collection.CUSTOMERS] > clock.wall() - 2 * POLL_S

    run_virtual(main)


def test_one_that_nobody_can_look_up_holds_up_no_other() -> None:
    async def main(clock: VirtualClock) -> None:
        house = house_of(clock)
        async with life(house):
            gone = vanish(house, 5)
            odd = min(gone)
            fetch = house.source.customers.fetch

            async def refusing(known: Sequence[Document]) -> dict[str, Document | Gone]:
                others = [document for document in known if document.uid != odd]
                if not others:
                    raise RetryLater("not this one")
                return dict(await fetch(others))

            house.source.customers.fetch = refusing  # type: ignore[method-assign]
            await asyncio.sleep(60)
            assert deleted(house) == gone - {odd}
            house.source.customers.fetch = fetch  # type: ignore[method-assign]
            await asyncio.sleep(120)
            assert deleted(house) == gone

    run_virtual(main)


@pytest.mark.parametrize("lives", [1, 2])
def test_a_list_that_lags_behind_single_reads_brings_nobody_back(lives: int) -> None:
    """Found by the simulator: the tombstone was read, then a poll showed the customer as it was before."""

    async def main(clock: VirtualClock) -> None:
        house = house_of(clock, sweep_s=SWEEP_S, tombstones="never", deleted_read="tombstone")
        page = house.source.customers.page
        gone: set[str] = set()
        late: list[Document] = []

        async def lagging(cursor: Cursor | None, familiar: Familiar = none_familiar) -> Page:
            shown = await page(cursor, familiar)
            return replace(shown, documents=[*shown.documents, *late]) if shown.path is Path.POLL else shown

        house.source.customers.page = lagging  # type: ignore[method-assign]
        for _ in range(lives):
            async with life(house):
                if not gone:
                    gone |= vanish(house, 5)
                    await asyncio.sleep(2 * SWEEP_S)
                late = [Document(uid, {"uid": uid, "customer_id": uid}, 1) for uid in gone]
                await asyncio.sleep(5 * POLL_S)
        assert deleted(house) == gone
        created = [dict(record.headers) for record in house.kafka.events("customers")]
        subjects = [headers["ce_subject"].decode() for headers in created if b"created" in headers["ce_type"]]
        assert not gone & set(subjects)

    run_virtual(main)


# The stages, alone.


def suspects(limit: DeleteLimit | None = None) -> tuple[Suspects, Ledger]:
    ledger = Ledger(MemoryStore())
    return Suspects("acme", Collection.CUSTOMERS, ledger, limit or DeleteLimit(0.05, 2)), ledger


def test_a_copy_from_before_the_tombstone_is_no_sign_of_life() -> None:
    found, _ = suspects()
    found.note("1", Path.POLL, 50, absent=False, now=1.0)
    found.seen("1", 50)
    assert found.any
    found.seen("1", 51)
    assert not found.any


def test_who_is_buried_is_not_brought_back_by_an_old_copy_for_a_while() -> None:
    found, ledger = suspects()
    found.note("1", Path.SWEEP, 0, absent=True, now=1.0)
    found.forget("1")
    found.bury(Gone("1", 50), Path.SWEEP, now=2.0)
    assert not found.any
    again = Suspects("acme", Collection.CUSTOMERS, ledger, DeleteLimit())
    copies = [Document("1", {}, 50), Document("1", {}, 51), Document("2", {}, 1)]
    assert [again.older_than_tombstone([copy]) for copy in copies] == [{"1"}, set(), set()]
    assert not again.any
    again.decide(Path.POLL, 10, 2.0 + BURIED_S)
    assert again.older_than_tombstone(copies) == {"1"}
    again.decide(Path.POLL, 10, 2.1 + BURIED_S)
    assert again.older_than_tombstone(copies) == set()
    assert not [*ledger.keys(suspect_key("acme", Collection.CUSTOMERS, ""))]


def test_each_reading_decides_about_its_own() -> None:
    found, _ = suspects()
    found.note("swept", Path.SWEEP, 0, absent=True, now=1.0)
    found.note("polled", Path.POLL, 7, absent=False, now=1.0)
    found.decide(Path.POLL, 10, 1.0)
    assert [*found.free(9)] == ["polled"]
    found.decide(Path.SWEEP, 10, 1.0)
    assert sorted(found.free(9)) == ["polled", "swept"]


def test_a_tombstone_says_more_than_an_absence_and_both_are_kept_as_state() -> None:
    found, ledger = suspects()
    for uid in "123":
        found.note(uid, Path.SWEEP, 0, absent=True, now=1.0)
    found.note("1", Path.SWEEP, 9, absent=False, now=2.0)
    assert found.decide(Path.SWEEP, 10, 1.0) == 3
    again = Suspects("acme", Collection.CUSTOMERS, ledger, DeleteLimit())
    assert again.held == 3
    assert again.held_uids(2) == ["1", "2"]
    assert again.approve() == 3
    assert {uid: (suspect.at, suspect.absent, suspect.since) for uid, suspect in again.free(9).items()} == {
        "1": (9, False, 1.0),
        "2": (0, True, 1.0),
        "3": (0, True, 1.0),
    }
    assert {suspect.stage for suspect in again.free(9).values()} == {Stage.FREE}
    again.forget("123")
    assert not Suspects("acme", Collection.CUSTOMERS, ledger, DeleteLimit()).any
