"""The Rebilly source against the simulated Rebilly: in a world that goes on, the state ends up as the world is.

Provider, source and shard run in one process and in virtual time; nothing between them is played.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from bridge.detect.essence import essence
from bridge.model import Collection, Document
from bridge.sandbox.population.dialect import REBILLY
from bridge.sandbox.population.life import RebillyRates
from bridge.sandbox.rebilly import documents
from bridge.sandbox.rebilly.api import API_KEY, RebillyApi
from bridge.sandbox.rebilly.documents import View
from bridge.sandbox.rebilly.switches import RebillySwitches
from bridge.sandbox.world import World, live
from bridge.source.rebilly import RebillySettings, build, models
from bridge.source.transport import Request, Response
from tests.runtime.lives import Lives, Told, folded
from tests.source.providing import Observer
from tests.support.clock import VirtualClock, run_virtual

ACCOUNT = "org_1"
GLANCE_S = 15.0
SWEEP_S = 90.0
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

STILL = RebillyRates()


class Door:
    """Implements `Transport` as the server over HTTP does: whole paths on the outside, those of the API inside."""

    def __init__(self, api: RebillyApi) -> None:
        self._api = api

    async def send(self, request: Request) -> Response:
        inside = self._api.inside(request.path)
        assert inside is not None, "the source asks for nothing else"
        return await self._api.send(replace(request, path=inside))

    async def close(self) -> None:
        await self._api.close()


class Estate(Lives):
    """A simulated Rebilly, and what the bridge makes of it."""

    def __init__(self, clock: VirtualClock, customers: int, tags: int, *, seed: int, page_limit: int, **switches: Any):
        """`Any`: values of switches."""
        wanted = RebillySwitches().changed(switches)
        self.world = World(seed, customers, tags, STILL, clock, ACCOUNT, rules=wanted.rules(), dialect=REBILLY)
        self.api = RebillyApi(self.world, wanted, clock)
        settings = RebillySettings(
            source="acme", account=ACCOUNT, api_key=API_KEY, request_rate=1000, page_limit=page_limit
        )
        source = build(settings, Door(self.api), clock, Observer(), lambda: 0.0)
        super().__init__(clock, source, glance_s=GLANCE_S, sweep_s=SWEEP_S)

    def uids(self) -> list[str]:
        customers = self.world.customers
        return [customers.uids[row] for row in customers.live_row_of.values()]

    def call(self, method: str, tag: str, rest: str = "", body: Any = None) -> None:
        """Somebody else does something to a tag; it may fail. `Any`: JSON."""
        path = f"/tags/{quote(self.world.tags[tag]['tag'], safe='')}{rest}"
        self.api.answer(
            Request(method, path, (), {"REB-APIKEY": API_KEY}, None if body is None else orjson.dumps(body))
        )

    def check(self) -> list[Told]:
        """The events add up to the state, and the state is what the world is. All events."""
        register, customers, view = self.world.register, self.world.customers, View(ACCOUNT)
        rows = customers.live_row_of.values()
        people = [models.customer(documents.customer(register.document(row), (), view), "") for row in rows]
        tags = [models.tag(documents.tag(tag, view), "") for tag in self.world.tags.values()]
        for collection, mapped in ((Collection.CUSTOMERS, people), (Collection.TAGS, tags)):
            true = {document.uid: essence(document.body) for document in mapped if isinstance(document, Document)}
            assert {uid: essence(body) for uid, body in self.bodies(collection).items()} == true
        true_edges = {(customers.uids[row], tag) for tag in self.tags() for row in customers.members[tag]}
        assert self.edges() == true_edges
        events = self.news()
        told, edges = folded(events)
        known = {**self.bodies(Collection.CUSTOMERS), **self.bodies(Collection.TAGS)}
        assert told == {f"acme/{uid}": body for uid, body in known.items()}
        assert edges == true_edges
        return events

    def tags(self) -> list[str]:
        """Of customers; there are others, too."""
        return [uid for uid, tag in self.world.tags.items() if "type" not in tag]


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
