"""Commands at the provider: each has its effect once and one outcome, whatever happens on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from random import Random
from typing import Any

import orjson
import pytest

from bridge.errors import CommitUnknown, PublishError
from bridge.event.envelope import EventBuilder
from bridge.model import Account, iso
from bridge.publish.inbox import InboxRecord
from bridge.runtime.commands import queue as queues
from bridge.runtime.commands.executor import RETRY_S_MAX
from bridge.source.transport import Request, Response
from tests.runtime.commanding import (
    Tap,
    causes,
    happened,
    left_over,
    lose,
    name_of,
    names,
    retag,
    tags_of,
    uid_of,
    until,
    until_answered,
)
from tests.runtime.members import Club
from tests.runtime.posting import Post, living
from tests.runtime.shards import House
from tests.support.clock import VirtualClock, run_virtual

# Rename.


@pytest.mark.parametrize("by", ["customer", "customer_id"])
def test_a_rename_is_done_at_once_and_told_once_as_its_effect(by: str) -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        post, tap = Post(house), Tap(house)
        old = names(house)[3]
        uid = uid_of(house, old)
        async with living(house) as shard:
            begin = clock.monotonic()
            who = {by: uid if by == "customer" else old}
            shard.deliver([post.command("rename", "r1", **who, new_customer_id="brand/new %")])
            await until_answered(post, 1)
            assert clock.monotonic() - begin < 1.0
            assert name_of(house, uid) == "brand/new %"
            await asyncio.sleep(30)
        assert post.words == [("r1", "applied")]
        assert causes(house, "customer.renamed") == [{"path": "command", "ref": "r1"}]
        assert len(tap.writes()) == 1
        assert left_over(house) == []
        _, text = house.metrics.render()
        assert 'bridge_commands_total{kind="rename",outcome="applied",source="acme"} 1.0' in text.decode()

    run_virtual(main)


@pytest.mark.parametrize("latency_ms", [0, 40, 900])
@pytest.mark.parametrize("bumps", ["true", "false"])
def test_whoever_sees_a_rename_first_it_is_told_once(latency_ms: int, bumps: str) -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock, latency_ms=latency_ms, rename_bumps_updated_at=bumps)
        post = Post(house)
        uid = uid_of(house, names(house)[0])
        shard = house.shard()
        async with asyncio.TaskGroup() as group:
            group.create_task(shard.serve())
            await asyncio.sleep(10)
            for number in range(8):
                shard.deliver([post.command("rename", customer=uid, new_customer_id=f"name-{number}")])
                await asyncio.sleep(0.61 * number)
            await until_answered(post, 8)
            await asyncio.sleep(20)
            shard.drain()
        told = causes(house, "customer.renamed")
        assert {result for _, result in post.words} == {"applied"}
        assert len(told) == happened(house, "renamed") == 8
        assert {cause["path"] for cause in told} <= {"command", "poll"}

    run_virtual(main)


@pytest.mark.parametrize("again", [False, True])
def test_a_list_that_is_late_does_not_take_back_what_a_command_has_done(again: bool) -> None:
    """The provider does not date a rename, so nothing but a second look can tell which copy is the older one."""

    async def main(clock: VirtualClock) -> None:
        house = House(clock, rename_bumps_updated_at="false", late_visibility_s="8")
        post = Post(house)
        uid = uid_of(house, names(house)[0])
        async with living(house) as shard:
            await asyncio.sleep(100)  # longer than anything is doubted after an opening
            shard.deliver([post.command("rename", customer=uid, new_customer_id="new")])
            await until_answered(post, 1)
            if not again:
                shard.deliver([post.signal("resync", "customers")])
                await asyncio.sleep(20)
        if again:
            async with living(house) as shard:
                shard.deliver([post.signal("resync", "customers")])
                await asyncio.sleep(20)
        assert causes(house, "customer.renamed") == [{"path": "command", "ref": "id-0"}]
        house.world.rename_customer("new", "newer")
        async with living(house) as shard:
            await asyncio.sleep(100)
            shard.deliver([post.signal("resync", "customers")])
            await asyncio.sleep(20)
        assert causes(house, "customer.renamed")[1:] == [{"path": "sweep"}], "later ones are seen"

    run_virtual(main)


@pytest.mark.parametrize("before", [False, True])
def test_a_write_whose_answer_is_lost_is_looked_at_before_it_is_repeated(before: bool) -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock, customers=20, tags=3)
        post, tap = Post(house), Tap(house)
        first, second = names(house)[:2]
        uid, tag = uid_of(house, first), next(iter(house.world.tags))
        retag(house, second)
        async with living(house) as shard:
            tap.around = lose("/change_customer_id", 1, before=before)
            shard.deliver([post.command("rename", customer=uid, new_customer_id="new")])
            await until_answered(post, 1)
            tap.around = lose("/tags", 1, before=before)
            shard.deliver([post.command("tag", tag=tag, customers=[uid_of(house, second)])])
            await until_answered(post, 2)
        assert [result for _, result in post.words] == ["applied", "applied"]
        assert (happened(house, "renamed"), tags_of(house, second)) == (1, {tag})
        assert len(tap.writes()) == (4 if before else 2)

    run_virtual(main)


@pytest.mark.parametrize("commit", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["rename", "rename by name", "tag"])
def test_a_crash_between_the_effect_and_its_commit_is_made_good_by_the_next_owner(kind: str, commit: int) -> None:
    """Whichever commit is lost: of the acceptance, of the note that it has begun, of the outcome."""

    async def main(clock: VirtualClock) -> None:
        house = House(clock, customers=20, tags=3)
        post = Post(house)
        name = names(house)[0]
        uid, tag = uid_of(house, name), next(iter(house.world.tags))
        retag(house, name)
        shard = house.shard()
        life = asyncio.get_running_loop().create_task(shard.serve())
        await asyncio.sleep(3.2)  # the tick has just committed
        published = house.kafka.published

        def fail(number: int) -> PublishError | None:
            return CommitUnknown("?") if number >= published + commit else None

        house.kafka.fail = fail
        if kind == "tag":
            shard.deliver([post.command("tag", tag=tag, customers=[uid])])
        else:
            who = {"customer": uid} if kind == "rename" else {"customer_id": name}
            shard.deliver([post.command("rename", **who, new_customer_id="new")])
        with pytest.raises(CommitUnknown):
            await life
        house.kafka.fail = lambda _: None
        async with living(house) as shard:
            if house.kafka.offset == 0:
                shard.deliver(post.sent)
            await until_answered(post, 1)
            await asyncio.sleep(10)
        assert post.words == [("id-0", "applied")]
        assert left_over(house) == []
        if kind == "tag":
            assert tags_of(house, name) == {tag}
        else:
            assert (name_of(house, uid), happened(house, "renamed")) == ("new", 1)
            assert len(causes(house, "customer.renamed")) == 1

    run_virtual(main)


@pytest.mark.parametrize("kind", ["rename", "tag"])
def test_what_has_begun_in_time_does_not_expire_in_a_crash(kind: str) -> None:
    """It may have had its effect, so nobody may say that it had none."""

    async def main(clock: VirtualClock) -> None:
        house = House(clock, customers=20, tags=3)
        post, tap = Post(house), Tap(house)
        name = names(house)[0]
        uid, tag = uid_of(house, name), next(iter(house.world.tags))
        retag(house, name)

        async def around(request: Request, go_on: Callable[[], Awaitable[Response]]) -> Response:
            answer = await go_on()
            if request.method != "GET" and "/users/" in request.path:
                house.kafka.fail = lambda _: CommitUnknown("?")
                await asyncio.sleep(30)
            return answer

        tap.around = around
        shard = house.shard()
        life = asyncio.get_running_loop().create_task(shard.serve())
        await asyncio.sleep(3)
        not_after = iso(int((clock.wall() + 5) * 1_000_000))
        what = {"tag": tag, "customers": [uid]} if kind == "tag" else {"customer": uid, "new_customer_id": "new"}
        shard.deliver([post.command(kind, **what, not_after=not_after)])
        with pytest.raises(CommitUnknown):
            await life
        house.kafka.fail, tap.around = lambda _: None, None
        await asyncio.sleep(10)
        async with living(house):
            await until_answered(post, 1)
        assert post.words == [("id-0", "applied")]

    run_virtual(main)


def test_what_was_done_and_cannot_be_looked_at_is_told_when_it_is_seen() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        post, tap = Post(house), Tap(house)
        name = names(house)[0]
        uid = uid_of(house, name)
        full = orjson.dumps([{}] * 100)

        async def around(request: Request, go_on: Callable[[], Awaitable[Response]]) -> Response:
            if {"search", "email", "phone_number"} & dict(request.query).keys():
                return Response(200, {}, full)  # may be cut, so it proves nothing
            if request.path.endswith("/users/new"):
                return Response(400, {}, b"")
            return await go_on()

        tap.around = around
        async with living(house) as shard:
            shard.deliver([post.command("rename", customer=uid, new_customer_id="new")])
            await until_answered(post, 1)
            assert post.last[1] == "applied"
            await asyncio.sleep(10)
        assert causes(house, "customer.renamed") == [{"path": "poll"}]

    run_virtual(main)


def test_renames_are_done_in_the_order_of_the_inbox_and_the_loser_is_told_why() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        post = Post(house)
        a, b, taken = names(house)[:3]
        one, two = uid_of(house, a), uid_of(house, b)
        async with living(house) as shard:
            shard.deliver(
                [
                    post.command("rename", customer_id=a, new_customer_id="third"),
                    post.command("rename", customer_id=a, new_customer_id="late"),
                    post.command("rename", customer_id=b, new_customer_id=a),
                    post.command("rename", customer_id="third", new_customer_id=b),
                    post.command("rename", customer=one, new_customer_id=b),
                    post.command("rename", customer=one, new_customer_id=taken),
                    post.command("rename", customer="nobody", new_customer_id="x"),
                ]
            )
            await until_answered(post, 7)
            await asyncio.sleep(10)
        words = [result for _, result in post.words]
        assert words == ["applied", "rejected", "applied", "applied", "applied", "rejected", "rejected"]
        assert [post.outcomes[at]["detail"] for at in (1, 5, 6)] == [
            "the provider has no customer with this customer_id",
            "customers.rename answered 400 (BAD_REQUEST)",
            "the bridge knows no customer with this uid",
        ]
        assert (name_of(house, one), name_of(house, two)) == (b, a)
        assert len(causes(house, "customer.renamed")) == happened(house, "renamed") == 3

    run_virtual(main)


# Tag and untag.


def test_a_tag_command_keeps_other_tags_and_publishes_what_it_has_done() -> None:
    async def main(clock: VirtualClock) -> None:
        club = Club(clock, 60, 4, sweep_s=3600.0)
        post = Post(club)
        tag, other = list(club.world.tags)[:2]
        for name in names(club)[:3]:
            retag(club, name, other)
        uids = [club.uid(name) for name in names(club)[:3]]
        async with living(club) as shard:
            await asyncio.sleep(10)
            shard.deliver([post.command("tag", "t1", tag=tag, customers=[*uids, uids[0]])])
            await until_answered(post, 1)
            assert all(tags_of(club, name) == {tag, other} for name in names(club)[:3])
            shard.deliver([post.command("untag", "u1", tag=other, customers=uids)])
            await until_answered(post, 2)
        assert [(o["outcome"], o["count"], o["detail"]) for o in post.outcomes] == [
            ("applied", 3, "3 of 3 customers have the tag"),
            ("applied", 3, "3 of 3 customers do not have the tag"),
        ]
        club.check()
        assert causes(club, "customer.tagged") == [{"path": "command", "ref": "t1"}] * 3
        assert causes(club, "customer.untagged") == [{"path": "command", "ref": "u1"}] * 3

    run_virtual(main)


def test_where_memberships_are_not_read_the_outcome_says_what_was_seen() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock, 12, 3)
        post = Post(house)
        tag = next(iter(house.world.tags))
        chosen = names(house)[:4]
        uids = [uid_of(house, name) for name in chosen]
        async with living(house) as shard:
            house.world.delete_customer(chosen[3])
            shard.deliver([post.command("tag", tag=tag, customers=[*uids, "nobody", "some@body.example"])])
            await until_answered(post, 1)
        outcome = post.outcomes[0]
        assert (outcome["outcome"], outcome["count"]) == ("partly", 3)
        assert outcome["others"] == [
            {"why": "gone", "count": 1, "uids": [uids[3]]},
            {"why": "unknown", "count": 2, "uids": ["nobody"]},
        ]
        assert all(tag in tags_of(house, name) for name in chosen[:3])
        assert causes(house, "customer.tagged") == []

    run_virtual(main)


def test_a_bulk_command_is_resumed_where_it_was_and_nobody_is_written_to_twice() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock, 130, 3, latency_ms=20)
        post, tap = Post(house), Tap(house)
        tag = next(iter(house.world.tags))
        for name in names(house):
            retag(house, name)
        uids = [uid_of(house, name) for name in names(house)]
        throttle = [40]

        async def around(request: Request, go_on: Callable[[], Awaitable[Response]]) -> Response:
            if request.method == "PUT":
                throttle[0] -= 1
                if throttle[0] in (0, 3):
                    return Response(429, {"retry-after": "2"}, b"")
            return await go_on()

        tap.around = around
        shard = house.shard()
        life = asyncio.get_running_loop().create_task(shard.serve())
        await asyncio.sleep(3)
        shard.deliver([post.command("tag", tag=tag, customers=uids)])
        await until(lambda: b'"next":50' in house.store.get_many(["acme/doing/id-0"]).get("acme/doing/id-0", b""))
        assert sum(tag in tags_of(house, name) for name in names(house)) < 130
        life.cancel()
        await asyncio.wait([life])
        reads = len(tap.seen)
        async with living(house):
            await until_answered(post, 1)
        assert (post.outcomes[0]["outcome"], post.outcomes[0]["count"]) == ("applied", 130)
        puts = [path for path in tap.writes() if path.endswith("/tags")]
        assert len(puts) == 130 + 2, "each once, and what was refused again"
        again = [path for _, path in tap.seen[reads:] if "/users/" in path and path.endswith("/tags")]
        assert len(set(again)) <= 80, "the first slice is not looked at again"

    run_virtual(main)


def test_what_is_taken_and_never_seen_is_unconfirmed_after_a_while() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock, 12, 3)
        post, tap = Post(house), Tap(house)
        tag = next(iter(house.world.tags))
        chosen = names(house)[:3]
        for name in chosen:
            retag(house, name)

        async def around(request: Request, go_on: Callable[[], Awaitable[Response]]) -> Response:
            if request.method == "PUT" and f"/{chosen[1]}/" in request.path:
                return Response(200, {}, b"[]")
            return await go_on()

        tap.around = around
        async with living(house) as shard:
            begin = clock.monotonic()
            uids = [uid_of(house, name) for name in chosen]
            shard.deliver([post.command("tag", tag=tag, customers=uids, confirm_within=20.0)])
            shard.deliver([post.command("rename", customer=uids[0], new_customer_id="behind")])
            await until_answered(post, 2)
            assert 20 <= clock.monotonic() - begin < 22
        outcome = post.outcomes[0]
        assert (outcome["outcome"], outcome["count"]) == ("unconfirmed", 2)
        assert outcome["others"] == [{"why": "unconfirmed", "count": 1, "uids": [uids[1]]}]
        assert post.words[1][1] == "applied"

    run_virtual(main)


@pytest.mark.parametrize("memberships", [False, True])
def test_who_was_overtaken_by_another_writer_writes_again_and_keeps_the_others_tag(memberships: bool) -> None:
    async def main(clock: VirtualClock) -> None:
        house = Club(clock, 12, 3, sweep_s=3600.0) if memberships else House(clock, 12, 3)
        post, tap = Post(house), Tap(house)
        tag, other = list(house.world.tags)[:2]
        name = names(house)[0]
        retag(house, name)
        times = [2]

        async def around(request: Request, go_on: Callable[[], Awaitable[Response]]) -> Response:
            answer = await go_on()
            if request.method == "PUT" and times[0]:
                times[0] -= 1
                retag(house, name, other)  # from what somebody else had read before our write
            return answer

        tap.around = around
        async with living(house) as shard:
            await asyncio.sleep(5)
            shard.deliver([post.command("tag", tag=tag, customers=[uid_of(house, name)])])
            await until_answered(post, 1)
        assert post.words == [("id-0", "applied")]
        assert tags_of(house, name) == {tag, other}
        if isinstance(house, Club):
            house.check()

    run_virtual(main)


def test_a_tag_that_somebody_sets_while_a_command_runs_stays() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock, 12, 3)
        post, tap = Post(house), Tap(house)
        tag, other = list(house.world.tags)[:2]
        name = names(house)[0]
        retag(house, name)

        async def around(request: Request, go_on: Callable[[], Awaitable[Response]]) -> Response:
            answer = await go_on()
            if request.method == "GET" and request.path.endswith(f"/users/{name}") and not tags_of(house, name):
                retag(house, name, other)  # behind the look at who it is
            return answer

        tap.around = around
        async with living(house) as shard:
            shard.deliver([post.command("tag", tag=tag, customers=[uid_of(house, name)])])
            await until_answered(post, 1)
        assert tags_of(house, name) == {tag, other}

    run_virtual(main)


def test_a_tag_may_be_named_as_long_as_one_alone_has_the_name() -> None:
    """When it is executed: by then a tag may have gone, or have got the name of another."""

    async def main(clock: VirtualClock) -> None:
        house = House(clock, 12, 3)
        post, tap = Post(house), Tap(house)
        name = names(house)[0]
        uid, tag = uid_of(house, name), next(iter(house.world.tags))
        retag(house, name)
        twin = house.world.create_tag("of two")["id"]
        house.world.create_tag("of two")
        async with living(house) as shard:
            asked: dict[str, Any] = {"customers": [uid], "tag_name": "of two"}
            shard.deliver([post.command("tag", **asked), post.command("tag", **{**asked, "tag_name": "of none"})])
            await until_answered(post, 2)
            assert tap.writes() == []
            shard.deliver([post.signal("pause", "customers"), post.command("tag", **asked)])
            house.world.delete_tag(twin)
            await asyncio.sleep(20)
            shard.deliver([post.signal("resume", "customers"), post.command("untag", **{**asked, "tag_name": tag})])
            await until_answered(post, 6)
        said = {outcome["id"]: (outcome["outcome"], outcome["detail"]) for outcome in post.outcomes}
        assert said["id-0"] == ("rejected", "several tags have this name")
        assert said["id-1"] == ("rejected", "the bridge knows no tag of this name")
        assert (said["id-3"][0], said["id-5"][0]) == ("applied", "applied"), "a uid is a name as well"
        assert [house.world.tags[its]["tag"] for its in tags_of(house, name)] == ["of two"]

    run_virtual(main)


def test_a_tag_that_is_gone_by_then_is_a_clear_answer() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock, 12, 4)
        post, tap = Post(house), Tap(house)
        known, unseen, _ = list(house.world.tags)[:3]
        uid = uid_of(house, names(house)[0])
        house.world.delete_tag(known)
        async with living(house) as shard:
            shard.deliver([post.command("tag", tag=known, customers=[uid])])
            await until_answered(post, 1)
            assert tap.writes() == []
            house.world.delete_tag(unseen)  # not polled yet
            shard.deliver([post.command("tag", tag=unseen, customers=[uid])])
            await until_answered(post, 2)
        assert [(o["outcome"], o["detail"]) for o in post.outcomes] == [
            ("rejected", "the bridge knows no such tag"),
            ("rejected", "0 of 1 customers have the tag; customers.tags.set answered 400 (BAD_REQUEST)"),
        ]

    run_virtual(main)


# Refresh.


def test_a_refresh_publishes_what_polls_do_not_see() -> None:
    async def main(clock: VirtualClock) -> None:
        club = Club(clock, 12, 3, sweep_s=3600.0, switches={"rename_bumps_updated_at": "false"})
        post = Post(club)
        name = names(club)[0]
        uid = club.uid(name)
        tag, other = list(club.world.tags)[:2]
        retag(club, name, tag)
        async with living(club) as shard:
            await asyncio.sleep(10)
            club.world.rename_customer(name, "unseen")
            shard.deliver([post.command("refresh", "f1", collection="customers", uids=[uid, "nobody"])])
            await until_answered(post, 1)
            assert (post.last[1], post.outcomes[0]["count"]) == ("partly", 1)
            assert causes(club, "customer.renamed") == [{"path": "command", "ref": "f1"}]
            retag(club, "unseen", other)
            shard.deliver([post.command("refresh", "f2", collection="memberships", uids=[uid])])
            shard.deliver([post.command("refresh", "f3", collection="tags", uids=[tag])])
            shard.deliver([post.command("refresh", "f4", collection="users", uids=[tag])])
            await until_answered(post, 4)
            assert causes(club, "customer.tagged") == [{"path": "command", "ref": "f2"}]
            assert dict(post.words) == {"f1": "partly", "f2": "applied", "f3": "applied", "f4": "rejected"}

    run_virtual(main)


# Time, trouble, and many of them.


def test_a_command_whose_time_is_over_has_no_effect() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        post, tap = Post(house), Tap(house)
        uid = uid_of(house, names(house)[0])

        def moment(after_s: float) -> str:
            return iso(int((clock.wall() + after_s) * 1_000_000))

        async with living(house) as shard:
            late = {"customer": uid, "new_customer_id": "late"}
            shard.deliver([post.command("rename", **late, not_after=moment(-1))])
            await until_answered(post, 1)
            shard.deliver([post.signal("pause", "customers"), post.command("rename", **late, not_after=moment(30))])
            shard.deliver([post.command("rename", customer=uid, new_customer_id="good", not_after=moment(300))])
            await asyncio.sleep(29)
            assert len(post.outcomes) == 2
            await asyncio.sleep(2)
            shard.deliver([post.signal("resume")])
            await until_answered(post, 5)
        words = [result for _, result in post.words]
        assert words == ["expired", "applied", "expired", "applied", "applied"]
        assert (len(tap.writes()), name_of(house, uid)) == (1, "good")

    run_virtual(main)


def test_a_provider_that_fails_is_asked_again_for_a_while_and_nothing_else_waits() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock, 12, 3)
        post, tap = Post(house), Tap(house)
        uid = uid_of(house, names(house)[0])

        async def around(request: Request, go_on: Callable[[], Awaitable[Response]]) -> Response:
            return await go_on() if request.method == "GET" else Response(503, {}, b"")

        async with living(house) as shard:
            tap.around = around
            begin = clock.monotonic()
            shard.deliver([post.command("rename", customer=uid, new_customer_id="never")])
            await asyncio.sleep(100)
            shard.deliver([post.signal("pause", "tags"), post.signal("resume", "tags")])
            polls = sum(path.endswith("/customers/users") for _, path in tap.seen)
            await asyncio.sleep(100)
            assert sum(path.endswith("/customers/users") for _, path in tap.seen) >= polls + 19
            assert [result for _, result in post.words] == ["applied", "applied"], "the signals"
            await until_answered(post, 3, RETRY_S_MAX)
            assert RETRY_S_MAX - 90 < clock.monotonic() - begin < RETRY_S_MAX + 10
            assert post.last[1:] == ("failed", "customers.rename answered 503")
            tap.around = None
            shard.deliver([post.command("rename", customer=uid, new_customer_id="then")])
            await until_answered(post, 4)
            assert name_of(house, uid) == "then"

    run_virtual(main)


def test_a_bulk_command_at_a_provider_that_fails_lists_what_was_not_done() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock, 130, 3)
        post, tap = Post(house), Tap(house)
        tag = next(iter(house.world.tags))
        for name in names(house):
            retag(house, name)
        uids = [uid_of(house, name) for name in names(house)]
        left = [60]

        async def around(request: Request, go_on: Callable[[], Awaitable[Response]]) -> Response:
            if request.method == "PUT":
                left[0] -= 1
                if left[0] < 0:
                    return Response(500, {}, b"")
            return await go_on()

        tap.around = around
        async with living(house) as shard:
            shard.deliver([post.command("tag", tag=tag, customers=uids)])
            await until_answered(post, 1, 3 * RETRY_S_MAX)
        outcome = post.outcomes[0]
        assert (outcome["outcome"], outcome["count"]) == ("partly", 60)
        assert [(group["why"], group["count"]) for group in outcome["others"]] == [("failed", 70)]
        done = [uid for uid in uids if tag in tags_of(house, name_of(house, uid) or "")]
        assert sorted([*done, *outcome["others"][0]["uids"]]) == sorted(uids)

    run_virtual(main)


def test_a_flood_is_accepted_and_polls_and_signals_keep_their_share() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock, 50, 3, latency_ms=30)
        post, tap = Post(house), Tap(house)
        uid = uid_of(house, names(house)[0])
        async with living(house) as shard:
            begin = clock.monotonic()
            shard.deliver(
                [post.command("rename", customer=uid, new_customer_id=f"name-{n}") for n in range(120)]
                + [post.signal("pause", "tags", "the-pause")]
            )
            await asyncio.sleep(0.2)
            assert ("the-pause", "applied") in post.words
            await until_answered(post, 121, 600)
            polls = sum(path.endswith("/customers/users") for _, path in tap.seen)
            assert polls > (clock.monotonic() - begin) / 10
        assert [id_ for id_, _ in post.words if id_ != "the-pause"] == [f"id-{number}" for number in range(120)]
        assert happened(house, "renamed") == 120
        assert left_over(house) == []

    run_virtual(main)


def test_a_flood_for_one_source_holds_up_no_other_source_of_the_shard() -> None:
    async def main(clock: VirtualClock) -> None:
        house, other = House(clock, 12, 3, latency_ms=400), House(clock, 12, 3)
        account = Account("billing", "dintero", "T87654321")
        billing = replace(other.reader, account=account, builder=EventBuilder(account), metrics=house.metrics)
        house.readers = [house.reader, billing]
        post, polled = Post(house), Tap(other)
        uid, its = uid_of(house, names(house)[0]), uid_of(other, names(other)[0])
        async with living(house) as shard:
            await asyncio.sleep(10)
            shard.deliver([post.command("rename", customer=uid, new_customer_id=f"name-{n}") for n in range(200)])
            await asyncio.sleep(20)
            polls = len(polled.seen)
            fields = {"id": "b", "kind": "rename", "source": "billing", "sent_at": "2026-11-21T08:15:30Z"}
            asked = orjson.dumps({**fields, "customer": its, "new_customer_id": "at once"})
            shard.deliver([post.raw(asked, b"billing")])
            await asyncio.sleep(1)
            assert ("b", "applied") in post.words
            other.world.update_customer("at once", {"first_name": "Seen"})
            await asyncio.sleep(59)
            assert len(polled.seen) - polls > 2 * 11, "both lists every five seconds"
            assert len(post.words) < 200, "the flood is not over yet"
        told = [data for data in map(orjson.loads, values(house)) if data["key"] == f"billing/{its}"]
        assert [data["changed"] for data in told[-2:]] == [["/customer_id"], ["/first_name"]]

    run_virtual(main)


def values(house: House) -> list[bytes]:
    return [record.value or b"" for record in house.kafka.events("customers")]


@pytest.mark.parametrize(("bound", "at_most"), [("COMMANDS_MAX", 2), ("BYTES_MAX", 400)])
def test_more_than_can_wait_are_refused_and_signals_still_get_through(
    bound: str, at_most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes are those of all that wait: the second one goes beyond, and the third finds no room."""
    monkeypatch.setattr(queues, bound, at_most)

    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        post = Post(house)
        uid = uid_of(house, names(house)[0])
        async with living(house) as shard:
            shard.deliver([post.signal("pause")])
            shard.deliver([post.command("rename", customer=uid, new_customer_id=f"name-{n}") for n in range(4)])
            await asyncio.sleep(1)
            assert post.words == [("id-0", "applied"), ("id-3", "rejected"), ("id-4", "rejected")]
            assert post.reasons == ["busy", "busy"]
            assert "(100000, or 67108864 bytes of them)" in post.last[2]
            shard.deliver([post.signal("resume")])
            await until_answered(post, 6)
            assert name_of(house, uid) == "name-1"

    run_virtual(main)


def test_an_id_that_is_accepted_already_is_not_accepted_again() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        post = Post(house)
        uid = uid_of(house, names(house)[0])
        async with living(house) as shard:
            shard.deliver([post.signal("pause", id_="p")])
            shard.deliver([post.command("rename", "one", customer=uid, new_customer_id="a")] * 2)
            shard.deliver([post.command("rename", "one", customer=uid, new_customer_id="b")])
            await asyncio.sleep(1)
        assert post.reasons == ["conflict"]
        async with living(house) as shard:
            shard.deliver([post.command("rename", "one", customer=uid, new_customer_id="a", not_after=iso(1))])
            shard.deliver([post.signal("resume", id_="r")])
            await until_answered(post, 3)
            await asyncio.sleep(1)
        assert post.words == [("p", "applied"), ("r", "applied"), ("one", "applied")]
        assert name_of(house, uid) == "a"

    run_virtual(main)


def test_a_surprise_is_answered_and_the_next_command_goes_on() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        post, tap = Post(house), Tap(house)
        uid = uid_of(house, names(house)[0])

        async def around(request: Request, go_on: Callable[[], Awaitable[Response]]) -> Response:
            if b"first" in (request.body or b""):
                raise ZeroDivisionError
            return await go_on()

        async with living(house) as shard:
            tap.around = around
            shard.deliver([post.command("rename", customer=uid, new_customer_id="first")])
            shard.deliver([post.command("rename", customer=uid, new_customer_id="second")])
            await until_answered(post, 2)
        assert [result for _, result in post.words] == ["failed", "applied"]
        assert "ZeroDivisionError" in post.outcomes[0]["detail"]
        assert name_of(house, uid) == "second"

    run_virtual(main)


def test_a_source_that_does_not_read_customers_takes_no_such_command() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        post = Post(house)
        object.__setattr__(house.reader, "commander", None)
        async with living(house) as shard:
            shard.deliver([post.command("rename", customer="x", new_customer_id="y")])
            await until_answered(post, 1)
        assert (post.last[1], post.reasons) == ("rejected", ["unsupported"])

    run_virtual(main)


def test_outcomes_hold_no_value_of_a_command() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        post = Post(house)
        secret = "ola@nordmann.example"
        async with living(house) as shard:
            broken: dict[str, Any] = {"customer": secret, "new_customer_id": f" {secret}"}
            shard.deliver([post.command("rename", customer_id=secret, new_customer_id="x")])
            shard.deliver([post.command("rename", **broken)])
            shard.deliver([post.command("refresh", collection="customers", uids=[secret])])
            await until_answered(post, 3)
        assert {result for _, result in post.words} == {"rejected"}
        assert "nordmann" not in orjson.dumps(post.outcomes).decode()

    run_virtual(main)


@pytest.mark.parametrize("seed", range(2))
def test_in_a_living_world_with_faults_and_crashes_each_has_one_outcome_and_the_events_add_up(seed: int) -> None:
    """Renames, tags and refreshes while others change the same customers, requests fail and lives end."""

    async def main(clock: VirtualClock) -> None:
        rng = Random(seed)
        faults = {
            "fault_cut": "0.05",
            "fault_500": "0.03",
            "fault_429": "0.02",
            "latency_ms": str(rng.choice([0, 15, 200])),
        }
        club = Club(clock, 40, 5, sweep_s=60.0, switches={"timestamp_precision": "milliseconds", **faults})
        post = Post(club)
        tags = list(club.world.tags)
        taken = {name: club.uid(name) for name in names(club)}

        def happen() -> None:
            living = names(club)
            chosen = rng.choice(living)
            match rng.randrange(4):
                case 0:
                    retag(club, chosen, *rng.sample(tags, rng.randrange(4)))
                case 1:
                    club.world.rename_customer(chosen, f"other-{rng.getrandbits(40)}")
                case 2:
                    club.world.update_customer(chosen, {"first_name": f"n{rng.getrandbits(20)}"})
                case 3 if len(living) > 25:
                    club.world.delete_customer(chosen)

        def ask() -> InboxRecord:
            uids = rng.sample(sorted(taken.values()), 4)
            match rng.randrange(4):
                case 0:
                    return post.command("rename", customer=uids[0], new_customer_id=f"mine-{rng.getrandbits(40)}")
                case 1:
                    return post.command("refresh", collection=rng.choice(["customers", "memberships"]), uids=uids)
                case kind:
                    return post.command("tag" if kind == 2 else "untag", tag=rng.choice(tags), customers=uids)

        while len(post.sent) < 40:
            shard = club.shard()
            life = asyncio.get_running_loop().create_task(shard.serve())
            await asyncio.sleep(8)
            for record in post.sent[club.kafka.offset or 0 :]:
                shard.deliver([record])
            for _ in range(rng.randrange(5, 12)):
                shard.deliver([ask()])
                happen()
                await asyncio.sleep(rng.choice([0.0, 0.05, 0.7]))
                happen()
            life.cancel()
            await asyncio.wait([life])
        club.api.switches = club.api.switches.changed({"fault_cut": 0, "fault_500": 0, "fault_429": 0})
        async with living(club) as shard:
            shard.deliver(post.sent[club.kafka.offset or 0 :])
            await until_answered(post, len(post.sent), 1000)
            await asyncio.sleep(300)
        assert sorted(id_ for id_, _ in post.words) == sorted(f"id-{number}" for number in range(len(post.sent)))
        assert "failed" not in {result for _, result in post.words}
        club.check()
        assert left_over(club) == []
        for name, uid in taken.items():  # the last rename of each that was applied has been at the provider
            del name
            mine = [o["id"] for o in post.outcomes if o["outcome"] == "applied" and o["kind"] == "rename"]
            asked = [orjson.loads(r.value or b"") for r in post.sent]
            wanted = [f["new_customer_id"] for f in asked if f.get("customer") == uid and f["id"] in mine]
            had = [entry.detail["to"] for entry in club.world.truth if entry.kind == "renamed" and entry.uid == uid]
            assert [to for to in had if to.startswith("mine-")] == wanted

    run_virtual(main)
