"""Whole bridges inside the test's own loop: a real Kafka on one side, a provider in process on the other.

Everything is assembled as `bridge run` assembles it; only the HTTP client is replaced by the provider itself. A test
can reach into any part, put a slow or failing one in its place, and ask `verify` at the end.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NoReturn
from unittest.mock import patch

import structlog
from pydantic import SecretStr

from bridge import assembly
from bridge.assembly import Bridge
from bridge.cli.verify import prove
from bridge.clock import SystemClock
from bridge.config import BridgeSection, Config, HttpSection, SourceSection
from bridge.event.envelope import ContentMode
from bridge.publish.settings import KafkaSettings, Partitions
from bridge.publish.topics import TopicPlan
from bridge.runtime.shard import ShardState
from bridge.sandbox.api import CLIENT_ID, CLIENT_SECRET, SandboxApi
from bridge.sandbox.population.life import Rates
from bridge.sandbox.switches import Switches
from bridge.sandbox.world import World
from tests.support.processes import free_port, source_ids

WAIT_S = 60.0
"""For something that takes a second on a quiet machine."""

POLL_INTERVAL_S = 0.2

BRISK = {"session_timeout_s": 2.0, "heartbeat_s": 0.3, "partitions": Partitions(customers=3, tags=1, users=1)}


def brisk(servers: str, **settings: object) -> KafkaSettings:
    """Settings with a short session and few partitions."""
    return KafkaSettings(bootstrap_servers=[servers]).model_copy(update={**BRISK, **settings})


async def until(what: str, condition: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
    """Poll, with the loop free."""
    try:
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110 - what is waited for is spread over a whole bridge
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"{what}: not within {timeout_s:.0f} s") from None


@dataclass
class Neighbourhood:
    """One provider account, read by bridges under several source ids, each on a shard of its own."""

    folder: Path
    kafka: KafkaSettings
    name: str
    sources: int = 1
    shards: int = 2
    content_mode: ContentMode = ContentMode.BINARY
    said: list[MutableMapping[str, Any]] = field(default_factory=list)
    """The bridges' log lines, in order."""

    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    """The bridges that run or ran, by label."""

    def __post_init__(self) -> None:
        switches = Switches.parse(["timestamp_precision=microseconds"])
        self.world = World(1, 40, 6, Rates(), SystemClock())
        self._chance = Random(1)
        self.api = SandboxApi(self.world, switches, self.world.clock)

    @property
    def plan(self) -> TopicPlan:
        """The topics."""
        return TopicPlan(self.name, self.shards, self.kafka.partitions)

    def config(self, label: str = "a", kafka: KafkaSettings | None = None) -> Config:
        """As a file would say it."""
        sources = [
            SourceSection(
                id=source,
                provider="dintero",
                account="T12345678",
                client_id=CLIENT_ID,
                client_secret=SecretStr(CLIENT_SECRET),
                poll_interval=POLL_INTERVAL_S,
                poll_overlap=3.0,
                request_budget=1000.0,
            )
            for source in source_ids(self.sources, self.shards)
        ]
        return Config(
            kafka=kafka or self.kafka,
            bridge=BridgeSection(
                name=self.name, shards=self.shards, data_dir=self.folder / label, content_mode=self.content_mode
            ),
            http=HttpSection(listen=f"127.0.0.1:{free_port()}"),
            sources=sources,
        )

    @asynccontextmanager
    async def bridge(self, label: str = "a", kafka: KafkaSettings | None = None) -> AsyncIterator[Bridge]:
        """A bridge that runs until the block is left, then drains. What ended it before that is in `tasks`."""
        with patch.object(assembly, "HttpTransport", lambda *_: self.api), self._hearing():
            bridge = assembly.build(self.config(label, kafka), SystemClock())
            running = self.tasks[label] = asyncio.create_task(bridge.run())
            try:
                yield bridge
            finally:
                ended_by_itself = running.done()
                bridge.stop()
                await asyncio.wait([running], timeout=WAIT_S)
                running.cancel()
                await asyncio.wait([running])
            if not ended_by_itself:
                running.result()

    async def verified(self) -> str:
        """What `verify --online` says; raises `AssertionError` unless it is right."""
        printed = io.StringIO()
        silence = redirect_stdout(printed), redirect_stderr(printed)
        with patch.object(assembly, "HttpTransport", lambda *_: self.api), silence[0], silence[1]:
            code = await prove(self.config("verify"), SystemClock(), online=True)
        assert code == 0, printed.getvalue()
        return printed.getvalue()

    def sign_up(self, count: int = 1) -> None:
        """So many new customers at the provider; each source sees them all."""
        for _ in range(count):
            self.world.invent_customer(self._chance)

    def heard(self, text: str) -> list[MutableMapping[str, Any]]:
        """The log lines with this text in them."""
        return [line for line in self.said if text in str(line)]

    @contextmanager
    def _hearing(self) -> Iterator[None]:
        processors = structlog.get_config()["processors"]
        former = processors.copy()

        def hear(_logger: Any, level: str, event: MutableMapping[str, Any]) -> NoReturn:
            self.said.append({"level": level, **event})
            raise structlog.DropEvent

        processors[:] = [hear]
        try:
            yield
        finally:
            processors[:] = former


def states(bridge: Bridge) -> dict[int, ShardState]:
    """Of the shards that the bridge owns."""
    assignment = bridge.supervisor.assignment
    owners = assignment.owners if assignment is not None else {}
    return {number: owner.shard.state for number, owner in owners.items() if owner.shard is not None}


def runs(bridge: Bridge, *shards: int) -> Callable[[], bool]:
    """Whether all these shards run, and their sources are read."""

    def all_run() -> bool:
        now = states(bridge)
        return all(now.get(number) is ShardState.RUNNING for number in shards)

    return all_run


def metric(bridge: Bridge, name: str) -> float:
    """The sum over all series that begin so."""
    lines = bridge.metrics.render()[1].decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def published(bridge: Bridge) -> float:
    """Events, by the bridge's own count."""
    return metric(bridge, "bridge_events_published_total{")
