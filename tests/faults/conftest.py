"""A neighbourhood on the shared Kafka, and a broker for what the shared one does too slowly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bridge.publish.settings import quiet_client_loggers
from bridge.sandbox.kafka import KafkaSettings, LocalKafka
from bridge.sandbox.kafka.ports import free_port
from tests.support.neighbourhood import Neighbourhood, brisk

Build = Callable[..., Neighbourhood]

quiet_client_loggers()


@pytest.fixture
def build(tmp_path: Path, bootstrap_servers: str, bridge_name: str) -> Build:
    """One with so many sources and shards."""

    def build(sources: int = 1, shards: int = 2) -> Neighbourhood:
        return Neighbourhood(tmp_path, brisk(bootstrap_servers), bridge_name, sources, shards)

    return build


@dataclass
class Broker:
    """One that forgets idle transactional ids and compacts within seconds. far: a listener, advertised as `link`."""

    kafka: LocalKafka
    far: int
    link: int


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """Not async, and shared, like the fixture `kafka`."""
    own, far, link, controller = (free_port() for _ in range(4))
    properties = {
        "listeners": f"PLAINTEXT://127.0.0.1:{own},FAR://127.0.0.1:{far},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{own},FAR://127.0.0.1:{link}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,FAR:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "transactional.id.expiration.ms": "2000",  # seven days by default
        "transaction.remove.expired.transaction.cleanup.interval.ms": "500",
        "log.cleaner.backoff.ms": "100",
        "quota.window.num": "2",  # seconds over which a rate is measured; else 11
    }
    kafka = LocalKafka(KafkaSettings(port=own, heap_mib=256, properties=properties))
    try:
        asyncio.run(kafka.start())
        yield Broker(kafka, far, link)
    finally:
        asyncio.run(kafka.stop())
