"""One broker behind a proxy for all rules."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from bridge.publish.settings import Partitions
from tests.publish.benching import bench_on
from tests.publish.proxy import Proxy
from tests.rules.stage import SHARDS, Far, Stage


@pytest.fixture(scope="session")
def far() -> Iterator[Far]:
    """A broker of its own: it is paused, and calls itself by the port of a proxy that each test puts there."""
    far = Far.planned()
    asyncio.run(far.broker.start())
    yield far
    asyncio.run(far.broker.stop())


@pytest.fixture
async def stage(far: Far, bridge_name: str, tmp_path: Path) -> AsyncIterator[Stage]:
    async with Proxy(far.proxied, far.port) as proxy:
        bench = await bench_on(
            f"127.0.0.1:{far.proxied}", bridge_name, SHARDS, Partitions(customers=1, tags=1, users=1, outcomes=1)
        )
        async with Stage(far, proxy, bench, tmp_path) as stage:
            yield stage
