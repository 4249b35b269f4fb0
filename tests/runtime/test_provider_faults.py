"""What a provider may do to a shard that reads it: nothing false is published, nobody else suffers, and it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import orjson
import pytest

from bridge.errors import RetryLater
from bridge.event.envelope import EventBuilder
from bridge.model import Account, Collection
from bridge.observability.families import Vocabulary
from bridge.observability.metrics import Metrics
from bridge.runtime.loop import SourceLoop
from bridge.runtime.reader import SourceReader
from bridge.runtime.reading import ReadingPlan
from bridge.runtime.shard import Shard
from bridge.sandbox.switches import Switches
from bridge.source.feed import Feed
from bridge.source.transport import Request, Response
from tests.runtime.shards import House
from tests.source.providing import source_over
from tests.support.clock import VirtualClock, run_virtual

CUSTOMERS = 100
TAGS = 8
USERS = "/accounts/T12345678/customers/users"

Spoil = Callable[[Request, Response], Response]


class Between:
    """A transport that a test may put between the bridge and the provider. Implements `Transport`."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.spoil: Spoil = lambda _, response: response
        self.fail: Callable[[Request], RetryLater | None] = lambda _: None
        self.delay_s: Callable[[Request], float] = lambda _: 0.0
        self.sent: list[tuple[str, float]] = []
        self.under_way: dict[str, int] = {}

    async def send(self, request: Request) -> Response:
        kind = request.path.rpartition("/")[2]
        self.sent.append((kind, self.house.clock.monotonic()))
        assert self.under_way.get(kind, 0) == 0 or kind not in ("users", "tags"), "two readings of one list at once"
        self.under_way[kind] = self.under_way.get(kind, 0) + 1
        try:
            await self.house.clock.sleep(min(self.delay_s(request), request.timeout_s))
        finally:
            self.under_way[kind] -= 1
        if self.delay_s(request) > request.timeout_s:
            raise RetryLater("no answer: not complete within the deadline")
        if (error := self.fail(request)) is not None:
            raise error
        return self.spoil(request, await self.house.api.send(request))

    async def close(self) -> None:
        pass


def a_house(clock: VirtualClock, sweep_s: float = 30.0) -> tuple[House, Between]:
    house = House(clock, CUSTOMERS, TAGS)
    between = Between(house)
    house.reader = a_reader(house, between, "acme", sweep_s)
    return house, between


def a_reader(house: House, between: Between, source: str, sweep_s: float = 30.0) -> SourceReader:
    built = source_over(
        between, house.clock, source=source, client_id="sandbox", client_secret="sandbox-secret", request_rate=1000
    )
    feeds: list[Feed] = list(built.feeds.values())
    account = Account(source, "dintero", "T12345678")
    plans = {feed.collection: ReadingPlan(5.0, sweep_s) for feed in feeds}
    return replace(house.reader, account=account, builder=EventBuilder(account), feeds=feeds, plans=plans)


@asynccontextmanager
async def living(house: House) -> AsyncIterator[Shard]:
    shard = house.shard()
    async with asyncio.TaskGroup() as group:
        group.create_task(shard.serve())
        yield shard
        shard.drain()


def reading(shard: Shard, collection: Collection, source: str = "acme") -> SourceLoop:
    return next(one for one in shard.readings[source] if one.collection is collection)


def rows_of(response: Response, change: Callable[[list[Any]], None]) -> Response:
    """The response with its list changed. `Any`: rows may be anything."""
    rows = orjson.loads(response.body)
    change(rows)
    return replace(response, body=orjson.dumps(rows))


def letters(house: House) -> list[tuple[bytes, bytes]]:
    """Reason and endpoint of each dead letter."""
    found = [dict(record.headers) for record in house.kafka.events("deadletters")]
    return [(headers["reason"], headers["origin"]) for headers in found]


@pytest.mark.parametrize("later", [False, True], ids=["from the start", "later"])
def test_a_provider_that_cannot_be_reached_is_not_ready_and_its_neighbour_is(later: bool) -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock, CUSTOMERS, TAGS)
        both = frozenset({"acme", "other"})
        house.metrics = Metrics(clock, Vocabulary(both, frozenset(), frozenset(), frozenset()), "0")
        house.reader = replace(house.reader, metrics=house.metrics)
        sound, broken = Between(house), Between(house)
        house.readers = [a_reader(house, sound, "acme"), a_reader(house, broken, "other")]
        refused = RetryLater("no answer: the connection was refused or the host is unreachable")
        async with living(house) as shard:
            if later:
                await clock.sleep(10)
            broken.fail = lambda _: refused
            await clock.sleep(1800)
            assert [one.ready for one in shard.readings["acme"]] == [True, True]
            assert [one.ready for one in shard.readings["other"]] == [False, False]
            assert "refused" in (reading(shard, Collection.TAGS, "other").status.last_error or "")
            asked = [at for _, at in broken.sent if at > 900]
            assert 0 < len(asked) <= 2 * 900 / 45, "ever more slowly, and never not at all"
            assert len([at for _, at in sound.sent if at > 900]) > 2 * 900 / 6
            broken.fail = lambda _: None
            await clock.sleep(120)
            assert all(one.ready for one in shard.readings["other"])

    run_virtual(main)


@pytest.mark.parametrize("fault", ["fault_500", "fault_502_html", "fault_200_html", "fault_cut"])
def test_an_hour_of_storm_is_answered_with_patience_and_deletes_nothing(fault: str) -> None:
    async def main(clock: VirtualClock) -> None:
        house, between = a_house(clock)
        async with living(house) as shard:
            await clock.sleep(40)
            before = len(house.kafka.records)
            house.api.switches = Switches().changed({fault: 1.0})
            await clock.sleep(1800)
            asked = len(between.sent)
            await clock.sleep(1800)
            assert len(between.sent) - asked <= 2 * 2 * 1800 / 60, "two feeds, a minute apart, and perhaps a token"
            staleness = house.metrics.staleness("acme", Collection.CUSTOMERS)
            assert staleness is not None
            assert staleness > 3590
            assert [one.ready for one in shard.readings["acme"]] == [False, False]
            house.api.switches = Switches()
            house.world.create_tag("after the storm")
            await clock.sleep(120)
            assert all(one.ready for one in shard.readings["acme"])
        new = [dict(record.headers).get("ce_type", b"").decode() for record in house.kafka.records[before:]]
        assert [kind for kind in new if kind] == ["bridge.tag.created.v1"]

    run_virtual(main)


@pytest.mark.parametrize("closed", ["tags", "users"])
@pytest.mark.parametrize("status", [401, 403])
def test_a_right_that_is_missing_for_one_list_is_asked_for_slowly_and_its_absence_deletes_nothing(
    closed: str, status: int
) -> None:
    def refuse(request: Request, response: Response) -> Response:
        return Response(status, {}, b"") if closed in request.path.split("/") else response

    async def main(clock: VirtualClock) -> None:
        house, between = a_house(clock)
        shut, opened = (
            (Collection.TAGS, Collection.CUSTOMERS) if closed == "tags" else (Collection.CUSTOMERS, Collection.TAGS)
        )
        async with living(house) as shard:
            await clock.sleep(40)
            between.spoil = refuse
            begun = len(between.sent)
            await clock.sleep(1800)
            asked = [kind for kind, _ in between.sent[begun:]]
            assert 0 < asked.count(closed) <= 2 * (1800 / 60 + 1), "once a minute, and once more with a new token"
            assert asked.count("tags" if closed == "users" else "users") > 1800 / 6
            assert not reading(shard, shut).ready
            assert str(status) in (reading(shard, shut).status.last_error or "")
            assert (house.metrics.staleness("acme", shut) or 0) > 1790
            assert reading(shard, opened).ready
            assert (house.metrics.staleness("acme", opened) or 0) < 70
            between.spoil = lambda _, response: response
            await clock.sleep(70)
            assert reading(shard, shut).ready
        assert house.types("customers") == ["customer.snapshot.v1"] * CUSTOMERS
        assert house.types("tags") == ["tag.snapshot.v1"] * TAGS

    run_virtual(main)


BAD: dict[str, tuple[dict[str, Any], bool]] = {
    "wrong type": ({"email": ["x"]}, True),
    "no id": ({"id": None}, False),
    "an id that is none": ({"id": "not-a-uuid"}, False),
    "a time that is none": ({"updated_at": "yesterday"}, True),
    "no customer_id": ({"customer_id": ""}, True),
}
"""Fields of the row, and whether it can still be told whose it is."""


@pytest.mark.parametrize(("fields", "known"), BAD.values(), ids=BAD)
def test_one_bad_document_among_a_hundred_costs_only_itself_and_is_not_absent(
    fields: dict[str, Any], known: bool
) -> None:
    def spoil(request: Request, response: Response) -> Response:
        if request.path != USERS or not orjson.loads(response.body):
            return response

        def change(rows: list[Any]) -> None:
            rows[:] = [row | fields if row["id"] == bad else row for row in rows]

        return rows_of(response, change)

    bad = ""

    async def main(clock: VirtualClock) -> None:
        nonlocal bad
        house, between = a_house(clock)
        bad = house.world.customers.uids[57]
        between.spoil = spoil
        async with living(house):
            await clock.sleep(200)  # several sweeps see it so
            assert house.types("customers") == ["customer.snapshot.v1"] * (CUSTOMERS - 1)
            assert letters(house) == [(b"malformed", b"customers.list")]  # once, and not with each reading
            between.spoil = lambda _, response: response
            await clock.sleep(70)
            assert house.types("customers")[CUSTOMERS - 1 :] == ["customer.created.v1"]
            between.spoil = spoil  # and now what was published is broken
            await clock.sleep(200)
        assert house.types("customers")[CUSTOMERS:] == []
        # It was whole in between, so that it is broken now is news; of whom, one has to be able to tell.
        assert letters(house)[1:] == [(b"malformed", b"customers.list")] * known

    run_virtual(main)


def test_a_giant_document_is_refused_once_and_a_large_one_goes_through() -> None:
    """A text of half a megabyte is published, a document of five is not; neither comes again with each reading."""

    async def main(clock: VirtualClock) -> None:
        house, _ = a_house(clock)
        names = list(house.world.customers.live_row_of)
        async with living(house):
            await clock.sleep(40)
            house.world.update_customer(names[3], {"first_name": "x" * 500_000})
            house.world.update_customer(names[4], {"attributes": {f"field {n}": "y" * 1000 for n in range(5000)}})
            house.world.update_customer(names[5], {"first_name": "Ada"})
            await clock.sleep(200)
        assert house.types("customers")[CUSTOMERS:] == ["customer.updated.v1"] * 2
        assert letters(house) == [(b"too_large", b"bridge")]

    run_virtual(main)


def test_a_provider_that_is_right_but_slow_is_read_one_page_at_a_time_and_staleness_tells_it() -> None:
    """Answers take 30 s, six times the poll interval. `Between` sees to it that no list is asked for twice at once."""

    async def main(clock: VirtualClock) -> None:
        house, between = a_house(clock, sweep_s=600.0)
        async with living(house) as shard:
            await clock.sleep(20)
            between.delay_s = lambda _: 30.0
            await clock.sleep(300)
            begun = clock.monotonic()
            house.world.update_customer(next(iter(house.world.customers.live_row_of)), {"first_name": "Ada"})
            most = 0.0
            for _ in range(600):
                await clock.sleep(1)
                most = max(most, house.metrics.staleness("acme", Collection.CUSTOMERS) or 0.0)
            polls = [at for kind, at in between.sent if kind == "users" and at >= begun]
            assert 15 <= len(polls) <= 21, "as often as answers come, and no burst to make up for it"
            assert 55 < most < 100
            assert all(one.ready for one in shard.readings["acme"])
        assert house.types("customers")[CUSTOMERS:] == ["customer.updated.v1"]

    run_virtual(main)


def test_a_provider_slower_than_the_deadline_is_trouble_and_not_an_empty_answer() -> None:
    async def main(clock: VirtualClock) -> None:
        house, between = a_house(clock)
        async with living(house) as shard:
            await clock.sleep(20)
            between.delay_s = lambda _: 61.0
            await clock.sleep(900)
            assert not any(one.ready for one in shard.readings["acme"])
            assert (house.metrics.staleness("acme", Collection.TAGS) or 0) > 890
            between.delay_s = lambda _: 0.0
            await clock.sleep(150)
            assert all(one.ready for one in shard.readings["acme"])
        assert house.types("customers")[CUSTOMERS:] == []
        assert house.types("tags")[TAGS:] == []

    run_virtual(main)
