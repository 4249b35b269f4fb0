"""What every test may ask for: a Kafka shared by the whole run, and a name of its own on it.

The broker starts when the first test asks for it and serves all of them, so a test must neither stop nor kill
it; one that does takes `own_kafka`. With KAFKA_BOOTSTRAP_SERVERS set the shared one is that cluster instead.
Every test that needs a Kafka carries the marker `kafka` without saying so: `-m "not kafka"` leaves them out.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Protocol

import pytest
from hypothesis import HealthCheck, settings

from bridge.sandbox.kafka import KafkaSettings, LocalKafka, ports
from tests.support import summary
from tests.support.workers import own_part

# How long an example takes is a matter of the machine and of what else runs on it.
settings.register_profile("bridge", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("bridge")

KAFKA_FIXTURES = {"kafka", "own_kafka"}

WAITING = tuple(f"tests/{folder}/" for folder in ("e2e", "faults", "publish", "rules"))
"""For brokers, processes and deadlines."""

LONG = ("tests/simulation/", "tests/runtime/test_every_switch.py")
"""Minutes of computing."""


class Kafka(Protocol):
    """What tests may know of the shared Kafka: where it is."""

    @property
    def bootstrap_servers(self) -> str: ...


@dataclass(frozen=True)
class ExistingKafka:
    bootstrap_servers: str


def pytest_configure() -> None:
    """Processes that run tests side by side look for free ports apart: one may be free because its broker is down."""
    own = own_part(ports.PORT_MIN, ports.PORT_MAX)
    ports.PORT_MIN, ports.PORT_MAX = own.start, own.stop


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if KAFKA_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.kafka)
    items[:] = [item for file in _alternating(items) for item in file]


def _alternating(items: list[pytest.Item]) -> Iterator[list[pytest.Item]]:
    """Files that mostly wait and files that mostly compute by turns, so that two processes seldom do the same.

    What computes longest goes first.
    """
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.nodeid.partition("::")[0], []).append(item)
    waiting = [name for name in files if name.startswith(WAITING)]
    computing = sorted(
        files.keys() - set(waiting), key=lambda name: (not name.startswith(LONG), -len(files[name]), name)
    )
    for pair in zip_longest(waiting, computing):
        yield from (files[name] for name in pair if name is not None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    # Here and not beside the tests: the process that prints reads no other conftest when others run them.
    summary.tell(terminalreporter)


@pytest.fixture(scope="session")
def kafka() -> Iterator[Kafka]:
    """Not async: a session's fixture would tie every test to one event loop, and the broker needs none."""
    if existing := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        yield ExistingKafka(existing)
        return
    local = LocalKafka()
    asyncio.run(local.start())
    yield local
    asyncio.run(local.stop())


@pytest.fixture
def bootstrap_servers(kafka: Kafka) -> str:
    return kafka.bootstrap_servers


@pytest.fixture
def bridge_name() -> str:
    """A prefix for topics, groups and transactional ids that no other test has used on this cluster."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
async def own_kafka() -> AsyncIterator[LocalKafka]:
    """A broker for one test, to be killed, paused and restarted at will; costs about two seconds."""
    local = LocalKafka(KafkaSettings(heap_mib=256))
    await local.start()
    yield local
    await local.stop()
