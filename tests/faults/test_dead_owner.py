"""A process that dies with a transaction open, and nobody who takes over (K27)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from bridge.publish.transaction import Record
from bridge.verify.reading import verify
from tests.publish.benching import Bench, HeldCommit, bench_on

TIMEOUT_S = 4.0
"""Of its transaction, 30 s by default; the broker of the tests looks for expired ones every second, not every ten."""


@pytest.fixture
async def bench(bootstrap_servers: str, bridge_name: str) -> AsyncIterator[Bench]:
    bench = await bench_on(bootstrap_servers, bridge_name)
    yield bench
    await bench.close()


def step(bench: Bench, shard: int, value: bytes) -> list[Record]:
    """An event in a partition that all shards share, and the state in the shard's own."""
    return [
        Record(bench.plan.deadletters, 0, b"shared", value),
        Record(bench.plan.state, shard, b"acme/customers/%d" % shard, value),
    ]


async def test_a_transaction_that_nobody_ends_holds_up_readers_for_its_timeout_and_no_other_shard(
    bench: Bench,
) -> None:
    hasty = bench.settings.model_copy(update={"transaction_timeout_s": TIMEOUT_S})
    dead = await bench.opened(shard=0, settings=hasty)
    held = HeldCommit(dead)
    publishing = asyncio.create_task(dead.publish(step(bench, 0, b"dead"), 1))
    await held.reached.wait()
    publishing.cancel()
    await asyncio.wait([publishing])
    await dead.abandon()  # asks Kafka nothing, as SIGKILL
    began = time.monotonic()
    other = await bench.opened(shard=1)
    for number in range(3):
        await other.publish(step(bench, 1, b"%d" % number), number)
    assert await bench.values(bench.plan.deadletters, settle=False) == [], "readers wait before what is undecided"
    assert time.monotonic() - began < TIMEOUT_S, "the other shard did not wait"
    told = await verify(bench.settings, bench.plan, bench.clock, lambda *_: None, wait_s=0.0)
    assert f"{bench.plan.state}-0" in str(told.findings), "a reader of the log learns where it is stuck"
    async with asyncio.timeout(TIMEOUT_S + 10.0 + 20.0):
        while len(await bench.values(bench.plan.deadletters, settle=False)) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert await bench.values(bench.plan.deadletters) == [b"0", b"1", b"2"]
    assert await bench.values(bench.plan.state) == [b"0", b"1", b"2"]
    after = await verify(bench.settings, bench.plan, bench.clock, lambda *_: None, wait_s=0.0)
    assert f"{bench.plan.state}-0" not in str(after.findings)
