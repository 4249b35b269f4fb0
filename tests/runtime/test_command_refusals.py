"""What a provider refuses for good is the outcome, with its words and without a value; it is asked once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import orjson
import pytest

from bridge.sandbox.rebilly.problems import Problem
from bridge.source.transport import Request, Response
from tests.runtime.commanding import Around, Tap, happened, name_of, names, retag, tags_of, uid_of, until_answered
from tests.runtime.estates import Estate
from tests.runtime.posting import Post, living
from tests.runtime.shards import House
from tests.support.clock import VirtualClock, run_virtual

SECRET = "ola@nordmann.example"


def once(answer: Callable[[], Response | None]) -> Around:
    """To the first write; None: as the provider has it by then."""
    left = [answer]

    async def around(request: Request, go_on: Callable[[], Awaitable[Response]]) -> Response:
        refused = left.pop()() if left and request.method != "GET" else None
        return refused or await go_on()

    return around


@pytest.mark.parametrize("status", [400, 404, 409, 422])
@pytest.mark.parametrize("kind", ["rename", "tag"])
def test_what_dintero_refuses_is_asked_once_and_told_in_its_words(kind: str, status: int) -> None:
    """It says 404 of a customer that is gone by then, and then that is what is told."""

    async def main(clock: VirtualClock) -> None:
        house = House(clock, 6, 2)
        post, tap = Post(house), Tap(house)
        one, two = names(house)[:2]
        uids, tag = [uid_of(house, one), uid_of(house, two)], next(iter(house.world.tags))
        for name in (one, two):
            retag(house, name)

        def refuse() -> Response | None:
            if status == 404:
                house.world.delete_customer(one)
                return None
            said = {"error": {"code": "NOT_THIS_ONE", "message": f"{SECRET} is not welcome"}}
            return Response(status, {"content-type": "application/json"}, orjson.dumps(said))

        def ask(number: int) -> None:
            who = {"customer": uids[number], "new_customer_id": f"new-{number}"}
            shard.deliver([post.command(kind, **({"tag": tag, "customers": [uids[number]]} if kind == "tag" else who))])

        async with living(house) as shard:
            tap.around = once(refuse)
            ask(0)
            ask(1)
            await until_answered(post, 2)
        assert post.words == [("id-0", "rejected"), ("id-1", "applied")]
        refused = post.outcomes[0]
        endpoint = "customers.rename" if kind == "rename" else "customers.tags.set"
        if status != 404:
            assert refused["detail"].endswith(f"{endpoint} answered {status} (NOT_THIS_ONE)")
        elif kind == "rename":
            assert refused["detail"] == "the provider does not have the customer any more"
        if kind == "tag":
            why = "gone" if status == 404 else "refused"
            assert refused["others"] == [{"why": why, "count": 1, "uids": [uids[0]]}]
        assert SECRET not in orjson.dumps(post.outcomes).decode()
        assert len(tap.writes()) == 2, "one each"
        if kind == "rename":
            assert (name_of(house, uids[1]), happened(house, "renamed")) == ("new-1", 1)
        else:
            assert tags_of(house, two) == {tag}

    run_virtual(main)


@pytest.mark.parametrize("status", [400, 404, 409, 422])
def test_what_rebilly_refuses_is_asked_once_and_told_with_the_fields(status: int) -> None:
    async def main(clock: VirtualClock) -> None:
        house = Estate(clock, 6, 3, seed=3, page_limit=100)
        post, tap = Post(house), Tap(house)
        uids, tag = house.uids(), house.tags()[0]
        problem = Problem(status, f"{SECRET} is not welcome", [("customerIds.1", f"{SECRET} is no id"), ("tag", "old")])

        def refuse() -> Response:
            answer = problem.answer()
            return Response(answer.status, answer.headers, answer.body)

        house.world.changes.tag(tag, uids, on=False)
        async with living(house) as shard:
            tap.around = once(refuse)
            shard.deliver([post.command("tag", tag=tag, customers=uids)])
            shard.deliver([post.command("tag", tag=tag, customers=uids[:2])])
            await until_answered(post, 2)
        assert post.words == [("id-0", "rejected"), ("id-1", "applied")]
        refused = post.outcomes[0]
        said = f"tags.customers answered {status}, not accepted: customerIds.1, tag"
        assert refused["detail"] == f"0 of 6 customers have the tag; {said}"
        assert refused["others"] == [{"why": "refused", "count": 6, "uids": uids}]
        assert SECRET not in orjson.dumps(post.outcomes).decode()
        assert len(tap.writes()) == 2, "one each"
        house.check()

    run_virtual(main)
