"""Joins and targets: who has a value, whatever moves while the index is made; who is done to, in which order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.clock import Clock
from bridge.commands.command import Kind, Tagging, Where
from bridge.detect.edges import EdgeMove
from bridge.model import Body, Cause, Document, Path
from bridge.runtime import awaited as module
from bridge.runtime.awaited import AWAITED_S, Awaited
from bridge.runtime.commands.targets import Targets
from bridge.runtime.joins import FIELDS_MAX, HOLDERS_MAX, PIECE, Found, Joins, value_of
from tests.support.clock import VirtualClock, run_virtual

SEEN = Cause(Path.POLL)


class Customers:
    """What a step knows, and what moves between two pieces of a scan."""

    def __init__(self, bodies: dict[str, Body]) -> None:
        self.bodies = bodies
        self.scans = 0
        self.joins = Joins(self.known, self.pieces)

    def known(self, uids: Sequence[str]) -> list[Document]:
        return [Document(uid, self.bodies[uid], 0) for uid in uids if uid in self.bodies]

    def pieces(self, after: int, limit: int) -> tuple[list[str], int | None]:
        self.scans += after == 0
        uids = sorted(self.bodies)
        return uids[after : after + limit], after + limit if uids[after + limit :] else None

    def put(self, uid: str, body: Body | None) -> None:
        before = self.bodies.pop(uid, None)
        if body is not None:
            self.bodies[uid] = body
        self.joins.moved(uid, before, body)

    async def find(self, field: str, *values: str) -> dict[str, set[str]]:
        found = await self.joins.find(field, values, 10**9)
        assert (found.values, found.crowded) == (len(values), frozenset())
        return {value: set(uids) for value, uids in found.uids.items()}


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("email", "a@b.c"),
        ("attributes.card", "17"),
        ("attributes.deep.name", "X"),
        ("attributes.flag", None),
        ("attributes.none", None),
        ("attributes.list", None),
        ("attributes", None),
        ("email.part", None),
        ("empty", None),
    ],
)
def test_a_value_is_what_could_be_the_same_elsewhere(field: str, said: str | None) -> None:
    attributes = {"card": 17, "deep": {"name": " X "}, "flag": True, "list": ["x"]}
    assert value_of({"email": "A@b.C ", "attributes": attributes, "empty": " "}, field) == said


def test_it_is_found_whatever_moves_while_the_index_is_made() -> None:
    async def main(clock: VirtualClock) -> None:
        customers = Customers({f"u{number:05}": {"email": f"{number}@x"} for number in range(5 * PIECE)})
        rng = Random(1)

        async def live() -> None:
            for turn in range(40):
                uid = rng.choice(sorted(customers.bodies))
                if turn % 3:
                    customers.put(uid, {"email": f"new{turn}@x"})
                else:
                    customers.put(uid, None)
                customers.put(f"late{turn}", {"email": f"{turn}@X"})
                await asyncio.sleep(0)

        living = asyncio.create_task(live())
        await customers.find("email", "nobody")
        await living
        values = [f"{number}@x" for number in range(5 * PIECE)] + [f"new{turn}@x" for turn in range(40)]
        found = await customers.find("email", *values)
        wanted: dict[str, set[str]] = {}
        for uid, body in customers.bodies.items():
            wanted.setdefault(body["email"].lower(), set()).add(uid)
        assert found == wanted
        assert customers.scans == 1
        for uid in list(customers.bodies):
            customers.put(uid, None)
        assert not customers.joins._fields["email"], "nothing is kept of who is gone"

    run_virtual(main)


def test_fields_have_a_bound_and_a_scan_that_fails_leaves_no_index() -> None:
    async def main(clock: VirtualClock) -> None:
        customers = Customers({"u": {f"f{number}": "v" for number in range(9)}})
        for number in range(FIELDS_MAX + 1):
            assert await customers.find(f"f{number}", "v") == {"v": {"u"}}
        await customers.find(f"f{FIELDS_MAX}", "v")
        assert customers.scans == FIELDS_MAX + 1
        await customers.find("f0", "v")
        assert customers.scans == FIELDS_MAX + 2
        finding = asyncio.create_task(customers.find("f8", "v"))
        await asyncio.sleep(0)
        finding.cancel()
        await asyncio.wait([finding])
        assert await customers.find("f8", "v") == {"v": {"u"}}

    run_virtual(main)


async def find(customers: Customers, field: str, values: list[str], most: int) -> tuple[int, set[str], set[str]]:
    found = await customers.joins.find(field, values, most)
    return found.values, set(found.uids), set(found.crowded)


def test_what_too_many_have_is_nobodys_name_and_many_are_found_some_at_a_time() -> None:
    async def main(clock: VirtualClock) -> None:
        bodies: dict[str, Body] = {
            f"u{number}": {"f": "all", "g": str(number % 4)} for number in range(HOLDERS_MAX + 1)
        }
        customers = Customers(bodies)
        assert await find(customers, "f", ["all", "none"], 10) == (2, set(), {"all"})
        customers.put("u0", {"f": "other"})
        assert await find(customers, "f", ["all", "none", "other"], 10) == (1, {"all"}, set())
        assert await find(customers, "g", ["0", "1", "0", "2", "3"], HOLDERS_MAX // 2 + 1) == (
            4,
            {"0", "1", "2"},
            set(),
        )

    run_virtual(main)


def test_who_sees_first_what_a_command_does_says_so_once() -> None:
    async def main(clock: Clock) -> None:
        awaited = Awaited(clock)
        one, two, three = (EdgeMove(uid, "t", True) for uid in "123")
        awaited.expect("c-1", [one, two, three])
        assert awaited.cause(one, SEEN) == Cause(Path.COMMAND, "c-1")
        assert awaited.cause(one, SEEN) == SEEN
        assert awaited.cause(two._replace(joined=False), SEEN) == SEEN
        awaited.forget([two])
        assert awaited.cause(two, SEEN) == SEEN
        await clock.sleep(AWAITED_S + 1)
        assert awaited.cause(three, SEEN) == SEEN

    run_virtual(main)


def test_what_is_awaited_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(clock: Clock) -> None:
        monkeypatch.setattr(module, "AWAITED_MAX", 10)
        awaited = Awaited(clock)
        for number in range(20):
            awaited.expect(f"c-{number}", [EdgeMove(str(number), "t", True)])
        refs = [awaited.cause(EdgeMove(str(number), "t", True), SEEN).ref for number in range(20)]
        assert refs == [None] * 10 + [f"c-{number}" for number in range(10, 20)]

    run_virtual(main)


def tagging(**who: Any) -> Tagging:
    return Tagging(id="c", kind=Kind.TAG, source="acme", sent_at="2026-11-21T08:15:30Z", tag="t", **who)


@given(
    st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=12),
    st.dictionaries(st.sampled_from("abcdefgh"), st.lists(st.sampled_from("123456"), min_size=1, max_size=4)),
    st.integers(1, 3),
    st.booleans(),
    st.booleans(),
)
def test_everybody_is_done_to_and_every_value_that_nobody_has_is_told(
    values: list[str], have: dict[str, list[str]], size: int, named: bool, crashes: bool
) -> None:
    names = tuple(f"n{at}" for at in range(len(values))) if named else None
    command = tagging(where=Where(field="f", values=tuple(values), names=names))
    targets, told, done = Targets(command, {}), list[str](), list[str]()
    while targets.left:
        if targets.unknown:
            field, some = targets.next_values(size)
            assert field == "f"
            uids_of = {value: have[value] for value in some if value in have}
            told += targets.matched(Found(len(some), uids_of, frozenset()))[0]
        else:
            uids = targets.slice(size)
            assert 0 < len(uids) <= size
            done += uids
            targets.done(len(uids))
        if crashes:
            targets = Targets(command, orjson.loads(orjson.dumps(targets.stored)))
    assert set(done) == {uid for value in values for uid in have.get(value, ())}
    assert targets.total == len(done)
    missing = [at for at, value in enumerate(values) if value not in have]
    assert told == [f"n{at}" if named else "" for at in missing]


def test_who_is_given_up_is_told_by_uid_or_by_the_name_of_its_value() -> None:
    plain = Targets(tagging(customers=("1", "2", "1", "3")), {})
    plain.done(1)
    assert plain.abandon() == ["2", "3"]
    assert not plain.left
    valued = Targets(tagging(where=Where(field="f", values=("a", "b", "c"), names=("na", "nb", "nc"))), {})
    assert valued.matched(Found(1, {"a": ["1", "2"]}, frozenset())) == ([], [])
    valued.done(1)
    assert valued.abandon() == ["2", "nb", "nc"]
    assert not valued.left
    crowded = Targets(tagging(where=Where(field="f", values=("a", "b"), names=("na", "nb"))), {})
    assert crowded.matched(Found(2, {}, frozenset("b"))) == (["na"], ["nb"])
    assert not crowded.left
