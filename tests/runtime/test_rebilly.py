"""The Rebilly source against the simulated Rebilly: in a world that goes on, the state ends up as the world is.

Provider, source and shard run in one process and in virtual time; nothing between them is played.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from bridge.sandbox.population.life import RebillyRates
from bridge.sandbox.world import live
from tests.runtime.estates import STILL, SWEEP_S, Estate
from tests.runtime.posting import Post, living
from tests.support.clock import VirtualClock, run_virtual

SEED = 1

BUSY = RebillyRates(
    sign_up=20,
    edit=40,
    tag=20,
    untag=15,
    merge=12,
    delete=4,
    pay=30,
    tag_create=6,
    tag_rename=6,
    tag_delete=2,
)
"""Per minute; about a hundred customers live through it."""

FAULTS = {
    "fault_429": 0.03,
    "fault_500": 0.05,
    "fault_cut": 0.05,
    "fault_200_html": 0.02,
    "empty_page": 0.05,
    "duplicate_rows": 0.1,
    "bad_row": 0.05,
    "bad_shape": 0.02,
}
"""Shares of requests, or of lists."""

WAYS: list[tuple[int, dict[str, Any]]] = [
    (1000, {}),
    (
        9,
        {
            "tagging_moves": "both",
            "tag_rename_moves_customers": True,
            "payments_move_customers": True,
            "timestamp_precision": "microseconds",
            "timestamp_zone": "+00:00",
            "merged_read": "301",
        },
    ),
    (
        9,
        {
            "sort_ties": "shuffled",
            "tags_order": "shuffled",
            "bulk_delay": 8.0,
            "bulk_order": "random",
            "bulk_lost": True,
            "tagging_moves": "revision",
            "merged_read": "survivor",
            "survivor_tags": "own",
            "offset_above_1000": "empty",
        },
    ),
    (1000, {**FAULTS, "latency_ms": 60, "error_media_type": "problem", "tagging_moves": "updated_time"}),
]
"""Rows per page, and switches: as documented; everything moves customers; nothing is in order; requests fail."""


@pytest.mark.parametrize(("page_limit", "ways"), WAYS, ids=["documented", "moving", "disorderly", "failing"])
def test_in_a_living_world_the_state_ends_up_as_the_world_is(page_limit: int, ways: dict[str, Any]) -> None:
    """People sign up, change, merge and are tagged one by one and in bulk, while lives of the shard end in between."""

    async def main(clock: VirtualClock) -> None:
        rng = Random(f"{SEED}/{ways}")
        estate = Estate(clock, 70, 8, seed=rng.randrange(1000), page_limit=page_limit, **ways)
        world = estate.world
        living = asyncio.ensure_future(live(world))
        await estate.live(20, killed=True)
        world.rates = BUSY
        for _ in range(4):
            life = asyncio.ensure_future(estate.live(10_000, killed=True))
            for _ in range(rng.randrange(3, 8)):
                await clock.sleep(rng.uniform(0.3, 9.0))
                uids = list(world.customers.uids)
                some = rng.sample(uids, min(len(uids), rng.randrange(1, 60)))
                estate.call(
                    rng.choice(["POST", "DELETE"]), rng.choice(estate.tags()), "/customers", {"customerIds": some}
                )
                if rng.random() < 0.2 and len(estate.tags()) > 3:
                    estate.call("DELETE", rng.choice(estate.tags()))
            life.cancel()
            await asyncio.wait([life])
        world.rates = STILL
        estate.api.switch(dict.fromkeys(FAULTS, 0.0))
        await estate.live(SWEEP_S + 90)
        living.cancel()
        events = estate.check()
        verbs = {event.verb for event in events}
        assert verbs >= {"snapshot", "created", "updated", "tagged", "untagged", "deleted"}
        went = {entry.uid: entry.detail["into"] for entry in world.truth.after(0) if entry.kind == "merged"}
        merged = {event.uid: event.data["into"] for event in events if event.verb == "merged"}
        assert len(went) > 3
        if "merged_read" in ways:
            created = {event.uid for event in events}
            assert merged.keys() == went.keys() & created, "each that was ever told"
        for uid, into in merged.items():
            chain = [went[uid]]
            while chain[-1] in went:
                chain.append(went[chain[-1]])
            assert into in chain, "the survivor, or who has survived the survivor"

    run_virtual(main)


@pytest.mark.parametrize("moves", ["nothing", "both"])
def test_while_memberships_are_paused_rows_of_customers_move_no_edge(moves: str) -> None:
    """Found by the simulator: customers say their tags in every row, also when nobody is to know."""

    async def main(clock: VirtualClock) -> None:
        estate = Estate(clock, 20, 4, seed=2, page_limit=100, tagging_moves=moves)
        post = Post(estate)
        tag = estate.tags()[0]
        async with living(estate) as shard:
            await asyncio.sleep(30)
            estate.news()
            shard.deliver([post.signal("pause", "memberships")])
            await asyncio.sleep(1)
            estate.world.changes.tag(tag, estate.uids(), on=True)
            await asyncio.sleep(2 * SWEEP_S)
            assert [event.verb for event in estate.news() if event.tag is not None] == []
            shard.deliver([post.signal("resume", "memberships")])
            await asyncio.sleep(SWEEP_S)
            assert {event.verb for event in estate.news()} == {"tagged"}
        estate.seen = 0
        estate.check()

    run_virtual(main)
