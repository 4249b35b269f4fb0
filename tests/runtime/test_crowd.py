"""Many sources in one process: none is forgotten behind the others, and each costs little."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from yarl import URL

from bridge import assembly
from bridge.clock import SystemClock
from bridge.config import parse
from bridge.event.envelope import EventBuilder
from bridge.model import Account, Collection
from bridge.model import Path as Way
from bridge.observability.families import Vocabulary
from bridge.observability.metrics import Metrics
from bridge.runtime import ledger
from bridge.runtime.reader import SourceReader
from bridge.runtime.reading import ReadingPlan
from bridge.source import dintero
from bridge.source.client import Connections
from bridge.source.feed import Page
from bridge.source.transport import Request, Response
from tests.runtime.shards import House
from tests.support.clock import VirtualClock, run_virtual

SOURCES = 24
ANSWER_S = 0.5
ORIGIN = URL("https://api.example")


class SlowApi:
    """Implements `Transport`: the house's provider, slow, behind the connections that all sources share."""

    def __init__(self, house: House, connections: Connections, source: str, asked: Counter[str]) -> None:
        self._house = house
        self._connections = connections
        self._source = source
        self._asked = asked
        self.first_poll_at: float | None = None

    async def send(self, request: Request) -> Response:
        async with self._connections.turn(ORIGIN):
            await self._house.clock.sleep(ANSWER_S)
        self._asked[self._source] += 1
        if self.first_poll_at is None and any(name == "since_datetime" for name, _ in request.query):
            self.first_poll_at = self._house.clock.monotonic()
        return await self._house.api.send(request)

    async def close(self) -> None: ...


class Silent:
    def request(self, endpoint: str, status: int | None, seconds: float) -> None: ...

    def throttled(self, seconds: float) -> None: ...

    def budget_remaining(self, value: float) -> None: ...


def test_sources_that_want_more_than_there_is_are_read_equally_often_and_none_waits_twice_as_long() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock, customers=150, tags=3)
        names = frozenset(f"s-{number}" for number in range(SOURCES))
        house.metrics = Metrics(clock, Vocabulary(names, frozenset(), frozenset(), frozenset()), "0")
        connections = Connections(requests_max=2)  # 4 requests per second, of 10 that are wanted
        asked: Counter[str] = Counter()
        apis: list[SlowApi] = []
        readers: list[SourceReader] = []
        for source in sorted(names):
            api = SlowApi(house, connections, source, asked)
            apis.append(api)
            settings = dintero.DinteroSettings(
                source=source, account="T12345678", client_id="sandbox", client_secret="sandbox-secret"
            )
            account = Account(source, "dintero", "T12345678")
            readers.append(
                SourceReader(
                    account=account,
                    builder=EventBuilder(account),
                    feeds=list(dintero.build(settings, api, clock, Silent(), lambda: 0.0).feeds.values()),
                    plans={name: ReadingPlan(5.0) for name in (Collection.CUSTOMERS, Collection.TAGS)},
                    silent_snapshot=False,
                    clock=clock,
                    metrics=house.metrics,
                )
            )
        house.readers = readers
        shard = house.shard()
        async with asyncio.TaskGroup() as group:
            group.create_task(shard.serve())
            await clock.sleep(200)
            read = sorted(api.first_poll_at or float("inf") for api in apis)
            assert read[-1] <= 2 * read[len(read) // 2]
            asked.clear()
            await clock.sleep(300)
            assert len(asked) == SOURCES
            assert max(asked.values()) <= 1.2 * min(asked.values())
            shard.drain()
        assert len(house.types("customers")) == 150 * SOURCES

    run_virtual(main)


@pytest.mark.parametrize(("lanes", "most"), [(1, 5), (4, 24)])
def test_who_waits_for_a_commit_holds_no_page(monkeypatch: pytest.MonkeyPatch, lanes: int, most: int) -> None:
    """A page is a megabyte of objects, and thousands of feeds may wait while Kafka does not answer."""
    monkeypatch.setattr(ledger, "BATCH_RECORDS_MAX", 50)

    async def main(clock: VirtualClock) -> None:
        house = House(clock, customers=1_200, lanes=lanes)
        house.kafka.stuck = True
        shard = house.shard()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(shard.serve())
            await clock.sleep(10)
            asked = house.api.statistics().requests["customers 200"]
            # For the batch in flight, the open one, and what was asked ahead; in slices, also how to cut them.
            assert 1 <= asked <= most
            gc.collect()
            assert not any(isinstance(thing, Page) for thing in gc.get_objects())
            task.cancel()

    run_virtual(main)


def test_a_source_that_does_nothing_takes_little_memory(tmp_path: Path) -> None:
    """Of a target of 100 KiB with buffers and caches; here only what is built and told for each source counts."""
    count = 500
    text = f'[kafka]\nbootstrap_servers = ["127.0.0.1:9"]\n[bridge]\ndata_dir = "{tmp_path}"\n' + "".join(
        f'[[sources]]\nid = "s-{number}"\nprovider = "dintero"\naccount = "T{20_000_000 + number}"\n'
        f'client_id = "x"\nclient_secret = "secret of {number}"\n'
        for number in range(count)
    )
    gc.collect()
    tracemalloc.start()
    try:
        config = parse(text, "bridge.toml", tmp_path)
        bridge = assembly.build(config, SystemClock())
        for section in config.sources:
            use_metrics(bridge, section.id)
        gc.collect()
        bytes_each = tracemalloc.get_traced_memory()[0] / count
    finally:
        tracemalloc.stop()
        bridge.folder.release()
    assert bytes_each < 30 * 1024


def use_metrics(bridge: assembly.Bridge, source: str) -> None:
    """As after a first reading and some polls."""
    metrics = bridge.metrics
    metrics.own(source, [Collection.CUSTOMERS, Collection.TAGS])
    metrics.api_budget(source, 10)
    for endpoint in ("token", "tags.list", "customers.list"):
        metrics.api_request(source, endpoint, 200, 0.1)
    for collection, kind in ((Collection.CUSTOMERS, "customer"), (Collection.TAGS, "tag")):
        metrics.published(source, f"bridge.{kind}.snapshot.v1", 100)
        metrics.documents_read(source, collection, 100)
        metrics.documents_unchanged(source, collection, 100)
        metrics.store_documents(source, collection, 100)
        metrics.loop_progress(source, collection)
        metrics.caught_up(source, collection, 1.0)
        metrics.change_latency(source, collection, Way.POLL, 1.0)
