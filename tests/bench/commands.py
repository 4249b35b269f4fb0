"""Commands: how fast they are taken over HTTP, how soon they are at the provider, what a tag for many takes.

A rate is kept whatever the answers do: each command has its moment, and its time is counted from there, so that what
waits behind a slow answer is slow as well. Beside it the same commands are appended by a plain producer.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any

import aiohttp
import orjson

from bridge.clock import SystemClock
from bridge.publish.send import InboxSender, Outcomes
from bridge.publish.settings import KafkaSettings
from bridge.publish.topics import TopicPlan
from tests.bench.figures import LATE_S, NEVER, WARM_S, Bench, Figure, at_most
from tests.bench.machine import Provider, configured, owned_sources, sandbox, started, wait_until
from tests.bench.posts import Posts
from tests.bench.topic import SHARDS, Arrival, Topic
from tests.support.processes import SECRET, rebilly_of

PER_S = 1_000.0
"""Commands per second over HTTP."""

CONNECTIONS = 200
"""Of the client; a service that sends so much keeps them open."""

PAUSE_S = 0.25
"""Between two commands that are timed up to the provider, so that none waits for another."""

COMPILED_S = 10.0
"""Of commands before those that are timed: a broker that has just started compiles for some seconds what it does."""

FEW = 300
"""Customers of a bridge that does little but take commands."""

BULK = 1_000
"""Customers that Rebilly takes in one call."""

READY_S = 120.0
OUTCOME_S = 300.0
TOKEN = "token-of-the-benchmark"
DINTERO, REBILLY, BUSY = "acme", "billing", "busy"
"""The last one is the first once more, with the default budget: it takes many commands, and executes some."""

Send = Callable[[Mapping[str, Any]], Awaitable[object]]
"""A command, until it is durable; says its own source. `Any`: JSON."""


@dataclass(frozen=True, slots=True)
class Load:
    """accepted_s: seconds of commands at `PER_S`. timed: commands up to the provider. tagged: customers at once."""

    accepted_s: float
    timed: int
    tagged: int


@dataclass(frozen=True, slots=True)
class _At:
    """A bridge that runs. uids: of its customers, by source."""

    topic: Topic
    api: Provider
    send: Send
    uids: Mapping[str, Sequence[str]]


async def commands(bench: Bench, load: Load) -> list[Figure]:
    """All figures. Many commands are taken by a bridge that does little else, and by one that looks at many customers.

    The second has no target: the provider, which shares the machine, then takes more of it than the bridge.
    """
    async with _bridge(bench, load.tagged, (DINTERO, REBILLY, BUSY)) as at:
        figures = await _timed(bench, at, load.timed)
        figures += await _tagged(bench, at)
        beside = f"{PER_S:,.0f} commands/s beside glances at {load.tagged:,}"
        figures += await _accepted(bench, at, load.accepted_s, beside, None)
    async with _bridge(bench, FEW, (BUSY,)) as at:
        name = f"{PER_S:,.0f} commands/s over HTTP, until they are durable"
        figures += await _accepted(bench, at, load.accepted_s, name, 100)
    return figures


@asynccontextmanager
async def _bridge(bench: Bench, customers: int, sources: Sequence[str]) -> AsyncIterator[_At]:
    """That has read so many customers of each of these."""
    switches = ("--switch", "timestamp_precision=milliseconds")
    async with sandbox(bench.folder, customers, *switches) as api, bench.bridge_topic() as topic:
        child = started(_configured(bench, topic, api, sources))
        try:
            await wait_until(lambda: owned_sources(child) == len(sources) or not child.running, READY_S, "all sources")
            await topic.settled(len(sources) * customers, lambda: child.said() if not child.running else None)
            known = [key.decode().split("/", 1) for key in await topic.latest()]
            uids = {source: [uid for of, uid in known if of == source] for source in sources}
            async with _over_http(child.url) as send:
                yield _At(topic, api, send, uids)
            assert child.running, child.said()
        finally:
            child.kill()


def _configured(bench: Bench, topic: Topic, api: Provider, names: Sequence[str]) -> Path:
    common = {"command_token": TOKEN, "request_budget": "1000/s", "sweep_interval": NEVER}
    dintero = {"id": DINTERO, "account": "T12345678", "collections": ["customers"]}
    rebilly = {
        "id": REBILLY,
        "provider": "rebilly",
        "account": "org_sandbox",
        "api_key": {"env": "SANDBOX_KEY"},
        "base_url": api.url,
        "collections": ["customers", "tags", "memberships"],
    }
    busy = {**dintero, "id": BUSY, "request_budget": "10/s"}
    sources = [{**common, **source} for source in (dintero, rebilly, busy) if source["id"] in names]
    return configured(bench.folder, bench.bootstrap, topic.bridge, api.url, sources)


@asynccontextmanager
async def _over_http(url: str) -> AsyncIterator[Send]:
    """As a service does it."""
    async with Posts(url, {"Authorization": f"Bearer {TOKEN}"}, CONNECTIONS) as client:

        async def send(command: Mapping[str, Any]) -> None:
            status, said = await client.post(f"/sources/{command['source']}/commands", orjson.dumps(command))
            assert status == 202, said

        yield send


# From a command to the provider.


async def _timed(bench: Bench, at: _At, count: int) -> list[Figure]:
    """Renames, one at a time; the provider's own moment of each is in its event."""
    topic, send, uids = at.topic, at.send, at.uids[DINTERO][:count]
    sent: dict[bytes, float] = {}
    found: list[Arrival] = []
    reading = asyncio.create_task(topic.arrivals(found))
    try:
        await asyncio.sleep(WARM_S)
        for uid in uids:
            sent[f"{DINTERO}/{uid}".encode()] = time.time()
            await send({"source": DINTERO, "kind": "rename", "customer": uid, "new_customer_id": f"b-{uid}"})
            await asyncio.sleep(PAUSE_S)
        await asyncio.sleep(LATE_S)
    finally:
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
    changed = {arrival.key: arrival.changed_at for arrival in reversed(found) if arrival.key in sent}
    assert changed.keys() == sent.keys(), f"{len(changed)} of {len(sent)} were renamed"
    p50, p99 = _percentiles([changed[key] - at for key, at in sent.items()])
    bench.say(f"from HTTP to the provider: p50 {p50:.0f} ms, p99 {p99:.0f} ms, {len(sent)} renames")
    figures = [at_most("a command over HTTP, to the provider's change: p50", "ms", 50), Figure("  p99", "ms")]
    for figure, value in zip(figures, (p50, p99), strict=True):
        figure.add(value)
    return figures


# One tag for many.


async def _tagged(bench: Bench, at: _At) -> list[Figure]:
    """Until the bridge has seen all of it."""
    topic, api, send, uids = at.topic, at.api, at.send, at.uids[REBILLY]
    tag = await _a_tag(api.url)
    settings = KafkaSettings(bootstrap_servers=bench.bootstrap.split(","), client_id="bench")
    plan = TopicPlan(topic.bridge, SHARDS)
    before = await _requests(api.url)
    async with Outcomes(settings, plan.outcomes, SystemClock()) as outcomes:
        await outcomes.note("bench-tag", from_beginning=False)
        began = time.time()
        command = {"id": "bench-tag", "source": REBILLY, "kind": "tag", "tag": tag, "customers": list(uids)}
        await send({**command, "confirm_within": OUTCOME_S})
        async with asyncio.timeout(OUTCOME_S):
            outcome = orjson.loads(await outcomes.answer("bench-tag"))
        seconds = time.time() - began
    assert (outcome["outcome"], outcome["count"]) == ("applied", len(uids)), outcome
    asked = {name: count - before.get(name, 0) for name, count in (await _requests(api.url)).items()}
    bulk = sum(count for name, count in asked.items() if name.startswith("bulk"))
    others = sum(asked.values()) - bulk
    bench.say(f"{len(uids):,} tagged and seen: {seconds:.1f} s, {bulk} bulk calls, {others} other requests")
    most = -(-len(uids) // BULK)
    figures = [
        Figure(f"one tag for {len(uids):,}: bulk calls", "", f"<= {most}", lambda value: value <= most),
        Figure("  other requests meanwhile, polls too", ""),
        Figure("  until it was seen at all of them", "s"),
    ]
    for figure, value in zip(figures, (bulk, others, seconds), strict=True):
        figure.add(value)
    return figures


async def _a_tag(url: str) -> str:
    headers = {"REB-APIKEY": SECRET["SANDBOX_KEY"]}
    path = f"{rebilly_of(url)}/tags?filter=type:customer&limit=1"
    async with aiohttp.ClientSession(headers=headers) as session, session.get(path) as answer:
        found: str = (await answer.json())[0]["id"]
        return found


async def _requests(url: str) -> dict[str, int]:
    """Of each sort, so far."""
    async with aiohttp.ClientSession() as session, session.get(f"{rebilly_of(url)}/sandbox/stats") as answer:
        found: dict[str, int] = (await answer.json())["requests"]
        return found


# Many commands.


async def _accepted(bench: Bench, at: _At, seconds: float, name: str, most_ms: float | None) -> list[Figure]:
    """At a fixed rate; one appended record for each that was accepted. most_ms: of the 99th percentile."""
    topic, send, uids = at.topic, at.send, at.uids[BUSY]
    before = await _plain(bench, uids, seconds)
    await _at_rate(send, uids, COMPILED_S)
    inbox = Topic(bench.bootstrap, f"{topic.bridge}.inbox")
    already, _ = await inbox.count()
    found = await _at_rate(send, uids, seconds)
    appended, _ = await inbox.count()
    assert appended - already == len(found), f"{appended - already} records of {len(found)} answers"
    after = await _plain(bench, uids, seconds)
    figures = [Figure(f"{name}: p50", "ms"), at_most("  p99", "ms", most_ms)]
    values = [_percentiles(times) for times in (before, found, after)]
    for number, figure in enumerate(figures):
        figure.add(values[1][number], (values[0][number], values[2][number]))
    bench.say(f"{len(found):,} accepted: p50 {values[1][0]:.1f} ms, p99 {values[1][1]:.1f} ms")
    return figures


async def _plain(bench: Bench, uids: Sequence[str], seconds: float) -> list[float]:
    """By a producer, without a bridge."""
    settings = KafkaSettings(bootstrap_servers=bench.bootstrap.split(","), client_id="bench")
    async with bench.plain_topic() as topic, InboxSender(settings, topic.name) as sender:
        return await _at_rate(lambda command: sender.send(command["source"], orjson.dumps(command)), uids, seconds)


async def _at_rate(send: Send, uids: Sequence[str], seconds: float) -> list[float]:
    """Seconds from the moment of each command until it was durable."""
    loop, found = asyncio.get_running_loop(), []

    async def one(number: int, moment: float) -> None:
        command = {"id": uuid.uuid4().hex, "source": BUSY, "kind": "refresh", "collection": "customers"}
        await send({**command, "uids": [uids[number % len(uids)]]})
        found.append(loop.time() - moment)

    begin = loop.time()
    async with asyncio.TaskGroup() as group:
        for number in range(int(seconds * PER_S)):
            moment = begin + number / PER_S
            await asyncio.sleep(max(0.0, moment - loop.time()))
            group.create_task(one(number, moment))
    return found


def _percentiles(seconds: Sequence[float]) -> tuple[float, float]:
    """The 50th and the 99th, in ms."""
    cut = quantiles([value * 1e3 for value in seconds], n=100)
    return cut[49], cut[98]
