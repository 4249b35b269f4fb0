"""Memberships while everything else moves too: tags and customers that go, swap names, come late; lives that end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

import orjson
import pytest

from bridge.errors import PublishFailed, RetryLater
from bridge.model import Collection, Document, Gone
from bridge.runtime.memberships.bulletin import Bulletin
from bridge.runtime.shard import Shard
from bridge.source.transport import Request, Response
from tests.runtime.members import Club
from tests.support.clock import VirtualClock, run_virtual


def members(club: Club, tag: str) -> list[str]:
    """customer_ids of those who have the tag."""
    customers = club.world.customers
    return [customers.customer_ids[row] for row in customers.members[tag]]


def largest(club: Club) -> str:
    return max(club.world.customers.members, key=lambda tag: len(club.world.customers.members[tag]))


def give(club: Club, tag: str, customer_ids: list[str]) -> None:
    for customer_id in customer_ids:
        row = club.world.customers.live_row_of[customer_id]
        club.world.set_customer_tags(customer_id, {*club.world.customers.tags[row], tag})


def take(club: Club, tag: str, customer_ids: list[str]) -> None:
    for customer_id in customer_ids:
        row = club.world.customers.live_row_of[customer_id]
        club.world.set_customer_tags(customer_id, [t for t in club.world.customers.tags[row] if t != tag])


def test_a_deleted_tag_leaves_its_members_before_it_goes() -> None:
    async def main(clock: VirtualClock) -> None:
        club = Club(clock, 300, 4)
        await club.live(40)
        tag = largest(club)
        had = {edge for edge in club.true if edge[0] == tag}
        name = club.world.tags[tag]["tag"]
        count = len(club.told)
        await club.tell(40, (3, lambda: club.world.delete_tag(tag)))
        club.check()
        told = club.told[count:]
        assert {event.edge for event in told} == had
        assert len(told) == len(had)
        lost = [data for data in map(body, club.kafka.events("customers")) if data.get("tag", {}).get("uid") == tag]
        assert {data["tag"]["name"] for data in lost} == {name}
        (gone,) = [data for data in map(body, club.kafka.events("tags")) if data["key"] == f"acme/{tag}"][1:]
        assert max(data["sequence"] for data in lost) < gone["sequence"]

    run_virtual(main)


def body(record: Any) -> Any:
    """`Any`: a record, and its JSON."""
    return orjson.loads(record.value or b"")


@pytest.mark.parametrize("at", [0.5, 1.0, 2.0, 3.5, 5.0, 6.5])
def test_a_tag_that_is_deleted_while_it_is_read_gets_no_member_afterwards(at: float) -> None:
    async def main(clock: VirtualClock) -> None:
        club = Club(clock, 400, 3, rate=4.0, switches={"latency_ms": "300"})
        await club.live(90)
        tag = club.world.create_tag("short-lived")["id"]
        ids = list(club.world.customers.live_row_of)[:350]

        def bulk() -> None:
            give(club, tag, ids)

        await club.tell(60, (0.1, bulk), (5.0 + at, lambda: club.world.delete_tag(tag)))
        club.check()
        assert all(edge[0] != tag for edge in club.stored)
        told = [event.verb for event in club.told if event.edge[0] == tag]
        assert told.count("tagged") == told.count("untagged")

    run_virtual(main)


@pytest.mark.parametrize("tombstones", ["by_deleted_at", "never"])
def test_customers_that_are_deleted_take_their_tags_with_them_unsaid(tombstones: str) -> None:
    async def main(clock: VirtualClock) -> None:
        club = Club(clock, 300, 4, sweep_s=100.0, switches={"tombstones_in_since": tombstones})
        await club.live(40)
        tag = largest(club)
        chosen = members(club, tag)[:25]

        def delete() -> None:
            for customer_id in chosen:
                club.world.delete_customer(customer_id)

        await club.tell(900, (2, delete))
        club.check()
        assert [event for event in club.told if event.verb == "untagged"] == []
        assert club.verbs()["customer.deleted"] == 25

    run_virtual(main)


def test_customers_whose_deletion_is_held_keep_their_tags() -> None:
    async def main(clock: VirtualClock) -> None:
        club = Club(clock, 300, 4, sweep_s=100.0, switches={"tombstones_in_since": "never"})
        await club.live(40)
        await club.tell(500, (2, lambda: club.world.mass_delete(0.3)))
        assert [event for event in club.told if event.verb == "untagged"] == []

    run_virtual(main)


def test_deletions_that_take_their_time_to_be_confirmed_do_not_put_a_tag_off() -> None:
    """A member that is gone for the provider and not yet for us cannot be asked; that is no fault of the tag."""

    async def main(clock: VirtualClock) -> None:
        club = Club(clock, 300, 4, sweep_s=100.0)
        await club.live(40)
        tag, fetch, deleted_at = largest(club), club.source.customers.fetch, clock.monotonic() + 2.0

        async def slowly(known: Sequence[Document]) -> Mapping[str, Document | Gone]:
            if clock.monotonic() < deleted_at + 200.0:
                raise RetryLater("not yet")
            return await fetch(known)

        club.source.customers.fetch = slowly  # type: ignore[method-assign]
        shard = await club.tell(700, (2, lambda: club.world.delete_customer(members(club, tag)[0])))
        club.check()
        assert clock.wall() - shard.caught_up["acme", Collection.MEMBERSHIPS] < 150.0

    run_virtual(main)


@pytest.mark.parametrize("hinted", [True, False], ids=["hinted", "with every hint lost"])
def test_a_customer_that_nobody_knows_yet_is_created_before_it_is_tagged(
    monkeypatch: pytest.MonkeyPatch, hinted: bool
) -> None:
    if not hinted:
        monkeypatch.setattr(Bulletin, "hint", lambda self, uids: None)

    async def main(clock: VirtualClock) -> None:
        club = Club(clock, 100, 3, poll_s=0.5)
        await club.live(40)
        tag = largest(club)
        count = len(club.told)

        def come() -> None:
            made = [club.world.create_customer({"first_name": f"n{n}"})["customer_id"] for n in range(30)]
            give(club, tag, made)

        await club.tell(60, (5.6, come))
        club.check()
        assert [event.verb for event in club.told[count:]] == ["tagged"] * 30

    run_virtual(main)


def test_customers_that_swap_their_names_never_swap_their_tags() -> None:
    async def main(clock: VirtualClock) -> None:
        club = Club(clock, 60, 4, poll_s=1.0, sweep_s=30.0, switches={"latency_ms": "150"})
        await club.live(60)
        world = club.world
        ids = list(world.customers.live_row_of)
        chance = Random(3)
        before, count = club.true, len(club.told)

        def swap() -> None:
            one, other = chance.sample(ids, 2)
            world.rename_customer(one, "in-between")
            world.rename_customer(other, one)
            world.rename_customer("in-between", other)

        await club.tell(200, *[(n * 0.7, swap) for n in range(100)])
        club.check()
        assert club.true == before
        assert club.told[count:] == []

    run_virtual(main)


def test_as_many_coming_as_going_is_found_although_the_count_stays() -> None:
    async def main(clock: VirtualClock) -> None:
        club = Club(clock, 120, 3, sweep_s=120.0)
        await club.live(40)
        tag = largest(club)
        inside = members(club, tag)[:7]
        outside = [name for name in club.world.customers.live_row_of if name not in members(club, tag)][:7]

        def trade() -> None:
            take(club, tag, inside)
            give(club, tag, outside)

        await club.tell(240, (1, trade))
        club.check()

    run_virtual(main)


@pytest.mark.parametrize("bumps", ["false", "true"])
def test_a_bulk_job_gives_exactly_its_edges_and_asks_few_customers(bumps: str) -> None:
    """With `bumps` every customer of the job has a new change time, so many of them are asked because of that."""

    async def main(clock: VirtualClock) -> None:
        club = Club(clock, 1000, 2, switches={"tag_bumps_updated_at": bumps})
        await club.live(60)
        tag = club.world.create_tag("campaign")["id"]
        ids = list(club.world.customers.live_row_of)
        await club.tell(60, (1, lambda: give(club, tag, ids)))
        assert club.stored == club.true
        assert [event.edge[0] for event in club.told].count(tag) == 1000
        count = len(club.told)
        asked = club.api.statistics().requests.get("customer_tags 200", 0)
        await club.tell(150, (1, lambda: take(club, tag, ids[100:])))
        club.check()
        assert [event.verb for event in club.told[count:]] == ["untagged"] * 900
        assert club.verbs()["customer.updated"] == 0
        assert bumps == "true" or club.api.statistics().requests.get("customer_tags 200", 0) - asked < 50

    run_virtual(main)


def test_a_list_that_does_not_show_its_members_is_not_believed() -> None:
    async def main(clock: VirtualClock) -> None:
        club = Club(clock, 600, 2)
        await club.live(60)
        tag = largest(club)
        give(club, tag, list(club.world.customers.live_row_of))
        await club.live(60)
        lie(club, tag, lambda uid: uid < "8")
        count = len(club.told)
        await club.live(300)
        assert club.told[count:] == []
        assert club.stored == club.true

    run_virtual(main)


def lie(club: Club, tag: str, shown: Callable[[str], bool]) -> None:
    """From now on the list of the tag, and its count, lack some of its members."""
    honest = club.api.send

    async def send(request: Request) -> Response:
        query = dict(request.query)
        if query.get("tag_id") != tag:
            return await honest(request)
        customers = club.world.customers
        rows = [row for row in customers.members[tag] if shown(customers.uids[row])]
        rows = [row for row in rows if (customers.kinds[row] == 2) is (query.get("type") == "contact")]
        at = 1 + rows.index(customers.row_of[query["starting_after"]]) if "starting_after" in query else 0
        page = rows[at : at + int(query["limit"])]
        text = b"[" + b",".join(customers.bodies[row] for row in page) + b"]"
        return Response(200, {"content-type": "application/json", "total-count": str(len(rows))}, text)

    club.api.send = send  # type: ignore[method-assign]


def test_an_empty_page_by_mistake_takes_nobodys_tag() -> None:
    async def main(clock: VirtualClock) -> None:
        club = Club(clock, 300, 3, sweep_s=60.0, switches={"empty_page": "0.1", "fault_on": "customers"})
        club.api.switches = club.api.switches.changed({"empty_page": 0.0})
        await club.live(40)
        club.api.switches = club.api.switches.changed({"empty_page": 0.1})
        count = len(club.told)
        await club.live(120)
        assert club.told[count:] == []

    run_virtual(main)


@pytest.mark.parametrize("seed", range(4))
def test_lives_that_end_in_the_middle_lose_and_repeat_nothing(seed: int) -> None:
    async def main(clock: VirtualClock) -> None:
        chance = Random(seed)
        club = Club(clock, 200, 4, sweep_s=60.0)
        club.kafka.fail = lambda number: PublishFailed() if chance.random() < 0.3 else None
        turn = Turn(club, chance)
        for _ in range(40):
            try:
                await club.tell(15, *[(n, turn) for n in range(1, 12, 2)])
            except* PublishFailed:
                pass
        club.kafka.fail = lambda number: None
        await club.live(400)
        club.check()

    run_virtual(main)


class Turn:
    """Something happens to customers, tags or edges, at random."""

    def __init__(self, club: Club, chance: Random) -> None:
        self._club = club
        self._chance = chance

    def __call__(self) -> None:
        world, chance = self._club.world, self._chance
        one, other = chance.sample(list(world.customers.live_row_of), 2)
        tags = list(world.tags)
        kind = chance.choice(["tag"] * 5 + ["edit", "rename", "delete", "come", "new tag", "delete tag", "swap"])
        if kind == "tag" and tags:
            world.set_customer_tags(one, chance.sample(tags, chance.randint(0, min(3, len(tags)))))
        elif kind == "edit":
            world.update_customer(one, {"first_name": str(chance.random())})
        elif kind == "rename":
            world.rename_customer(one, f"r-{chance.random()}")
        elif kind == "delete":
            world.delete_customer(one)
        elif kind == "come":
            give(self._club, chance.choice(tags), [world.create_customer({"first_name": "new"})["customer_id"]])
        elif kind == "new tag":
            give(self._club, world.create_tag(f"t-{chance.random()}")["id"], [one, other])
        elif kind == "delete tag" and len(tags) > 2:
            world.delete_tag(chance.choice(tags))
        elif kind == "swap":
            world.rename_customer(one, "in-between")
            world.rename_customer(other, one)
            world.rename_customer("in-between", other)


MIXED: list[dict[str, str]] = [
    {},
    {"list_order": "shuffled", "duplicate_rows": "0.2", "latency_ms": "200"},
    {"linked_users": "inside_limit", "late_visibility_s": "6", "tag_bumps_updated_at": "true"},
    {"list_order": "created_descending", "deleted_read": "tombstone", "fault_500": "0.1", "latency_ms": "90"},
    {"list_order": "id", "rename_bumps_updated_at": "false", "bad_row": "0.03"},
]


@pytest.mark.parametrize("seed", range(10))
def test_a_busy_world_is_told_exactly_and_never_claimed_too_early(seed: int) -> None:
    async def main(clock: VirtualClock) -> None:
        chance = Random(seed)
        switches = MIXED[seed % len(MIXED)]
        club = Club(clock, 120, 4, sweep_s=60.0, switches=switches)
        turn, history = Turn(club, chance), History(club, clock, float(switches.get("late_visibility_s", 0)))
        shard = club.shard()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(shard.serve())
            for second in range(420):
                if 30 <= second < 150:
                    turn()
                history.note()
                await clock.sleep(1.0)
                history.check(shard)
            shard.drain()
            await asyncio.wait([task])
        club.check()

    run_virtual(main)


class History:
    """Every set of edges that the world had, by the second."""

    def __init__(self, club: Club, clock: VirtualClock, late_s: float) -> None:
        self._club = club
        self._clock = clock
        self._late_s = late_s
        self._sets: list[tuple[float, frozenset[tuple[str, str]]]] = []

    def note(self) -> None:
        self._sets.append((self._clock.wall(), frozenset(self._club.true)))

    def check(self, shard: Shard) -> None:
        """Each stored edge, and each that is not, was so at some moment since what is claimed."""
        claim = shard.caught_up.get(("acme", Collection.MEMBERSHIPS))
        if claim is None:
            return
        first = next((n for n in reversed(range(len(self._sets))) if self._sets[n][0] < claim - self._late_s), 0)
        since = [edges for _, edges in self._sets[first:]]
        always, ever = frozenset.intersection(*since), frozenset.union(*since)
        stored = self._club.stored
        assert always <= stored, "an edge was claimed to be told and is not there"
        assert stored <= ever, "an edge that is gone was claimed to be told"


def test_a_refused_tag_does_not_stop_the_others() -> None:
    async def main(clock: VirtualClock) -> None:
        club = Club(clock, 100, 4)
        tag = largest(club)
        honest = club.api.send

        async def send(request: Request) -> Response:
            if dict(request.query).get("tag_id") == tag:
                return Response(400, {"content-type": "application/json"}, b"{}")
            return await honest(request)

        club.api.send = send  # type: ignore[method-assign]
        shard = await club.live(60)
        assert club.stored == {edge for edge in club.true if edge[0] != tag}
        assert ("acme", Collection.MEMBERSHIPS) not in shard.caught_up

    run_virtual(main)
