"""Tags for many customers at Rebilly: only what is seen afterwards counts, however late, and whoever is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from bridge.runtime.shard import Shard
from bridge.source.transport import Request, Response
from tests.runtime.estates import Estate
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


async def answered(post: Post, count: int, at_most_s: float) -> None:
    async with asyncio.timeout(at_most_s):
        while len(post.outcomes) < count:  # noqa: ASYNC110 (nobody tells when Kafka has something)
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("delay_s", [0.0, 0.5, 40.0])
def test_many_are_tagged_by_few_calls_and_it_is_applied_when_it_is_seen(delay_s: float) -> None:
    async def main(clock: VirtualClock) -> None:
        house = Organization(clock, 2_500, bulk_delay=delay_s)
        post, uids = Post(house), house.uids()
        async with living(house) as shard:
            await asyncio.sleep(30)
            before = house.asked["bulk"]
            had = house.have()
            shard.deliver([post.command("tag", "t1", customers=uids, tag=house.tag)])
            await answered(post, 1, 200)
            assert house.have() == set(uids)
            assert house.asked["bulk"] - before == 3
            assert clock.monotonic() > delay_s
        assert post.words == [("t1", "applied")]
        assert post.outcomes[0]["count"] == 2_500
        moved = [
            event for event in house.news() if event.verb == "tagged" and event.data["cause"]["path"] != "snapshot"
        ]
        assert {event.uid for event in moved} == set(uids) - had
        assert {event.data["cause"].get("ref") for event in moved} <= {"t1", None}
        if delay_s < 10:  # later ones may be seen by a glance first
            assert {event.data["cause"].get("ref") for event in moved} == {"t1"}
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


def test_lives_that_end_in_the_middle_answer_once() -> None:
    async def main(clock: VirtualClock) -> None:
        house = Organization(clock, 2_500, bulk_delay=8.0)
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
