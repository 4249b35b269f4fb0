"""What the tests of the simulated Rebilly share: an organization, and somebody who calls its API in process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import orjson

from bridge.sandbox.population.dialect import REBILLY
from bridge.sandbox.population.life import RebillyRates
from bridge.sandbox.rebilly.api import API_KEY, RebillyApi
from bridge.sandbox.rebilly.switches import RebillySwitches
from bridge.sandbox.world import World
from bridge.source.transport import Request, Response
from tests.sandbox.test_api import BEGIN_S, VirtualClock

ORGANIZATION = "org_1"
KEY = {"REB-APIKEY": API_KEY}

__all__ = ["BEGIN_S", "KEY", "ORGANIZATION", "Caller"]


class Caller:
    """Calls the API in process, with the key. Time passes when the test says so."""

    def __init__(
        self, customers: int = 0, tags: int = 0, seed: int = 5, rates: RebillyRates | None = None, **switches: Any
    ) -> None:
        self.clock = VirtualClock()
        wanted = RebillySwitches().changed(switches)
        self.world = World(
            seed,
            customers,
            tags,
            rates or RebillyRates(),
            self.clock,
            ORGANIZATION,
            rules=wanted.rules(),
            dialect=REBILLY,
        )
        self.api = RebillyApi(self.world, wanted, self.clock)

    def switch(self, **switches: Any) -> None:
        self.api.switch(switches)

    def wait(self, seconds: float) -> None:
        """Let time pass, and the world with it."""
        self.clock.now += seconds
        self.world.advance(self.clock.now)

    def raw(
        self,
        method: str,
        path: str,
        *query: tuple[str, str],
        body: bytes | None = None,
        headers: Mapping[str, str] = KEY,
    ) -> Response:
        answer = self.api.answer(Request(method, path, query, headers, body))
        return Response(answer.status, answer.headers, answer.body)

    def call(self, method: str, path: str, body: Any = None, **query: object) -> Response:
        payload = None if body is None else orjson.dumps(body)
        return self.raw(method, path, *((name, str(value)) for name, value in query.items()), body=payload)

    def json(self, method: str, path: str, body: Any = None, **query: object) -> Any:
        response = self.call(method, path, body, **query)
        assert response.status in {200, 201}, response.body
        return orjson.loads(response.body)

    def status(self, method: str, path: str, body: Any = None, **query: object) -> int:
        return self.call(method, path, body, **query).status

    def invalid(self, method: str, path: str, body: Any = None, **query: object) -> set[str]:
        """The fields that a 422 names."""
        response = self.call(method, path, body, **query)
        assert response.status == 422, response.body
        return {one["field"] for one in orjson.loads(response.body)["invalidFields"]}

    # What most tests begin with.

    def add(self, uid: str, mail: str | None = None, **fields: Any) -> Any:
        """A customer under a chosen id."""
        address = {"emails": [{"label": "main", "value": mail, "primary": True}]} if mail else None
        return self.json("PUT", f"/customers/{uid}", {"primaryAddress": address, **fields})

    def add_tag(self, name: str, kind: str = "customer") -> Any:
        return self.json("POST", "/tags", {"name": name, "type": kind})

    def customer(self, uid: str, **query: object) -> Any:
        return self.json("GET", f"/customers/{uid}", **query)

    def tags_of(self, uid: str) -> list[str]:
        return [tag["name"] for tag in self.customer(uid, fields="tags")["tags"]]

    def tag(self, name: str, *uids: str, method: str = "POST") -> int:
        """The bulk call."""
        return self.status(method, f"/tags/{quote(name, safe='')}/customers", {"customerIds": list(uids)})

    def rows(self, **query: object) -> list[str]:
        """The ids that a list of customers shows."""
        return [row["id"] for row in self.json("GET", "/customers", **query)]

    def told(self, uid: str, **query: object) -> list[str]:
        """The types of what a timeline tells."""
        return [message["type"] for message in self.json("GET", f"/customers/{uid}/timeline", **query)]
