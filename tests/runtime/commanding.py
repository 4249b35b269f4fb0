"""What tests of commands share: a tap between the bridge and its provider, and what there is on either side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import orjson

from bridge.errors import RetryLater
from bridge.source.transport import Request, Response
from tests.runtime.estates import Estate
from tests.runtime.posting import Home, Post
from tests.runtime.shards import House

Around = Callable[[Request, Callable[[], Awaitable[Response]]], Awaitable[Response]]
"""What is done instead of a request; it may go on with it."""


class Tap:
    """Between the bridge and the provider: `around` may do something before a request and after its answer."""

    def __init__(self, house: House | Estate) -> None:
        self.seen: list[tuple[str, str]] = []
        self.around: Around | None = None
        self._send = house.api.send
        house.api.send = self.send  # type: ignore[method-assign]

    async def send(self, request: Request) -> Response:
        self.seen.append((request.method, request.path))

        async def go_on() -> Response:
            return await self._send(request)

        return await (go_on() if self.around is None else self.around(request, go_on))

    def writes(self) -> list[str]:
        """Paths of all writes but the log-in."""
        return [path for method, path in self.seen if method != "GET" and not path.endswith("/auth/token")]


def names(house: House) -> list[str]:
    """The customer_ids there are."""
    return list(house.world.customers.live_row_of)


def uid_of(house: House, name: str) -> str:
    return house.world.customers.uids[house.world.customers.live_row_of[name]]


def name_of(house: House, uid: str) -> str | None:
    customers = house.world.customers
    return next((name for name, row in customers.live_row_of.items() if customers.uids[row] == uid), None)


def tags_of(house: House, name: str) -> set[str]:
    customers = house.world.customers
    return set(customers.tags[customers.live_row_of[name]])


def retag(house: House, name: str, *tags: str) -> None:
    house.world.set_customer_tags(name, tags)


def causes(house: Home, kind: str) -> list[dict[str, str]]:
    """Why each event of a type was detected, those of the first reading aside."""
    found = [
        orjson.loads(record.value or b"")["cause"]
        for record in house.kafka.events("customers")
        if dict(record.headers)["ce_type"].decode() == f"bridge.{kind}.v1"
    ]
    return [cause for cause in found if cause["path"] != "snapshot"]


def happened(house: House, kind: str) -> int:
    """How often, at the provider."""
    return sum(entry.kind == kind for entry in house.world.truth)


def left_over(house: House | Estate) -> list[str]:
    """Keys of commands that are not answered."""
    return [key for part in ("command", "doing") for key, _ in house.store.scan(f"acme/{part}/")]


async def until_answered(post: Post, count: int, at_most_s: float = 60.0) -> None:
    await until(lambda: len(post.outcomes) >= count, at_most_s)


async def until(true: Callable[[], bool], at_most_s: float = 60.0) -> None:
    async with asyncio.timeout(at_most_s):
        while not true():  # noqa: ASYNC110 (nobody tells when Kafka has something)
            await asyncio.sleep(at_most_s / 3000)


def lose(kind: str, times: int, *, before: bool) -> Around:
    """The answers to this many writes, or the writes themselves."""
    left = [times]

    async def around(request: Request, go_on: Callable[[], Awaitable[Response]]) -> Response:
        if not request.path.endswith(kind) or request.method == "GET" or not left[0]:
            return await go_on()
        left[0] -= 1
        if not before:
            await go_on()
        raise RetryLater("the connection broke")

    return around
