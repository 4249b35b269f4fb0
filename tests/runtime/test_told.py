"""Customers who say which tags they have, from the provider to committed events: edges, merges, watermarks.

The whole shard runs in virtual time over an organization in memory.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.model import Cause, Collection, Document, Merged, Path
from bridge.runtime import told
from bridge.runtime.ledger import Ledger
from bridge.runtime.memberships.bulletin import Bulletin
from bridge.runtime.memberships.told import ToldMemberships
from bridge.runtime.parking import Parking
from bridge.runtime.planning import plan_source
from bridge.runtime.reading import ReadingPlan
from bridge.runtime.step import SourceStep, StepLimits
from bridge.runtime.told import ToldTags
from bridge.source.rebilly.boxes import SECOND
from bridge.store.memory import MemoryStore
from tests.runtime.lives import Lives, folded
from tests.runtime.posting import Post, living
from tests.runtime.shards import TOPICS
from tests.source.providing import answer
from tests.source.rebilly.organization import CUSTOMERS, START, TAGS, Organization, Ways
from tests.support.clock import VirtualClock, run_virtual

GLANCE_S = 30.0
MEMBERSHIPS = Collection.MEMBERSHIPS


class Home(Lives):
    """An organization, and what the bridge makes of it."""

    def __init__(self, clock: VirtualClock, *, glance_s: float = GLANCE_S, **settings: Any) -> None:
        """`Any`: see `Lives` and `Ways`."""
        ways = {name: settings.pop(name) for name in list(settings) if name in Ways.__dataclass_fields__}
        self.organization = Organization(clock, Ways(**ways))
        super().__init__(clock, self.organization.source(), glance_s=glance_s, **settings)

    def truth(self) -> set[tuple[str, str]]:
        return {
            (uid, tag)
            for uid, row in self.organization.customers.items()
            for tag in row["tags"]
            if tag in self.organization.tags
        }


Case = Callable[[Home], Awaitable[None]]


def play(case: Case, customers: int = 8, **ways: Any) -> None:
    """With two tags, and customers of whom none has one; everything was read. `Any`: see `Home`."""

    async def main(clock: VirtualClock) -> None:
        home = Home(clock, **ways)
        for uid in ("tag_1", "tag_2"):
            home.organization.add_tag(uid, f"name {uid}", at=START - 5000 * SECOND)
        for number in range(customers):
            home.organization.create(
                f"cus_{number}", START - (9000 - 60 * number) * SECOND, email=f"{number}@example.com", firstName="Ada"
            )
        await home.live(20)
        assert Counter(event.verb for event in home.news()) == {"snapshot": customers + 2}
        await case(home)

    run_virtual(main)


# One event per edge.


def test_what_a_first_reading_finds_is_told_as_a_customer_and_then_its_edges() -> None:
    async def main(clock: VirtualClock) -> None:
        home = Home(clock)
        home.organization.add_tag("tag_1", "VIP", at=START - SECOND)
        home.organization.create("cus_1", START - SECOND, tags=["tag_1"])
        await home.live(20)
        events = home.news("customers")
        assert [(event.verb, event.path, event.tag) for event in events] == [
            ("snapshot", "snapshot", None),
            ("tagged", "snapshot", "VIP"),
        ]
        assert "tags" not in events[0].data["after"]
        assert events[1].data["after"]["tags"] == ["tag_1"]
        assert home.edges() == home.truth()

    run_virtual(main)


def test_a_silent_first_reading_tells_no_edges_either() -> None:
    async def main(clock: VirtualClock) -> None:
        home = Home(clock, silent=True)
        home.organization.add_tag("tag_1", "VIP", at=START - SECOND)
        home.organization.create("cus_1", START - SECOND, tags=["tag_1"])
        await home.live(20)
        assert home.news() == []
        assert home.edges() == home.truth() != set()

    run_virtual(main)


def test_a_change_with_new_tags_is_one_update_and_one_event_per_edge() -> None:
    async def case(home: Home) -> None:
        home.organization.edit("cus_1", firstName="Augusta", tags=["tag_2", "tag_1"])
        await home.live(7)
        events = home.news()
        assert [(event.verb, event.uid, event.path, event.tag) for event in events] == [
            ("updated", "cus_1", "poll", None),
            ("tagged", "cus_1", "poll", "name tag_1"),
            ("tagged", "cus_1", "poll", "name tag_2"),
        ]
        assert [event.data["changed"] for event in events] == [["/first_name"], ["/tags"], ["/tags"]]
        home.organization.edit("cus_1", tags=["tag_2"])
        await home.live(7)
        assert [(event.verb, event.tag) for event in home.news()] == [("untagged", "name tag_1")]
        home.organization.edit("cus_1", paymentCount=5)
        await home.live(60)
        assert home.news() == []

    play(case)


@pytest.mark.parametrize("moves", [True, False])
def test_tagging_that_moves_no_change_time_is_found_by_a_glance(moves: bool) -> None:
    async def case(home: Home) -> None:
        home.organization.tag("cus_1", "tag_1", "tag_2", moves=moves)
        home.organization.tag("cus_2", "tag_1", moves=moves)
        await home.live(GLANCE_S + 10)
        assert {(event.verb, event.uid, event.path, event.tag) for event in home.news()} == {
            ("tagged", uid, "poll" if moves else "sweep", f"name {tag}")
            for uid, tag in (("cus_1", "tag_1"), ("cus_1", "tag_2"), ("cus_2", "tag_1"))
        }
        home.organization.tag("cus_1", moves=moves)
        await home.live(GLANCE_S + 10)
        assert [(event.verb, event.tag) for event in home.news()] == [
            ("untagged", "name tag_1"),
            ("untagged", "name tag_2"),
        ]

    play(case)


def test_a_renamed_tag_is_one_event_and_no_edge_moves() -> None:
    async def case(home: Home) -> None:
        home.organization.tag("cus_1", "tag_1", moves=True)
        await home.live(7)
        home.news()
        home.organization.tags["tag_1"] |= {"name": "Gold", "updatedTime": home.organization.now()}
        await home.live(GLANCE_S + 10)
        assert [(event.verb, event.uid) for event in home.news()] == [("updated", "tag_1")]

    play(case)


def test_a_deleted_tag_takes_its_edges_with_it_once_though_customers_show_it_for_a_while() -> None:
    async def case(home: Home) -> None:
        for uid in ("cus_1", "cus_2"):
            home.organization.tag(uid, "tag_1", moves=True)
        await home.live(7)
        home.news()
        del home.organization.tags["tag_1"]
        await home.live(GLANCE_S * 2 + 10)
        *edges, last = [(event.verb, event.uid) for event in home.news()]
        assert (sorted(edges), last) == ([("untagged", "cus_1"), ("untagged", "cus_2")], ("deleted", "tag_1"))
        for uid in ("cus_1", "cus_2"):
            home.organization.tag(uid, moves=True)
        await home.live(GLANCE_S + 10)
        assert home.news() == []

    play(case)


def test_a_bulk_job_that_is_half_done_is_told_as_far_as_it_is_seen() -> None:
    async def case(home: Home) -> None:
        for number in range(4):
            home.organization.tag(f"cus_{number}", "tag_1")
        await home.live(GLANCE_S + 10)
        assert {event.uid for event in home.news()} == {f"cus_{number}" for number in range(4)}
        for number in range(4, 7):  # the last one is lost
            home.organization.tag(f"cus_{number}", "tag_1")
        home.organization.tag("cus_0")
        home.organization.tag("cus_0", "tag_1")  # there and back between two looks
        await home.live(GLANCE_S + 10)
        assert [(event.verb, event.uid) for event in home.news()] == [
            ("tagged", f"cus_{number}") for number in range(4, 7)
        ]
        assert home.edges() == home.truth()

    play(case)


# Tags that are not known yet.


def test_an_edge_to_a_tag_that_is_not_known_yet_waits_for_it() -> None:
    async def case(home: Home) -> None:
        organization = home.organization
        hidden = [True]
        organization.answers.append(lambda r: answer({}, 503) if hidden and r.path == TAGS else None)
        organization.add_tag("tag_3", "Brand new")
        organization.tag("cus_1", "tag_3", "tag_1", moves=True)
        shard = asyncio.ensure_future(home.live(40))
        await home.clock.sleep(8)
        assert [(event.verb, event.tag) for event in home.news()] == [("tagged", "name tag_1")]
        organization.tag("cus_2", "tag_3", moves=True)
        organization.tag("cus_3", "tag_3", moves=True)
        await home.clock.sleep(6)
        organization.tag("cus_3", moves=True)  # thinks better of it
        await home.clock.sleep(6)
        assert home.news() == []
        hidden.clear()
        await shard
        assert [(event.verb, event.uid, event.path, event.tag) for event in home.news()] == [
            ("created", "tag_3", "poll", None),
            ("tagged", "cus_1", "poll", "Brand new"),
            ("tagged", "cus_2", "poll", "Brand new"),
        ]

    play(case, glance_s=1000.0)


def test_edges_that_were_too_many_to_wait_are_found_by_the_next_glance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told, "WAITING_MAX", 1)
    play(partial(forgotten, killed=False))


def test_edges_that_waited_when_the_process_died_are_found_by_the_next_glance() -> None:
    play(partial(forgotten, killed=True))


async def forgotten(home: Home, *, killed: bool) -> None:
    organization = home.organization
    hidden = [True]
    organization.answers.append(lambda r: answer({}, 503) if hidden and r.path == TAGS else None)
    organization.add_tag("tag_3", "Brand new")
    for uid in ("cus_1", "cus_2", "cus_3"):
        organization.tag(uid, "tag_3", moves=True)
    if killed:
        await home.live(8, killed=True)
        hidden.clear()
    life = asyncio.ensure_future(home.live(100))
    await home.clock.sleep(8)
    hidden.clear()
    await life
    assert home.edges() == home.truth()
    assert Counter(event.verb for event in home.news("customers")) == {"tagged": 3}


def test_waiting_edges_are_forgotten_when_the_customer_is() -> None:
    waiting, poll = ToldTags(), Cause(Path.POLL)
    waiting.note("cus_1", {"tag_1", "tag_2"}, poll)
    waiting.note("cus_2", {"tag_1"}, Cause(Path.SWEEP))
    waiting.forget("cus_2")
    assert waiting.tags == {"tag_1", "tag_2"}
    [(cause, moves)] = waiting.settled({"tag_1"}).items()
    assert (cause, [(move.customer, move.tag, move.joined) for move in moves]) == (
        poll,
        [("cus_1", "tag_1", True)],
    )
    assert (waiting.tags, waiting.waits("cus_1")) == ({"tag_2"}, True)
    waiting.note("cus_1", (), poll)
    assert not waiting.tags


# Which copy is newer.


def test_of_two_copies_of_one_second_the_higher_revision_counts() -> None:
    async def case(home: Home) -> None:
        organization = home.organization
        old = dict(organization.customers["cus_1"])
        organization.edit("cus_1", firstName="New")
        at = organization.customers["cus_1"]["updatedTime"]
        await home.live(7)
        assert [event.verb for event in home.news()] == ["updated"]
        new = organization.customers["cus_1"]
        organization.customers["cus_1"] = old | {"updatedTime": at, "tags": ["tag_1"]}  # a replica that is behind
        await home.live(7)
        assert home.news() == []
        organization.customers["cus_1"] = new
        organization.edit("cus_1", at=at - 60 * SECOND, firstName="Newer")  # by a clock that is behind
        await home.live(1000)  # a sweep shows it
        assert [event.data["after"]["first_name"] for event in home.news()] == ["Newer"]

    play(case)


def test_an_id_that_is_used_again_begins_to_count_anew() -> None:
    async def case(home: Home) -> None:
        for _ in range(9):
            home.organization.edit("cus_1", firstName="Nine")
        await home.live(7)
        home.news()
        del home.organization.customers["cus_1"]
        await home.clock.sleep(60)
        home.organization.create("cus_1", firstName="Reborn")
        await home.live(7)
        assert [event.data["after"]["first_name"] for event in home.news()] == ["Reborn"]
        await home.clock.sleep(60)
        home.organization.edit("cus_1", firstName="Edited")
        await home.live(7)
        assert [event.data["after"]["first_name"] for event in home.news()] == ["Edited"]

    play(case)


# Deletions that a person lets go.


def test_of_held_deletions_only_those_that_are_still_missing_go_however_often_they_are_approved() -> None:
    async def case(home: Home) -> None:
        there, post = home.organization.customers, Post(home)
        async with living(home) as shard:
            missing = {uid: there.pop(uid) for uid in list(there)[:60]}
            await asyncio.sleep(3 * GLANCE_S)
            assert home.news() == [], "held"
            back = list(missing)[:60:3]
            there.update({uid: missing[uid] for uid in back})  # no reading has shown them when it is approved
            shard.deliver([post.signal("approve", "customers"), post.signal("approve", "customers")])
            await asyncio.sleep(3)
            assert {(event.verb, event.uid) for event in home.news()} == {
                ("deleted", uid) for uid in missing if uid not in back
            }
            assert [outcome["count"] for outcome in post.outcomes] == [60, 0]
            await asyncio.sleep(3 * GLANCE_S)
            shard.deliver([post.signal("approve", "customers")])
            await asyncio.sleep(3)
        assert home.news() == []
        assert post.outcomes[-1]["count"] == 0
        assert home.bodies(Collection.CUSTOMERS).keys() == there.keys()

    play(case, customers=100)


# Merges.


@pytest.mark.parametrize("edited", ["never", "before", "after"])
@pytest.mark.parametrize("merged", ["404", "301", "survivor"])
def test_a_merge_is_one_event_with_both_ids_and_its_edges_move_once(merged: str, edited: str) -> None:
    """edited: whether somebody changes the survivor as well, and on which side of the merge."""

    async def case(home: Home) -> None:
        home.organization.tag("cus_1", "tag_1", moves=True)
        home.organization.edit("cus_2", email="1@example.com")
        await home.live(7)
        home.news()
        if edited == "before":
            home.organization.edit("cus_2", firstName="Edited")
        home.organization.merge("cus_1", "cus_2")
        if edited == "after":
            home.organization.edit("cus_2", firstName="Edited")
        await home.live(GLANCE_S + 10)
        events = home.news()
        edit = [] if edited == "never" else [("updated", "cus_2")]
        assert sorted((event.verb, event.uid) for event in events) == [("merged", "cus_1"), ("tagged", "cus_2"), *edit]
        assert all(event.data["changed"] == ["/first_name"] for event in events if event.verb == "updated")
        [event] = [event for event in events if event.verb == "merged"]
        assert (event.data["into"], event.data["after"], event.data["before"]["uid"]) == ("cus_2", None, "cus_1")
        assert home.edges() == home.truth()

    play(case, merged=merged)


def test_a_customer_that_went_nobody_knows_where_is_deleted() -> None:
    async def case(home: Home) -> None:
        home.organization.merge("cus_1", "cus_2")
        await home.live(GLANCE_S + 10)
        assert [(event.verb, event.uid, "into" in event.data) for event in home.news()] == [("deleted", "cus_1", False)]

    play(case, tells_merges=False)


def test_a_customer_whom_a_list_left_out_is_not_deleted() -> None:
    async def case(home: Home) -> None:
        left_out = home.organization.customers.pop("cus_1")
        home.organization.answers.append(lambda r: answer({"id": "cus_1"}) if r.path == f"{CUSTOMERS}/cus_1" else None)
        await home.live(GLANCE_S + 10)
        home.organization.customers["cus_1"] = left_out
        home.organization.answers.clear()
        await home.live(1000)
        assert not [event for event in home.news() if event.verb in ("deleted", "merged")]

    play(case)


# Looks at single customers.


def test_a_look_says_what_became_of_a_customer_and_leaves_it_to_a_complete_reading() -> None:
    async def case(home: Home) -> None:
        home.organization.edit("cus_2", email="1@example.com")
        async with home.living() as reading:
            home.organization.merge("cus_1", "cus_2")
            known = [Document(uid, {"uid": uid, "email": "1@example.com"}, 0) for uid in ("cus_1", "cus_3")]
            seen = await reading.look(known, Cause(Path.COMMAND, "c"))
            assert seen["cus_1"] == Merged("cus_2")
            assert isinstance(seen["cus_3"], Document)
            assert not [event for event in home.news() if event.uid == "cus_1"]
            await asyncio.sleep(GLANCE_S + 10)
        assert [(event.verb, event.path) for event in home.news() if event.uid == "cus_1"] == [("merged", "sweep")]

    play(case)


def test_a_row_that_is_older_than_a_look_tells_nothing_not_even_tags() -> None:
    async def case(home: Home) -> None:
        organization = home.organization
        async with home.living() as reading:
            organization.edit("cus_1", lastName="Byron")
            await asyncio.sleep(6)
            late = dict(organization.customers["cus_1"])
            organization.customers["cus_1"] |= {"firstName": "Augusta", "tags": ["tag_1"]}  # without any trace in it
            seen = await reading.look([Document("cus_1", {"uid": "cus_1"}, 0)], Cause(Path.COMMAND, "c"))
            assert isinstance(seen["cus_1"], Document)
            await asyncio.sleep(5)
            new, organization.customers["cus_1"] = organization.customers["cus_1"], late
            organization.answers.append(lambda request: organization.reads(request, {"cus_1": new}))
            await asyncio.sleep(5)
            organization.customers["cus_1"] = new
            organization.answers.clear()
            await asyncio.sleep(20)
        assert [(event.verb, event.path, event.data["cause"].get("ref")) for event in home.news()] == [
            ("updated", "poll", None),
            ("updated", "command", "c"),
            ("tagged", "poll", None),
        ]
        assert home.edges() == home.truth()

    play(case)


# What is claimed.


def test_memberships_are_proved_by_a_glance_and_by_the_tags_behind_it() -> None:
    async def case(home: Home) -> None:
        began = home.clock.wall()
        shard = await home.live(GLANCE_S * 3)
        claimed = shard.caught_up["acme", MEMBERSHIPS]
        assert began <= claimed <= home.clock.wall() - 5
        hidden = [True]
        home.organization.answers.append(lambda r: answer({}, 503) if hidden and r.path == TAGS else None)
        home.organization.tag("cus_1", "tag_1")
        behind = await home.live(GLANCE_S * 3)
        assert ("acme", MEMBERSHIPS) not in behind.caught_up

    play(case)


def test_glances_that_are_quicker_than_the_list_of_tags_are_proved_all_the_same() -> None:
    """By the time that the tags have been read behind the end of one, there have been others."""

    async def main(clock: VirtualClock) -> None:
        home, bulletin, ledger = Home(clock), Bulletin(), Ledger(MemoryStore())
        step = SourceStep(home.reader.builder, ledger, TOPICS, StepLimits(1_000_000), clock)
        loop = ToldMemberships("acme", step, ledger, bulletin, clock, home.metrics, Parking(), lambda: 0.0)
        claims: list[float] = []
        async with asyncio.TaskGroup() as group:
            task = group.create_task(loop.run())
            for tags in range(10, 100, 10):
                for glance in (tags - 8, tags - 4, tags - 2):
                    bulletin.glanced(glance, glance + 3)
                bulletin.proved(Collection.CUSTOMERS, tags)
                bulletin.proved(Collection.TAGS, tags)
                await asyncio.sleep(1)
                claims.append(ledger.open.caught_up.get(("acme", Collection.MEMBERSHIPS), 0.0))
            task.cancel()
        assert claims == [2, 8, 18, 28, 38, 48, 58, 68, 78]

    run_virtual(main)


def test_customers_that_do_not_say_their_tags_prove_nothing_and_lose_none() -> None:
    async def case(home: Home) -> None:
        home.organization.tag("cus_1", "tag_1", moves=True)
        await home.live(7)
        home.organization.edit("cus_2", firstName="Later")
        await home.live(60)
        home.news()
        home.organization.customers["cus_1"]["tags"] = []

        def mute(request: Any) -> Any:
            if request.path != CUSTOMERS or "fields" not in dict(request.query):
                return None
            rows = [
                {"id": uid, "createdTime": home.organization.shown(row["createdTime"])}
                for uid, row in home.organization.customers.items()
            ]
            return answer(rows, pagination_total=str(len(rows)))

        home.organization.answers.append(mute)
        shard = await home.live(GLANCE_S * 3)
        assert home.news() == []
        assert ("acme", MEMBERSHIPS) not in shard.caught_up

    play(case)


def test_paused_memberships_are_not_glanced_at_until_they_are_resumed() -> None:
    async def case(home: Home) -> None:
        def glances() -> int:
            return sum("fields" in query for query in home.organization.queries())

        shard = home.shard()
        task = asyncio.ensure_future(shard.serve())
        await home.clock.sleep(1)
        [loop] = [loop for loop in shard.readings["acme"] if loop.collection is MEMBERSHIPS]
        assert loop.pause()
        await home.clock.sleep(1)
        before = glances()
        await home.clock.sleep(GLANCE_S * 3)
        assert (glances(), loop.status.mode) == (before, "paused")
        assert loop.resume()
        await home.clock.sleep(GLANCE_S + 10)
        resumed = glances()
        assert resumed > before
        await home.clock.sleep(6)
        assert not loop.resync()
        await home.clock.sleep(6)
        assert glances() == resumed + 1
        assert loop.ready
        shard.drain()
        await task

    play(case)


def test_what_was_passed_over_while_memberships_were_paused_is_not_proved_by_a_sweep_of_that_time() -> None:
    """Found by the simulator (I7): the row with the tags was recognised by the sweep, as if they had been taken."""

    async def case(home: Home) -> None:
        shard = home.shard()
        task = asyncio.ensure_future(shard.serve())
        await home.clock.sleep(1)
        [loop] = [loop for loop in shard.readings["acme"] if loop.collection is MEMBERSHIPS]
        loop.pause()
        await home.clock.sleep(1)
        home.organization.tag("cus_1", "tag_1", moves=True)
        tagged_at = home.clock.wall()
        await home.clock.sleep(50)  # a poll, and two sweeps
        loop.resume()
        async with asyncio.timeout(GLANCE_S * 4):
            while shard.caught_up.get(("acme", MEMBERSHIPS), 0.0) <= tagged_at:
                await home.clock.sleep(0.1)
        assert [event.verb for event in home.news() if event.verb == "tagged"] == ["tagged"]
        shard.drain()
        await task

    play(case, sweep_s=20.0)


def test_a_new_life_goes_on_with_a_glance_of_the_one_before_but_claims_nothing_by_it() -> None:
    async def case(home: Home) -> None:
        home.organization.ways.limit_max = 3
        pages: list[float] = []

        def slow(request: Any) -> Any:
            if request.path == CUSTOMERS and "fields" in dict(request.query):
                pages.append(home.clock.wall())
            return None

        home.organization.answers.append(slow)
        home.organization.tag("cus_7", "tag_1")
        await home.live(GLANCE_S * 2)
        assert [(event.verb, event.uid) for event in home.news()] == [("tagged", "cus_7")]
        assert len(pages) >= 3

    play(case)


# Whatever happens.

HAPPENINGS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "tag",
                "tag",
                "tag quietly",
                "edit",
                "create",
                "merge",
                "new tag",
                "no tag",
                "tags down",
                "customers down",
                "kill",
                "wait",
            ]
        ),
        st.integers(0, 9),
        st.integers(0, 3),
    ),
    max_size=25,
)


@given(
    HAPPENINGS,
    st.builds(
        Ways,
        limit_max=st.integers(2, 12),
        merged=st.sampled_from(["404", "301", "survivor"]),
        precision=st.sampled_from(["seconds", "microseconds"]),
        date_skew_s=st.sampled_from([0.0, None, -30.0, 30.0]),
        tells_merges=st.booleans(),
    ),
)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_happens_the_events_add_up_to_what_the_provider_has(
    happenings: list[tuple[str, int, int]], ways: Ways
) -> None:
    async def main(clock: VirtualClock) -> None:
        home = Home(clock, sweep_s=100.0)
        organization = home.organization
        organization.ways = ways
        down: set[str] = set()
        organization.answers.append(lambda request: answer({}, 503) if request.path in down else None)
        for number in range(4):
            organization.add_tag(f"tag_{number}", f"name {number}", at=START - 100 * SECOND)
        for number in range(6):
            organization.create(f"cus_{number}", START - 100 * SECOND, email=f"{number}@example.com", firstName="0")
        life = asyncio.ensure_future(home.live(10_000, killed=True))
        for turn, (kind, number, tag) in enumerate(happenings):
            uid = f"cus_{number}"
            await clock.sleep(1.7)
            if kind == "kill":
                life.cancel()
                await asyncio.wait([life])
                life = asyncio.ensure_future(home.live(10_000, killed=True))
            elif kind == "wait":
                await clock.sleep(GLANCE_S)
            elif kind.endswith("down"):
                down ^= {TAGS if kind == "tags down" else CUSTOMERS}
            elif kind == "new tag":
                organization.add_tag(f"new_{turn}", f"new name {turn}")
                for row in list(organization.customers.values())[:2]:
                    row["tags"] = [*row["tags"], f"new_{turn}"]
            elif kind == "no tag":
                organization.tags.pop(f"tag_{tag}", None)
            elif kind == "create" and uid not in organization.customers and uid not in organization.merges:
                organization.create(uid, email=f"{number}@example.com", tags=[f"tag_{tag}"])
            elif uid in organization.customers:
                if kind == "edit":
                    organization.edit(uid, firstName=str(turn))
                elif kind == "merge" and number != 0 and "cus_0" in organization.customers:
                    organization.merge(uid, "cus_0")
                else:
                    tags = {*organization.customers[uid]["tags"]} ^ {f"tag_{tag}"}
                    organization.tag(uid, *tags, moves=kind == "tag")
        down.clear()
        await clock.sleep(250)  # glances and a sweep
        life.cancel()
        await asyncio.wait([life])
        documents, edges = folded(home.news())
        assert edges == home.truth() == home.edges()
        names = {f"acme/{uid}": row.get("firstName") for uid, row in organization.customers.items()}
        shown = {key: body.get("first_name") for key, body in documents.items() if key.startswith("acme/cus_")}
        assert shown == names

    run_virtual(main)


def test_what_would_be_published_is_planned_with_its_edges() -> None:
    async def main(clock: VirtualClock) -> None:
        home = Home(clock)
        home.organization.add_tag("tag_1", "VIP", at=START - SECOND)
        home.organization.create("cus_1", START - SECOND, tags=["tag_1"])
        plans = dict.fromkeys((*home.reader.plans, MEMBERSHIPS), ReadingPlan(5.0))
        reader = replace(home.reader, plans=plans)
        customers, tags, memberships = await plan_source(reader, home.store, TOPICS, 5, lambda *_: None)
        assert customers.events == {"bridge.customer.snapshot.v1": 1, "bridge.customer.tagged.v1": 1}
        assert tags.events == {"bridge.tag.snapshot.v1": 1}
        assert (memberships.events, memberships.note) == ({}, "planned with the customers")

    run_virtual(main)


def test_a_home_is_what_assembly_makes_of_a_source() -> None:
    async def main(clock: VirtualClock) -> None:
        reader = Home(clock).reader
        assert list(reader.collections) == [Collection.CUSTOMERS, Collection.TAGS, MEMBERSHIPS]
        assert list(replace(reader, glances=None).collections) == [Collection.CUSTOMERS, Collection.TAGS]

    run_virtual(main)
