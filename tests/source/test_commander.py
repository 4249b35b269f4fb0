"""Commands at Dintero: the right customer, whatever its name is by now; one write each; other tags stay."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import TypeVar
from urllib.parse import unquote

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridge.commands.command import Rename, parse
from bridge.errors import AccessDenied, RetryLater
from bridge.model import Document
from bridge.sandbox.api import CLIENT_ID, CLIENT_SECRET, SandboxApi
from bridge.sandbox.population.life import Rates
from bridge.sandbox.switches import Switches
from bridge.sandbox.world import World
from bridge.source.commanding import TAGGED, Commander, Refused
from bridge.source.memberships import Untold
from bridge.source.transport import Request, Response
from tests.source.providing import source_over
from tests.support.clock import VirtualClock, run_virtual

Found = TypeVar("Found")


class Shop:
    """A provider with a few customers. before: what happens there before the n-th request of a command."""

    def __init__(self, clock: VirtualClock, **switches: str) -> None:
        self.world = World(3, 6, 3, Rates(), clock)
        self.api = SandboxApi(self.world, Switches.parse([f"{k}={v}" for k, v in switches.items()]), clock)
        self.before: dict[int, Callable[[], object]] = {}
        self.asked: list[str] = []
        source = source_over(self, clock, client_id=CLIENT_ID, client_secret=CLIENT_SECRET, request_rate=1000)
        self.commander: Commander = source.commander
        self.a, self.b = list(self.world.customers.live_row_of)[:2]
        self.tag, self.other = list(self.world.tags)[:2]
        for name in (self.a, self.b):
            self.world.set_customer_tags(name, [])

    async def send(self, request: Request) -> Response:
        if "/users/" in request.path or request.path.endswith("/users"):
            self.before.get(len(self.asked), lambda: None)()
            self.asked.append(f"{request.method} {request.path.rpartition('/users')[2]}")
        return await self.api.send(request)

    async def close(self) -> None: ...

    def known(self, name: str) -> Document:
        body = self.world.find(name)
        assert body is not None
        fields = {"uid": body["id"], "customer_id": name, "email": body.get("email", "nobody@example.com")}
        return Document(body["id"], fields, 1)

    def swap(self) -> None:
        self.world.rename_customer(self.a, "between")
        self.world.rename_customer(self.b, self.a)
        self.world.rename_customer("between", self.b)

    def name(self, document: Document) -> str | None:
        found = [name for name in self.world.customers.live_row_of if self.known(name).uid == document.uid]
        return found[0] if found else None

    def tags(self, name: str) -> set[str]:
        return set(self.world.customers.tags[self.world.customers.live_row_of[name]])


def at(play: Callable[[Shop], Awaitable[None]], **switches: str) -> None:
    async def main(clock: VirtualClock) -> None:
        await play(Shop(clock, **switches))

    run_virtual(main)


def test_who_has_another_name_by_now_is_found_and_nobody_else_is_touched() -> None:
    async def play(shop: Shop) -> None:
        one, two = shop.known(shop.a), shop.known(shop.b)
        shop.swap()
        found = await shop.commander.rename(one, "new", urgent=True)
        assert isinstance(found, Document)
        assert (found.uid, found.body["customer_id"]) == (one.uid, "new")
        assert (shop.name(one), shop.name(two)) == ("new", shop.a)
        answers = await shop.commander.set_tag([one, two], shop.tag, True, urgent=True)
        assert answers == {one.uid: TAGGED, two.uid: TAGGED}
        answers = await shop.commander.set_tag([one], shop.tag, False, urgent=True)
        assert (shop.tags("new"), shop.tags(shop.a)) == (set(), {shop.tag})

    at(play)


def test_what_is_so_already_is_not_written() -> None:
    async def play(shop: Shop) -> None:
        shop.world.set_customer_tags(shop.a, [shop.tag])
        for present in (True, False, False):
            answer = await shop.commander.set_tag([shop.known(shop.a)], shop.tag, present, urgent=False)
            assert list(answer.values()) == [TAGGED]
        for _ in range(2):
            assert isinstance(await shop.commander.rename(shop.known(shop.a), shop.a, urgent=False), Document)
        assert [request for request in shop.asked if not request.startswith("GET")] == [f"PUT /{shop.a}/tags"]

    at(play)


def test_names_that_change_hands_within_the_request_are_told() -> None:
    async def play(shop: Shop) -> None:
        shop.before[1] = shop.swap
        found = await shop.commander.rename(shop.known(shop.a), "new", urgent=True)
        assert isinstance(found, Refused)
        assert "another customer was renamed" in found.said

    at(play)


def test_who_is_renamed_between_the_look_and_the_write_is_asked_under_the_present_name() -> None:
    async def play(shop: Shop) -> None:
        customer = shop.known(shop.a)
        shop.before[1] = lambda: shop.world.rename_customer(shop.a, "meanwhile")
        assert isinstance(await shop.commander.rename(customer, "new", urgent=True), Document)
        assert shop.name(customer) == "new"
        shop.asked.clear()
        shop.before[1] = lambda: shop.world.rename_customer("new", "newer")
        assert await shop.commander.set_tag([customer], shop.tag, True, urgent=True) == {customer.uid: TAGGED}
        assert shop.tags("newer") == {shop.tag}

    at(play)


def test_who_is_gone_is_gone() -> None:
    async def play(shop: Shop) -> None:
        customer = shop.known(shop.a)
        shop.world.delete_customer(shop.a)
        assert await shop.commander.rename(customer, "new", urgent=True) is Untold.GONE
        assert await shop.commander.set_tag([customer], shop.tag, True, urgent=True) == {customer.uid: Untold.GONE}
        assert await shop.commander.find(shop.a, urgent=True) is None

    at(play)
    at(play, deleted_read="tombstone")


NASTY = st.text(st.sampled_from("./%\\?#&=+;: 2Fåß🦉\u202e\u0301\0\r\n"), min_size=1, max_size=20)
NAMES = st.one_of(NASTY, st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=255)).filter(
    lambda name: name == name.strip() and name not in (".", "..")
)


@settings(max_examples=40)
@given(NAMES)
@example("a/b")
@example("a?b#c")
@example("å %2F+")
@example("...")
@example("x" * 255)
def test_any_name_is_one_segment(name: str) -> None:
    """Of all that a command may ask for."""

    async def play(shop: Shop) -> None:
        customer = shop.known(shop.a)
        named = {"id": "r", "kind": "rename", "source": "acme", "sent_at": "2026-11-21T08:15:30Z"}
        asked = parse(b"acme", orjson.dumps({**named, "customer": customer.uid, "new_customer_id": name}))
        assert isinstance(asked, Rename)
        renamed = await shop.commander.rename(customer, asked.new_customer_id, urgent=True)
        assert isinstance(renamed, Document)
        assert (renamed.body["customer_id"], shop.name(customer)) == (name, name)
        shop.asked.clear()
        found = await shop.commander.find(name, urgent=True)
        assert found is not None
        assert found.uid == customer.uid
        await shop.commander.set_tag([found], shop.tag, True, urgent=True)
        assert shop.tags(name) == {shop.tag}
        segments = {request.partition("/")[2].removesuffix("/tags") for request in shop.asked}
        assert {unquote(segment, errors="strict") for segment in segments} == {name}
        assert all(re.fullmatch(r"[\w.~%-]+", segment, re.ASCII) for segment in segments)

    at(play)


def test_a_customer_whose_name_vanishes_from_paths_cannot_be_asked() -> None:
    async def play(shop: Shop) -> None:
        customer = shop.known(shop.a)
        shop.world.rename_customer(shop.a, "..")
        assert await shop.commander.rename(customer, "new", urgent=True) in (Untold.NEVER, Untold.NOT_NOW)
        assert await shop.commander.find("..", urgent=True) is None

    at(play)


def test_of_several_each_has_its_own_answer() -> None:
    async def play(shop: Shop) -> None:
        one, two = shop.known(shop.a), shop.known(shop.b)
        send = shop.api.send

        async def broken(request: Request) -> Response:
            if request.method == "PUT" and shop.a in request.path:
                raise RetryLater("the connection broke")
            return await send(request)

        shop.api.send = broken  # type: ignore[method-assign]
        answers = await shop.commander.set_tag([one, two], shop.tag, True, urgent=True)
        assert isinstance(answers[one.uid], RetryLater)
        assert answers[two.uid] == TAGGED
        refused = await shop.commander.set_tag([two], "no-such-tag", True, urgent=True)
        assert refused == {two.uid: Refused("customers.tags.set answered 400 (BAD_REQUEST)")}

    at(play)


def test_a_right_that_is_lacking_is_no_refusal() -> None:
    async def play(shop: Shop) -> None:
        with pytest.raises(AccessDenied):
            await shop.commander.rename(shop.known(shop.a), "new", urgent=True)

    at(play, scopes="read:customers")


@pytest.mark.parametrize("number", range(4))
def test_a_tag_that_is_set_before_the_tags_are_read_stays(number: int) -> None:
    """Requests: who it is, its tags (an empty list twice), the write."""

    async def play(shop: Shop) -> None:
        shop.before[number] = lambda: shop.world.set_customer_tags(shop.a, [shop.other])
        await shop.commander.set_tag([shop.known(shop.a)], shop.tag, True, urgent=True)
        assert shop.asked[-1].startswith("PUT")
        lost = number == len(shop.asked) - 1  # between the last two requests nobody can know
        assert shop.tags(shop.a) == ({shop.tag} if lost else {shop.tag, shop.other})

    at(play)
