"""Tags for many customers at Rebilly: only what is seen afterwards counts, however late, and whoever is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from bridge.commands.outcome import UIDS_LISTED_MAX
from bridge.runtime.shard import Shard
from bridge.source.rebilly.commands import RebillyCommander
from bridge.source.transport import Request, Response
from tests.runtime.commanding import Tap, lose, until
from tests.runtime.estates import Estate
from tests.runtime.lives import Told
from tests.runtime.posting import Post, living
from tests.support.clock import VirtualClock, run_virtual


class Organization(Estate):
    """An estate whose requests are counted."""

    def __init__(self, clock: VirtualClock, customers: int = 60, **switches: Any) -> None:
        super().__init__(clock, customers, 5, seed=3, page_limit=1000, **switches)
        self.asked: Counter[str] = Counter()
        send = self.api.send

        async def counting(request: Request) -> Response:
            kind = (
                "bulk" if request.method != "GET" else "told" if b"filter" in repr(request.query).encode() else "other"
            )
            self.asked[kind] += 1
            return await send(request)

        self.api.send = counting  # type: ignore[method-assign]

    @property
    def tag(self) -> str:
        return self.tags()[0]

    def have(self) -> set[str]:
        """Uids of those who have the tag."""
        customers = self.world.customers
        return {customers.uids[row] for row in customers.members[self.tag]}

    def moved(self) -> list[Told]:
        """Who got the tag, or lost it, after the first reading; each event once."""
        self.seen = 0
        return [
            event
            for event in self.news("customers")
            if event.verb in ("tagged", "untagged") and event.data["cause"]["path"] != "snapshot"
        ]


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred customers in one call instead of a thousand, so that a tenth of the customers makes as many calls."""
    monkeypatch.setattr(RebillyCommander, "ways", replace(RebillyCommander.ways, customers_max=100))


async def answered(post: Post, count: int, at_most_s: float) -> None:
    async with asyncio.timeout(at_most_s):
        while len(post.outcomes) < count:  # noqa: ASYNC110 (nobody tells when Kafka has something)
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("delay_s", [0.0, 8.0, 40.0])
@pytest.mark.usefixtures("small_slices")
def test_a_command_is_applied_when_what_it_did_is_seen_by_whomever(delay_s: float) -> None:
    """What takes longer than a glance may be seen by one first; it is told as the command's all the same."""
    tagged(250, delay_s)


def test_many_are_tagged_by_few_calls() -> None:
    tagged(2_500, 0.5)


def tagged(customers: int, delay_s: float) -> None:
    """By three calls."""

    async def main(clock: VirtualClock) -> None:
        house = Organization(clock, customers, bulk_delay=delay_s)
        post, uids = Post(house), house.uids()
        async with living(house) as shard:
            await asyncio.sleep(30)
            before = house.asked["bulk"]
            had = house.have()
            shard.deliver([post.command("tag", "t1", customers=uids, tag=house.tag)])
            begin = clock.monotonic()
            await answered(post, 1, 200)
            assert house.have() == set(uids)
            assert house.asked["bulk"] - before == 3
            assert clock.monotonic() - begin > delay_s
        assert post.words == [("t1", "applied")]
        assert post.outcomes[0]["count"] == customers
        moved = house.moved()
        assert sorted(event.uid for event in moved) == sorted(set(uids) - had)
        assert {(event.verb, event.data["cause"].get("ref")) for event in moved} == {("tagged", "t1")}
        house.seen = 0
        house.check()

    run_virtual(main)


def test_untagging_is_the_same_the_other_way() -> None:
    async def main(clock: VirtualClock) -> None:
        house = Organization(clock)
        post, uids = Post(house), house.uids()
        async with living(house) as shard:
            shard.deliver([post.command("tag", "t1", customers=uids, tag=house.tag)])
            shard.deliver([post.command("untag", "t2", customers=uids[:20], tag=house.tag)])
            await answered(post, 2, 100)
            assert house.have() == set(uids[20:])
        assert post.words == [("t1", "applied"), ("t2", "applied")]
        house.check()

    run_virtual(main)


def test_who_is_unknown_or_gone_is_named() -> None:
    async def main(clock: VirtualClock) -> None:
        house = Organization(clock)
        post, uids = Post(house), house.uids()
        async with living(house) as shard:
            await asyncio.sleep(20)
            house.world.changes.merge(uids[0], uids[1])
            shard.deliver([post.command("tag", "t1", customers=[*uids, "cus_nobody"], tag=house.tag)])
            await answered(post, 1, 200)
        (outcome,) = post.outcomes
        assert outcome["outcome"] == "partly"
        others = {other["why"]: other["uids"] for other in outcome["others"]}
        assert others == {"unknown": ["cus_nobody"], "gone": [uids[0]]}
        assert outcome["count"] == len(uids) - 1

    run_virtual(main)


def test_who_was_lost_on_the_way_is_named_and_done_by_the_next_command() -> None:
    async def main(clock: VirtualClock) -> None:
        house = Organization(clock, bulk_lost=True)
        post = Post(house)
        uids = sorted(set(house.uids()) - house.have())
        async with living(house) as shard:
            shard.deliver([post.command("tag", "t1", customers=uids, tag=house.tag, confirm_within=20)])
            begin = clock.monotonic()
            await answered(post, 1, 200)
            assert clock.monotonic() - begin == pytest.approx(20, abs=3)
            (lost,) = set(uids) - house.have()
            shard.deliver([post.command("tag", "t2", customers=[lost, *uids[:3]], tag=house.tag, confirm_within=20)])
            await answered(post, 2, 200)
        assert post.words == [("t1", "unconfirmed"), ("t2", "applied")]
        assert post.outcomes[0]["others"] == [{"why": "unconfirmed", "count": 1, "uids": [lost]}]

    run_virtual(main)


def test_what_the_provider_cannot_do_is_refused_before_it_is_asked() -> None:
    async def main(clock: VirtualClock) -> None:
        house = Organization(clock)
        post, uids = Post(house), house.uids()
        async with living(house) as shard:
            shard.deliver(
                [
                    post.command("rename", "r1", customer=uids[0], new_customer_id="other"),
                    post.command("tag", "t1", customers=uids[:1], tag="no-such-tag"),
                ]
            )
            await answered(post, 2, 60)
        assert post.words == [("r1", "rejected"), ("t1", "rejected")]
        assert house.asked["bulk"] == 0

    run_virtual(main)


def test_a_tag_that_is_renamed_meanwhile_is_asked_for_under_its_new_name() -> None:
    async def main(clock: VirtualClock) -> None:
        house = Organization(clock)
        post, uids, send = Post(house), house.uids(), house.api.send
        renamed = False

        async def renaming(request: Request) -> Response:
            nonlocal renamed
            if request.method == "POST" and not renamed:
                renamed = True
                house.world.changes.rename_tag(house.tag, "another name")
            return await send(request)

        house.api.send = renaming  # type: ignore[method-assign]
        async with living(house) as shard:
            shard.deliver([post.command("tag", "t1", customers=uids, tag=house.tag)])
            await answered(post, 1, 100)
            assert house.have() == set(uids)
        assert post.words == [("t1", "applied")]

    run_virtual(main)


@pytest.mark.usefixtures("small_slices")
def test_lives_that_end_in_the_middle_answer_once() -> None:
    async def main(clock: VirtualClock) -> None:
        house = Organization(clock, 250, bulk_delay=8.0)
        post, uids = Post(house), house.uids()
        await house.live(30)
        record = post.command("tag", "t1", customers=uids, tag=house.tag)
        for _ in range(12):
            shard: Shard = house.shard()
            async with asyncio.TaskGroup() as group:
                task = group.create_task(shard.serve())
                await asyncio.sleep(2.0)
                shard.deliver([record])
                await asyncio.wait([task], timeout=1.7)
                task.cancel()
        async with living(house) as shard:
            shard.deliver([record])
            await answered(post, 1, 200)
            await asyncio.sleep(30)
        assert post.words == [("t1", "applied")]
        assert house.have() == set(uids)
        house.check()

    run_virtual(main)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("delay_s", [0.0, 5.0])
def test_a_call_whose_answer_is_lost_is_repeated_harmlessly(delay_s: float, before: bool) -> None:
    async def main(clock: VirtualClock) -> None:
        house = Organization(clock, bulk_delay=delay_s)
        post, tap, uids = Post(house), Tap(house), house.uids()
        had = house.have()
        tap.around = lose("/customers", 1, before=before)
        async with living(house) as shard:
            shard.deliver([post.command("tag", "t1", customers=uids, tag=house.tag)])
            await answered(post, 1, 100)
            await asyncio.sleep(30)
        assert post.words == [("t1", "applied")]
        assert (len(tap.writes()), house.asked["bulk"]) == (2, 1 if before else 2)
        assert sorted(event.uid for event in house.moved()) == sorted(set(uids) - had)
        house.seen = 0
        house.check()

    run_virtual(main)


def test_of_many_a_slice_is_refused_and_the_others_are_done() -> None:
    """The provider says `later` in the middle, then refuses the second thousand: counted, and named in part."""

    async def main(clock: VirtualClock) -> None:
        house = Organization(clock, 2_500, bulk_delay=0.0)
        post, tap, uids = Post(house), Tap(house), house.uids()
        house.world.changes.tag(house.tag, uids, on=False)
        answers = [None, 429, 422, None]
        written: list[float] = []

        async def around(request: Request, go_on: Callable[[], Awaitable[Response]]) -> Response:
            if request.method == "GET":
                return await go_on()
            written.append(clock.monotonic())
            match answers.pop(0):
                case 429:
                    return Response(429, {"x-ratelimit-retry-after": str(int(clock.wall()) + 20)}, b"")
                case 422:
                    return Response(422, {}, b'{"status": 422, "invalidFields": [{"field": "customerIds.7"}]}')
            return await go_on()

        tap.around = around
        async with living(house) as shard:
            shard.deliver([post.command("tag", "t1", customers=uids, tag=house.tag)])
            await answered(post, 1, 200)
        [outcome] = post.outcomes
        assert (outcome["outcome"], outcome["count"]) == ("partly", 1_500)
        assert outcome["detail"].endswith("tags.customers answered 422, not accepted: customerIds.7")
        [others] = outcome["others"]
        assert (others["why"], others["count"]) == ("refused", 1_000)
        assert others["uids"] == uids[1_000 : 1_000 + UIDS_LISTED_MAX]
        assert house.have() == {*uids[:1_000], *uids[2_000:]}
        assert not answers, "no slice is asked for twice but the one that had to wait"
        assert written[2] - written[1] >= 19

    run_virtual(main)


@pytest.mark.usefixtures("small_slices")
def test_a_crash_between_two_slices_repeats_none_that_is_done() -> None:
    async def main(clock: VirtualClock) -> None:
        house = Organization(clock, 250, bulk_delay=1.0)
        post, tap, uids = Post(house), Tap(house), house.uids()
        had = house.have()

        async def around(request: Request, go_on: Callable[[], Awaitable[Response]]) -> Response:
            if request.method == "POST" and house.asked["bulk"]:
                await asyncio.sleep(60)  # longer than this life
            return await go_on()

        tap.around = around
        record = post.command("tag", "t1", customers=uids, tag=house.tag)
        shard = house.shard()
        life = asyncio.get_running_loop().create_task(shard.serve())
        await asyncio.sleep(3)
        shard.deliver([record])
        await until(lambda: len(tap.writes()) == 2)
        life.cancel()
        await asyncio.wait([life])
        assert house.asked["bulk"] == 1
        tap.around = None
        async with living(house):
            await answered(post, 1, 100)
            await asyncio.sleep(30)
        assert (post.words, post.outcomes[0]["count"]) == ([("t1", "applied")], 250)
        assert house.asked["bulk"] == 3
        moved = house.moved()
        assert sorted(event.uid for event in moved) == sorted(set(uids) - had)
        assert {event.data["cause"].get("ref") for event in moved} == {"t1"}
        house.seen = 0
        house.check()

    run_virtual(main)


@pytest.mark.parametrize("polled", [True, False])
@pytest.mark.usefixtures("small_slices")
def test_a_tag_that_is_deleted_between_two_slices_is_refused_for_the_others(polled: bool) -> None:
    """polled: whether the bridge knows of it before the provider refuses."""

    async def main(clock: VirtualClock) -> None:
        house = Organization(clock, 250, bulk_delay=0.0)
        post, tap, uids = Post(house), Tap(house), house.uids()
        tag = house.tag

        async def around(request: Request, go_on: Callable[[], Awaitable[Response]]) -> Response:
            if request.method == "POST" and house.asked["bulk"]:
                house.call("DELETE", tag)
                if polled:
                    return Response(503, {"retry-after": "30"}, b"")
            return await go_on()

        tap.around = around
        async with living(house) as shard:
            shard.deliver([post.command("tag", "t1", customers=uids, tag=tag)])
            await answered(post, 1, 100)
            tap.around = None
            await asyncio.sleep(60)
        [outcome] = post.outcomes
        said = "the tag is gone" if polled else "tags.customers: there is no such tag"
        assert (outcome["outcome"], outcome["detail"]) == ("partly", f"100 of 250 customers have the tag; {said}")
        assert outcome["others"] == [{"why": "refused", "count": 150, "uids": uids[100:]}]
        assert len(tap.writes()) == 2
        house.seen = 0
        house.check()

    run_virtual(main)
