"""Stage: what a scenario acts on: a broker behind a proxy, a bridge's topics on it, processes of a bridge."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.protocol.group import HeartbeatRequest, JoinGroupRequest

from bridge.assembly import ShardParts
from bridge.config import BridgeSection, Config
from bridge.model import Account, Collection
from bridge.observability.families import Vocabulary
from bridge.observability.metrics import Metrics
from bridge.publish.inbox import Inbox
from bridge.publish.settings import KafkaSettings
from bridge.publish.topics import TopicPlan
from bridge.publish.transaction import Producer
from bridge.runtime.answers import Answers
from bridge.runtime.assignment import Assignment
from bridge.runtime.ledger import Ledger
from bridge.runtime.reader import SourceOpening, SourceReader
from bridge.runtime.shard import Shard, ShardState
from bridge.sandbox.kafka import KafkaSettings as BrokerSettings
from bridge.sandbox.kafka import LocalKafka
from bridge.sandbox.kafka.ports import free_port
from bridge.store.base import Store
from bridge.store.sqlite import CACHE_KIB
from tests.publish.benching import Bench, HeldCommit
from tests.publish.proxy import Proxy

SHARDS = 2

BRISK: Mapping[str, float] = {
    "session_timeout_s": 3.0,
    "heartbeat_s": 0.2,
    "rebalance_timeout_s": 10.0,
}
"""A group that notices within seconds."""

WAIT_S = 30.0
"""Upper bound for what happens within a second on a quiet machine."""

WATCHED = ("acme", Collection.CUSTOMERS)
"""What the probe reads."""

USER, PASSWORD = "bridge", "correct-horse-battery"


@dataclass(frozen=True)
class Far:
    """A broker that clients reach through a proxy only. port: its own. proxied: the proxy's. sasl: with a login."""

    broker: LocalKafka
    port: int
    proxied: int
    sasl: int

    @classmethod
    def planned(cls) -> Far:
        """Not started yet."""
        port, proxied, sasl, controller = (free_port() for _ in range(4))
        login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
        properties = {
            "listeners": f"PLAINTEXT://127.0.0.1:{port},SASL://127.0.0.1:{sasl},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{proxied},SASL://127.0.0.1:{sasl}",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SASL:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl.plain.sasl.jaas.config": f'{login} user_{USER}="{PASSWORD}";',
            "log.cleaner.backoff.ms": "100",  # by default the cleaner looks every 15 s
            "broker.session.timeout.ms": "60000",  # paused, it does not fence itself when it goes on
        }
        return cls(LocalKafka(BrokerSettings(port=port, heap_mib=256, properties=properties)), port, proxied, sasl)


def parts_of(bench: Bench, folder: Path, settings: KafkaSettings) -> ShardParts:
    """How a process builds its shards."""
    bridge = BridgeSection(name=bench.plan.bridge, shards=bench.plan.shards, data_dir=folder)
    nothing: frozenset[str] = frozenset()
    vocabulary = Vocabulary(frozenset({"acme"}), nothing, nothing, frozenset({"unknown_kind"}))
    metrics = Metrics(bench.clock, vocabulary, "0")
    # Unchecked: deadlines that make no sense in production are what some rules are about.
    config = Config.model_construct(kafka=settings, bridge=bridge)
    return ShardParts(
        config=config,
        topics=bench.plan,
        cluster=bench.cluster,
        folder=folder,
        cache_kib=CACHE_KIB,
        clock=bench.clock,
        metrics=metrics,
    )


class Probe:
    """In the place of a source: the scenario says what was read."""

    def __init__(self) -> None:
        self.account = Account("acme", "dintero", "T1")
        self.ledger: Ledger | None = None

    def open(self, ledger: Ledger, topics: TopicPlan, answers: Answers) -> SourceOpening:
        self.ledger = ledger
        return SourceOpening((), None)

    def nothing_new(self, moment: float) -> None:
        """A poll has ended that showed what is known already: everything up to the moment is published."""
        assert self.ledger is not None
        self.ledger.open.caught_up[WATCHED] = moment
        self.ledger.wake()


class Process:
    """One process of a bridge, in this event loop and without providers: its shards turn inbox records to dead letters.

    Inbox, assignment, shards, producers, caches and restores are those of production. hold: the next producer that
    opens stops before its first commit. before_open: called right before each fence.
    """

    def __init__(self, bench: Bench, folder: Path, restore_s: float, settings: KafkaSettings) -> None:
        folder.mkdir()
        self._parts = parts_of(bench, folder, settings)
        self._restore_s = restore_s
        self.probe = Probe()
        self.inbox = Inbox(settings, bench.plan.inbox, bench.plan.bridge, bench.clock)
        self.assignment = Assignment(
            self.inbox, self._shard, self._discard, bench.clock, self._parts.metrics, spread=lambda: 0.0
        )
        self.opened: dict[int, int] = {}
        self.hold: dict[int, asyncio.Future[HeldCommit]] = {}
        self.before_open: Callable[[int], Awaitable[None]] | None = None
        self._frozen: asyncio.Event | None = None

    def shard(self, number: int = 0) -> Shard | None:
        """What lives of a shard here."""
        owner = self.assignment.owners.get(number)
        return owner.shard if owner is not None else None

    def serving(self, number: int = 0) -> bool:
        """Whether the shard runs here."""
        shard = self.shard(number)
        return shard is not None and shard.state is ShardState.RUNNING

    def freeze_group(self) -> None:
        """Nothing tells the group until `thaw_group` that the process lives: what it knows of its membership is old.

        As after SIGCONT, in the moment before the first heartbeat is answered.
        """
        thawed = self._frozen = asyncio.Event()
        client = self.inbox._consumer._client
        send = client.send

        async def late(node: Any, request: Any, **options: Any) -> Any:
            if isinstance(request, HeartbeatRequest | JoinGroupRequest):
                await thawed.wait()
            return await send(node, request, **options)

        client.send = late

    def thaw_group(self) -> None:
        if self._frozen is not None:
            self._frozen.set()

    async def run(self) -> None:
        """Until cancelled, then dead without a word."""
        try:
            await self.inbox.start()
            await self.assignment.run()
        finally:
            self.thaw_group()
            await self.inbox._cut()

    def _discard(self, number: int) -> None:
        self._parts.cache(number).unlink(missing_ok=True)

    def _shard(self, number: int) -> Shard:
        # The probe is no real source: it reads nothing.
        shard = self._parts.shard(number, self.inbox, [cast(SourceReader, self.probe)] if number == 0 else [])
        build, restore = shard._ports.producer, shard._ports.restore

        def producer() -> Producer:
            built: Any = build()
            fence = built.open

            async def opened() -> None:
                if self.before_open is not None:
                    await self.before_open(number)
                await fence()
                self.opened[number] = self.opened.get(number, 0) + 1
                if number in self.hold:
                    self.hold.pop(number).set_result(HeldCommit(built))

            built.open = opened
            return built  # type: ignore[no-any-return]

        async def restored(store: Store) -> None:
            await asyncio.sleep(self._restore_s)
            await restore(store)

        shard._ports = replace(shard._ports, producer=producer, restore=restored)
        return shard


class Stage:
    """Everything that a scenario started is gone when it ends, however it ends."""

    def __init__(self, far: Far, proxy: Proxy, bench: Bench, folder: Path) -> None:
        self.far = far
        self.proxy = proxy
        self.bench = bench
        self.folder = folder
        self.stack = AsyncExitStack()
        self._processes: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.far.broker.resume()
        for task in self._processes:
            task.cancel()
        if self._processes:
            await asyncio.wait(self._processes)
        await self.stack.aclose()
        await self.bench.close()

    def settings(self, **changed: float) -> KafkaSettings:
        """Of a brisk group."""
        return self.bench.settings.model_copy(update={**BRISK, **changed})

    async def process(
        self,
        restore_s: float = 0.0,
        bench: Bench | None = None,
        prepare: Callable[[Process], None] = lambda _: None,
        **changed: float,
    ) -> Process:
        """One that has been started."""
        bench = bench or self.bench
        settings = bench.settings.model_copy(update={**BRISK, **changed})
        process = Process(bench, self.folder / f"data-{len(self._processes)}", restore_s, settings)
        prepare(process)
        self._processes.append(asyncio.create_task(process.run(), name="process of a bridge"))
        return process

    async def until(self, condition: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
        """Many things change in many tasks and processes here; there is no one event to wait for."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not within {timeout_s:.0f} s"
            for task in self._processes:
                if task.done() and not task.cancelled():
                    task.result()
            await asyncio.sleep(0.02)

    async def at_rest(self, process: Process) -> None:
        """Until every shard is here and has committed its marker, after which a quiet shard writes nothing."""
        await self.until(lambda: all(map(process.serving, range(SHARDS))), "every shard runs")
        async with asyncio.timeout(WAIT_S):
            for number in range(SHARDS):
                while await process.inbox.committed(number) is None:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)

    async def send(self, *values: bytes, partition: int = 0, topic: str | None = None) -> None:
        """Records into the inbox, as the receiver of webhooks writes them."""
        producer = AIOKafkaProducer(bootstrap_servers=self.bench.settings.bootstrap_servers)
        await producer.start()
        try:
            for value in values:
                await producer.send_and_wait(topic or self.bench.plan.inbox, value, key=b"acme", partition=partition)
        finally:
            await producer.stop()

    async def letters(self, last: bytes) -> list[bytes | None]:
        """The committed dead letters, as soon as that one is among them: those of a partition keep their order."""
        async with asyncio.timeout(WAIT_S):
            while last not in (found := await self.bench.values(self.bench.plan.deadletters, settle=False)):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        return list(found)

    async def create(self, topic: str, **config: str) -> None:
        """A topic of one partition; producers of the bench know it from now on."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bench.settings.bootstrap_servers)
        await admin.start()
        try:
            dotted = {key.replace("_", "."): value for key, value in config.items()}
            answer = await admin.create_topics([NewTopic(topic, 1, 1, topic_configs=dotted)])
            assert [error for _, error, *_ in answer.topic_errors] == [0]
        finally:
            await admin.close()
        self.bench.cluster.partitions[topic] = 1
