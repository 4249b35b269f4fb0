"""Probes: what a scraper, an orchestrator and a person get over HTTP, and how the server starts and ends."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from html.parser import HTMLParser

import aiohttp
import pytest

from bridge.errors import ConfigurationError, EnvironmentUnavailable
from bridge.model import Collection
from bridge.observability import probes
from bridge.observability.metrics import Metrics
from bridge.observability.probes import STOP_S_MAX, ProbeServer, parse_listen
from bridge.observability.status import (
    ROWS_MAX,
    CollectionStatus,
    EventLine,
    ProcessStatus,
    ShardStatus,
    SourceStatus,
    to_page,
)
from tests.observability.observing import StandingClock, build_metrics

SCRIPT = "<script>alert(1)</script>"
NOW = StandingClock().wall()

READY = ProcessStatus(
    ready=True,
    live=True,
    kafka="connected",
    shards_total=16,
    shards=(ShardStatus(3, "running", True), ShardStatus(5, "restoring", False)),
    sources=(
        SourceStatus(
            source="acme",
            provider="dintero",
            shard=3,
            owned_here=True,
            ready=True,
            collections=(
                CollectionStatus("customers", "poll", 1.25, 1234567),
                CollectionStatus(
                    Collection.TAGS, "sweep", 42.0, 12, 7, "RetryLater: answered 503", NOW - 90, ("u-1", "u-2")
                ),
            ),
        ),
        SourceStatus("globex", "rebilly", 9, owned_here=False, ready=False),
    ),
    events=(EventLine(NOW - 3, "acme", "bridge.customer.created.v1", 17),),
)


class Running:
    """A probe server, what it is told, and a client."""

    def __init__(self, server: ProbeServer, metrics: Metrics, session: aiohttp.ClientSession) -> None:
        self.server, self.metrics, self.session = server, metrics, session
        self.status = READY

    async def get(self, path: str, **headers: str) -> tuple[int, str, dict[str, str]]:
        url = f"http://127.0.0.1:{self.server.port}{path}"
        async with self.session.get(url, headers=headers) as response:
            return response.status, await response.text(), dict(response.headers)


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    metrics = build_metrics()
    server = ProbeServer("127.0.0.1:0", metrics, lambda: it.status)
    async with aiohttp.ClientSession() as session:
        it = Running(server, metrics, session)
        await server.start()
        yield it
    await server.stop()


# Machines


async def test_metrics_are_served_in_both_formats(running: Running) -> None:
    running.metrics.own("acme", [Collection.CUSTOMERS])
    status, text, headers = await running.get("/metrics")
    assert status == 200
    assert 'bridge_staleness_seconds{collection="customers",source="acme"} 0.0' in text
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    _, text, headers = await running.get("/metrics", Accept="application/openmetrics-text")
    assert text.endswith("# EOF\n")
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")


async def test_scrapes_side_by_side_all_get_an_answer(running: Running) -> None:
    answers = [running.get("/metrics") for _ in range(20)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(answer) for answer in answers]
    assert {task.result()[0] for task in tasks} == {200}


async def test_ready_goes_from_503_to_200(running: Running) -> None:
    running.status = replace(READY, ready=False, kafka="no broker answers at localhost:9092")
    status, text, _ = await running.get("/ready")
    assert status == 503
    assert json.loads(text)["kafka"] == "no broker answers at localhost:9092"
    running.status = READY
    status, text, _ = await running.get("/ready")
    assert status == 200


async def test_ready_has_one_line_per_source_and_shard(running: Running) -> None:
    _, text, headers = await running.get("/ready")
    assert headers["Content-Type"].startswith("application/json")
    assert json.loads(text) == {
        "ready": True,
        "live": True,
        "kafka": "connected",
        "shards_owned": 2,
        "shards_total": 16,
        "shards": [
            {"shard": 3, "state": "running", "ready": True},
            {"shard": 5, "state": "restoring", "ready": False},
        ],
        "sources": [
            {
                "source": "acme",
                "provider": "dintero",
                "shard": 3,
                "owned_here": True,
                "ready": True,
                "staleness_s": 42.0,
                "paused": [],
                "error": "RetryLater: answered 503",
                "held": {"tags": {"deletions": 7, "uids": ["u-1", "u-2"]}},
            },
            {
                "source": "globex",
                "provider": "rebilly",
                "shard": 9,
                "owned_here": False,
                "ready": False,
                "staleness_s": None,
                "paused": [],
                "error": None,
                "held": {},
            },
        ],
    }
    for word in ("acme", "globex", '"running"', '"restoring"'):
        assert sum(word in line for line in text.splitlines()) == 1


async def test_ready_without_sources_is_json_too(running: Running) -> None:
    running.status = ProcessStatus(ready=True, live=True, kafka="connected", shards_total=16)
    _, text, _ = await running.get("/ready")
    assert json.loads(text)["sources"] == []


async def test_live_goes_from_200_to_503(running: Running) -> None:
    assert (await running.get("/live"))[:2] == (200, '{"live": true}')
    running.status = replace(READY, live=False)
    assert (await running.get("/live"))[:2] == (503, '{"live": false}')


# People


class Page(HTMLParser):
    """Collects what a browser would run, load or show."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def parse(text: str) -> Page:
    page = Page()
    page.feed(text)
    return page


async def test_the_page_shows_what_a_person_wants_to_know(running: Running) -> None:
    status, text, headers = await running.get("/")
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    page = parse(text)
    for words in ("acme", "dintero", "customers", "poll", "1.2 s", "1\u202f234\u202f567", "42 s", "answered 503"):
        assert words in page.text
    for words in ("for 90 s", "shard 9 is not here", "2 of 16 shards", "bridge.customer.created.v1", "restoring"):
        assert words in page.text
    assert ("http-equiv", "refresh") in page.attributes


async def test_the_page_escapes_and_forbids_script(running: Running) -> None:
    source = replace(
        READY.sources[0],
        source=SCRIPT,
        provider=SCRIPT,
        collections=(CollectionStatus(SCRIPT, SCRIPT, 1.0, 1, 1, f"'\"{SCRIPT}\x1b[2J\u202e", NOW),),
    )
    running.status = replace(
        READY,
        kafka=SCRIPT,
        sources=(source,),
        shards=(ShardStatus(1, SCRIPT, True),),
        events=(EventLine(NOW, SCRIPT, SCRIPT, 1),),
    )
    _, text, headers = await running.get("/")
    page = parse(text)
    assert "script" not in page.tags
    assert page.text.count(SCRIPT) == 9
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("style", "src", "href")]
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["style-src"].startswith("'sha256-")
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"


async def test_neither_page_nor_probe_shows_a_person_or_a_secret(running: Running) -> None:
    trouble = CollectionStatus("tags", "poll", 1.0, 1, 0, "token=canary1 of canary2@example.com", NOW)
    running.status = replace(READY, sources=(replace(READY.sources[0], collections=(trouble,)),))
    for path in ("/", "/ready", "/metrics"):
        assert "canary" not in (await running.get(path))[1]


def test_with_very_many_sources_the_page_stays_small_and_shows_the_trouble_first() -> None:
    fine = CollectionStatus("customers", "poll", 1.0, 1)
    bad = replace(fine, last_error="AccessDenied", since=NOW)
    sources = [SourceStatus(f"s{n}", "dintero", 0, True, True, (fine,)) for n in range(ROWS_MAX * 3)]
    sources.append(SourceStatus("the-bad-one", "dintero", 0, True, True, (bad,)))
    page = to_page(replace(READY, sources=tuple(sources)), build_metrics().statistics())
    assert page.count("<tr>") < ROWS_MAX + 20
    assert page.index("the-bad-one") < page.index(">s0<")
    assert f"and {len(sources) - ROWS_MAX} more" in page


# Server


async def test_unknown_paths_and_methods_are_refused_without_telling_the_software(running: Running) -> None:
    status, text, headers = await running.get(f"/{SCRIPT}")
    assert status == 404
    assert SCRIPT not in text
    assert headers["Server"] == "bridge"
    async with running.session.post(f"http://127.0.0.1:{running.server.port}/ready", data=b"x") as response:
        assert response.status == 405


async def test_a_huge_header_is_refused(running: Running) -> None:
    status, _, _ = await running.get("/live", X="x" * 100_000)
    assert status == 400


async def test_a_connection_that_asks_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "IDLE_S_MAX", 0.1)  # real time: the timer is the HTTP library's
    server = ProbeServer("127.0.0.1:0", build_metrics(), lambda: READY)
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /ready HTTP/1.1\r\nHost:")
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    await server.stop()


async def test_an_address_in_use_is_a_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        server = ProbeServer(listen, build_metrics(), lambda: READY)
        with pytest.raises(EnvironmentUnavailable, match=rf"{listen} is in use.*http\.listen"):
            await server.start()
        await server.stop()


async def test_an_address_of_another_machine_is_a_clear_error() -> None:
    server = ProbeServer("192.0.2.1:0", build_metrics(), lambda: READY)
    with pytest.raises(EnvironmentUnavailable, match=r"cannot listen on 192\.0\.2\.1:0"):
        await server.start()


async def test_stop_is_bounded_frees_the_port_and_may_be_repeated() -> None:
    server = ProbeServer("127.0.0.1:0", build_metrics(), lambda: READY)
    await server.start()
    idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", server.port)
    half_reader, half_writer = await asyncio.open_connection("127.0.0.1", server.port)
    half_writer.write(b"GET /ready HTTP/1.1\r\nHost:")
    began = time.monotonic()
    await server.stop()
    await server.stop()
    assert time.monotonic() - began < STOP_S_MAX + 1
    assert await idle_reader.read() == b""
    assert await half_reader.read() == b""
    for writer in (idle_writer, half_writer):
        writer.close()
        await writer.wait_closed()
    again = ProbeServer(f"127.0.0.1:{server.port}", build_metrics(), lambda: READY)
    await again.start()
    await again.stop()


@pytest.mark.parametrize(
    ("listen", "expected"),
    [("127.0.0.1:8080", ("127.0.0.1", 8080)), ("[::1]:0", ("::1", 0)), ("localhost:65535", ("localhost", 65535))],
)
def test_listen_addresses(listen: str, expected: tuple[str, int]) -> None:
    assert parse_listen(listen) == expected


@pytest.mark.parametrize("listen", ["", "8080", ":8080", "host", "host:", "host:x", "host:65536", "::1:80", "a:-1"])
def test_bad_listen_addresses_are_a_configuration_error(listen: str) -> None:
    with pytest.raises(ConfigurationError, match="host:port"):
        parse_listen(listen)
