"""What the execution of commands stands on: what was read, room for what is noted, and looks that blame nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest

from bridge.commands.command import Kind, Tagging
from bridge.errors import RetryLater
from bridge.model import iso
from bridge.runtime import joins
from bridge.runtime.commands import queue as queues
from bridge.runtime.commands import tagging
from bridge.runtime.commands.executor import RETRY_S_MAX
from bridge.source.transport import Request, Response
from tests.runtime.commanding import Tap, causes, happened, name_of, names, retag, tags_of, uid_of, until_answered
from tests.runtime.estates import Estate
from tests.runtime.members import Club
from tests.runtime.posting import Post, living
from tests.runtime.shards import House
from tests.support.clock import VirtualClock, run_virtual

Around = Callable[[Request, Callable[[], Awaitable[Response]]], Awaitable[Response]]


def test_a_first_reading_that_takes_longer_than_a_provider_may_fail_is_waited_for() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock, customers=20, lanes=1)
        post, tap = Post(house), Tap(house)
        name = names(house)[0]
        uid = uid_of(house, name)

        async def around(request: Request, go_on: Callable[[], Awaitable[Response]]) -> Response:
            if request.path.endswith("/customers/users"):
                await asyncio.sleep(RETRY_S_MAX / 2)
            return await go_on()

        tap.around = around
        shard = house.shard()
        async with asyncio.TaskGroup() as group:
            group.create_task(shard.serve())
            await asyncio.sleep(3)
            shard.deliver([post.command("rename", customer_id=name, new_customer_id="new")])
            await asyncio.sleep(RETRY_S_MAX / 4)
            tap.around = around
            await until_answered(post, 1, 20 * RETRY_S_MAX)
            await asyncio.sleep(30)
            shard.drain()
        assert post.words == [("id-0", "applied")]
        assert clock.monotonic() > RETRY_S_MAX
        assert name_of(house, uid) == "new"
        kinds = [
            dict(record.headers)["ce_type"].decode()
            for record in house.kafka.events("customers")
            if uid.encode() in record.key
        ]
        assert kinds == ["bridge.customer.snapshot.v1", "bridge.customer.renamed.v1"]

    run_virtual(main)


@pytest.mark.parametrize("paused", ["tags", "memberships", "customers"])
def test_a_tagging_waits_while_nobody_would_see_what_it_has_done(paused: str) -> None:
    async def main(clock: VirtualClock) -> None:
        club = Club(clock, 20, 3)
        post, tap = Post(club), Tap(club)
        name = names(club)[0]
        uid, tag = uid_of(club, name), next(iter(club.world.tags))
        retag(club, name)
        async with living(club) as shard:
            await asyncio.sleep(30)
            shard.deliver([post.signal("pause", paused), post.command("tag", "t1", tag=tag, customers=[uid])])
            await asyncio.sleep(2 * RETRY_S_MAX)
            assert [word for word in post.words if word[0] == "t1"] == []
            assert tap.writes() == []
            shard.deliver([post.signal("resume", paused)])
            await until_answered(post, 3)
        assert post.words[-1] == ("t1", "applied")

    run_virtual(main)


def wants_pause(seconds: int, then: Callable[[], None]) -> Around:
    """Once, behind a reading of somebody's tags, the provider says that nothing is left; and something happens."""
    said = [False]

    async def around(request: Request, go_on: Callable[[], Awaitable[Response]]) -> Response:
        answer = await go_on()
        if said[0] or request.method != "GET" or not request.path.endswith("/tags") or "/users/" not in request.path:
            return answer
        said[0] = True
        then()
        left = {"ratelimit-remaining": "0", "ratelimit-reset": str(seconds)}
        return replace(answer, headers={**answer.headers, **left})

    return around


def test_a_pause_between_look_and_write_costs_nobody_a_tag() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock, customers=20, tags=3)
        post, tap = Post(house), Tap(house)
        name = names(house)[0]
        uid, (tag, other, third) = uid_of(house, name), tuple(house.world.tags)
        retag(house, name, other)
        async with living(house) as shard:
            tap.around = wants_pause(40, lambda: retag(house, name, other, third))
            shard.deliver([post.command("tag", tag=tag, customers=[uid])])
            await until_answered(post, 1, 120.0)
        assert post.last[1] == "applied", post.last
        assert tags_of(house, name) == {tag, other, third}

    run_virtual(main)


def test_what_nobody_could_read_at_once_is_read_again_and_not_told_as_half_done() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock, customers=20)
        post, tap = Post(house), Tap(house)
        uids = [uid_of(house, name) for name in names(house)[:3]]
        broken = [3]

        async def around(request: Request, go_on: Callable[[], Awaitable[Response]]) -> Response:
            if request.path.endswith(f"/users/{names(house)[1]}") and broken[0]:
                broken[0] -= 1
                raise RetryLater("the connection broke")
            return await go_on()

        async with living(house) as shard:
            tap.around = around
            shard.deliver([post.command("refresh", collection="customers", uids=uids)])
            await until_answered(post, 1, 120.0)
        assert broken == [0]
        (outcome,) = post.outcomes
        assert (outcome["outcome"], outcome["count"], outcome.get("others")) == ("applied", 3, None)

    run_virtual(main)


def test_one_customer_that_cannot_be_read_fails_alone() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock, customers=20)
        post, tap = Post(house), Tap(house)
        uids = [uid_of(house, name) for name in names(house)[:3]]

        async def around(request: Request, go_on: Callable[[], Awaitable[Response]]) -> Response:
            if request.path.endswith(f"/users/{names(house)[1]}"):
                raise RetryLater("the connection broke")
            return await go_on()

        async with living(house) as shard:
            tap.around = around
            not_after = iso(int((clock.wall() + 60) * 1_000_000))  # over while it is being done
            shard.deliver([post.command("refresh", collection="customers", uids=uids, not_after=not_after)])
            await until_answered(post, 1, 4 * RETRY_S_MAX)
        (outcome,) = post.outcomes
        assert (outcome["outcome"], outcome["count"]) == ("partly", 2)
        assert outcome["others"] == [{"why": "failed", "count": 1, "uids": [uids[1]]}]

    run_virtual(main)


class Crowd(Estate):
    """Everybody has one of two first names."""

    def __init__(self, clock: VirtualClock, customers: int, **switches: Any) -> None:
        super().__init__(clock, customers, 4, seed=3, page_limit=1000, **switches)
        for number, name in enumerate(list(self.world.customers.live_row_of)):
            self.world.update_customer(name, {"first_name": f"N{number % 2}"})

    def have(self) -> set[str]:
        """Uids of those who have the first tag."""
        customers = self.world.customers
        return {customers.uids[row] for row in customers.members[self.tags()[0]]}


def test_however_many_have_a_value_little_is_noted_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(clock: VirtualClock) -> None:
        monkeypatch.setattr(tagging, "PENDING_MAX", 20)
        crowd = Crowd(clock, 200, bulk_delay=20)
        crowd.reader = replace(crowd.reader, commander=_Small(crowd.reader.commander, 10))
        post = Post(crowd)
        most = [0]
        note = queues.CommandQueue.note

        def noting(self: queues.CommandQueue, command: str, progress: queues.Progress) -> None:
            most[0] = max(most[0], len(orjson.dumps(progress)))
            note(self, command, progress)

        monkeypatch.setattr(queues.CommandQueue, "note", noting)
        shard = crowd.shard()
        async with asyncio.TaskGroup() as group:
            group.create_task(shard.serve())
            await asyncio.sleep(10)
            where = {"field": "first_name", "values": ["N0", "nobody", "N1"], "names": ["a", "b", "c"]}
            shard.deliver([post.command("tag", tag=crowd.tags()[0], where=where, confirm_within=300.0)])
            await until_answered(post, 1, 3000.0)
            shard.drain()
        (outcome,) = post.outcomes
        assert (outcome["outcome"], outcome["count"]) == ("partly", 200)
        assert outcome["others"] == [{"why": "unmatched", "count": 1, "uids": ["b"]}]
        assert crowd.have() == set(crowd.uids())
        assert most[0] < 200 * 60, "a hundred who have one value, and those who are waited for"

    run_virtual(main)


class _Small:
    """A commander that takes fewer customers in one call. `Any`: whatever it is asked."""

    def __init__(self, commander: Any, customers_max: int) -> None:
        self._commander = commander
        self.ways = replace(commander.ways, customers_max=customers_max)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._commander, name)


def test_a_value_that_too_many_have_is_nobodys_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(clock: VirtualClock) -> None:
        monkeypatch.setattr(joins, "HOLDERS_MAX", 49)
        crowd = Crowd(clock, 100)
        before = crowd.have()
        post = Post(crowd)
        shard = crowd.shard()
        async with asyncio.TaskGroup() as group:
            group.create_task(shard.serve())
            await asyncio.sleep(10)
            where = {"field": "first_name", "values": ["N0"], "names": ["a"]}
            shard.deliver([post.command("tag", tag=crowd.tags()[0], where=where)])
            await until_answered(post, 1)
            shard.drain()
        (outcome,) = post.outcomes
        assert (outcome["outcome"], outcome["others"]) == (
            "rejected",
            [{"why": "ambiguous", "count": 1, "uids": ["a"]}],
        )
        assert crowd.have() == before

    run_virtual(main)


def test_what_no_record_can_note_ends_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(clock: VirtualClock) -> None:
        crowd = Crowd(clock, 100)
        post = Post(crowd)
        shard = crowd.shard()
        async with asyncio.TaskGroup() as group:
            group.create_task(shard.serve())
            await asyncio.sleep(10)
            monkeypatch.setattr(queues, "ENVELOPE_BYTES_MAX", 1_048_588 - 1_000)
            where = {"field": "first_name", "values": ["N0", "N1"]}
            shard.deliver([post.command("tag", tag=crowd.tags()[0], where=where)])
            await until_answered(post, 1)
            shard.deliver([post.command("tag", tag=crowd.tags()[0], customers=crowd.uids()[:1])])
            await until_answered(post, 2)
            shard.drain()
        assert [result for _, result in post.words] == ["failed", "applied"]

    run_virtual(main)


def test_an_id_that_was_answered_before_anybody_knew_its_source_stays_answered() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        post = Post(house)
        uid = uid_of(house, names(house)[0])
        async with living(house) as shard:
            first = post.command("rename", "r1", customer=uid, new_customer_id="new")
            shard.deliver([first._replace(key=b"another")])
            await until_answered(post, 1)
            shard.deliver([post.command("rename", "r1", customer=uid, new_customer_id="new")])
            shard.deliver([post.command("rename", "r2", customer=uid, new_customer_id="newer")])
            await until_answered(post, 2)
            await asyncio.sleep(5)
        assert post.words == [("r1", "rejected"), ("r2", "applied")]
        assert happened(house, "renamed") == 1

    run_virtual(main)


def test_after_a_back_off_only_an_owner_that_kafka_knows_goes_on() -> None:
    """A commit lies between the wait and the next write: another owner may have done it meanwhile, and more."""

    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        post, tap = Post(house), Tap(house)
        uid = uid_of(house, names(house)[0])
        commits: list[int] = []

        async def around(request: Request, go_on: Callable[[], Awaitable[Response]]) -> Response:
            if request.path.endswith("/change_customer_id"):
                commits.append(house.kafka.published)
                if len(commits) < 4:
                    raise RetryLater("the connection broke")
            return await go_on()

        async with living(house) as shard:
            tap.around = around
            shard.deliver([post.command("rename", customer=uid, new_customer_id="new")])
            await until_answered(post, 1)
        assert len(commits) == len(set(commits)) == 4
        assert causes(house, "customer.renamed") == [{"path": "command", "ref": "id-0"}]

    run_virtual(main)


def test_a_command_says_what_it_is_once_more_in_its_outcome() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        post = Post(house)
        async with living(house) as shard:
            record = post.command("tag", tag="nobody-knows", customers=["u"])
            shard.deliver([record])
            await until_answered(post, 1)
        command = Tagging(**{**orjson.loads(record.value or b""), "kind": Kind.TAG})
        assert post.outcomes[0]["digest"] == command.digest

    run_virtual(main)
