"""A bridge's topics on the shared Kafka, and producers that are gone after the test whatever it did to them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from bridge.sandbox.kafka import LocalKafka
from tests.publish.benching import Bench, bench_on


@pytest.fixture
async def bench(bootstrap_servers: str, bridge_name: str) -> AsyncIterator[Bench]:
    bench = await bench_on(bootstrap_servers, bridge_name)
    yield bench
    await bench.close()


@pytest.fixture
async def own_bench(own_kafka: LocalKafka, bridge_name: str) -> AsyncIterator[Bench]:
    """On a broker that the test may pause, kill and restart."""
    bench = await bench_on(own_kafka.bootstrap_servers, bridge_name)
    yield bench
    await bench.close()
