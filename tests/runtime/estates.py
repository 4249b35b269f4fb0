"""A simulated Rebilly, and what the bridge makes of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import quote

import orjson

from bridge.detect.essence import essence
from bridge.model import Collection, Document
from bridge.sandbox.population.dialect import REBILLY
from bridge.sandbox.population.life import RebillyRates
from bridge.sandbox.rebilly import documents
from bridge.sandbox.rebilly.api import API_KEY, RebillyApi
from bridge.sandbox.rebilly.documents import View
from bridge.sandbox.rebilly.switches import RebillySwitches
from bridge.sandbox.world import World
from bridge.source.rebilly import RebillySettings, build, models
from bridge.source.transport import Request, Response
from tests.runtime.lives import Lives, Told, folded
from tests.source.providing import Observer
from tests.support.clock import VirtualClock

ACCOUNT = "org_1"
GLANCE_S = 15.0
SWEEP_S = 90.0

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
