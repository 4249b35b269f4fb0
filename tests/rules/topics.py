"""Rules about topics: a reading begins where it should, a configuration stays, what was erased is gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from aiokafka import TopicPartition
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from bridge import assembly
from bridge.clock import SystemClock
from bridge.config import BridgeSection, Config, HttpSection
from bridge.publish.admin import Admin
from bridge.publish.reading import At, PartitionReader
from bridge.publish.settings import KafkaSettings, Partitions
from bridge.publish.statelog import restore
from bridge.publish.topics import Cluster, TopicPlan, ensure
from bridge.publish.transaction import Record
from bridge.runtime import shard
from bridge.store.memory import MemoryStore
from tests.publish.benching import bench_on
from tests.publish.proxy import LIST_OFFSETS
from tests.rules.rule import Harm, rule
from tests.rules.stage import WAIT_S, Stage

RESTORES = 10
"""Where the client loses the seek it does so more often than not."""

DELAY_S = 0.05
"""On the way to a distant broker, for what the client asks about the end of the log."""

PERSON = b"Ada Example, 1 Example Street"

# -- D6 ----------------------------------------------------------------------------------------------------------


@contextmanager
def sought_as_documented() -> Iterator[None]:
    """`assign`, then `seek_to_beginning`, in a consumer with the default `auto_offset_reset`."""
    build, chunks = PartitionReader.__init__, PartitionReader.chunks

    def latest(self: PartitionReader, *arguments: Any, **options: Any) -> None:
        build(self, *arguments, **options)
        self._consumer._auto_offset_reset = "latest"

    def assign(self: PartitionReader, starts: Mapping[At, int]) -> None:
        self._consumer.assign([TopicPartition(*at) for at in starts])

    async def sought(self: PartitionReader, ends: Mapping[At, int] | None) -> Any:
        await asyncio.sleep(DELAY_S / 2)  # any await in between does, while the answer is under way
        await self._consumer.seek_to_beginning()
        async for chunk in chunks(self, ends):
            yield chunk

    with ExitStack() as patches:
        patches.enter_context(patch.object(PartitionReader, "__init__", latest))
        patches.enter_context(patch.object(PartitionReader, "assign", assign))
        patches.enter_context(patch.object(PartitionReader, "chunks", sought))
        yield


@rule(
    "D06",
    "a seek while the client looks for its position",
    twin=sought_as_documented,
    harm="read nothing",
)
async def lost_seek(stage: Stage) -> None:
    """The answer that is on its way overwrites the seek."""
    bench = stage.bench
    producer = await bench.opened()
    documents = [Record(bench.plan.state, 0, b"acme/customers/%d" % number, b"{}") for number in range(20)]
    await producer.publish(documents, None)
    await bench.settled(bench.plan.state)
    read = []
    stage.proxy.delays_s[LIST_OFFSETS] = DELAY_S
    for _ in range(RESTORES):
        done = await restore(bench.settings, bench.plan.state, 0, MemoryStore(), bench.clock, lambda *_: None)
        read.append(done.records)
    if 0 in read:
        raise Harm(f"{read.count(0)} of {RESTORES} restores read nothing, and said nothing")
    assert read == [len(documents)] * RESTORES


# -- D14 ---------------------------------------------------------------------------------------------------------


@contextmanager
def differences_altered() -> Iterator[None]:
    """A start repairs what differs, one entry at a time."""

    async def repaired(settings: KafkaSettings, plan: TopicPlan, create: bool) -> Cluster:
        cluster = await ensure(settings, plan, create)
        async with Admin(settings) as admin:
            for topic in plan.declared():
                found = (await admin.configs([topic.name]))[topic.name]
                for key, wanted in topic.config.items():
                    if found[key] != wanted:
                        change = ConfigResource(ConfigResourceType.TOPIC, topic.name, {key: wanted})
                        await admin._client.alter_configs([change])
        return cluster

    with patch.object(assembly, "ensure", repaired):
        yield


@rule(
    "D14",
    "topics that somebody has configured otherwise",
    twin=differences_altered,
    harm="cleanup.policy=compact became delete",
)
async def foreign_configuration(stage: Stage) -> None:
    """The client can only replace a whole configuration: what is not named falls back to the default."""
    plan = TopicPlan(f"{stage.bench.plan.bridge}x", 1, Partitions(customers=1, tags=1, users=1, outcomes=1))
    await stage.create(plan.state, cleanup_policy="compact", segment_ms="123456789")
    await stage.create(plan.customers, cleanup_policy="delete", retention_ms="123456789", segment_bytes="7654321")
    names = [plan.state, plan.customers]
    settings = stage.settings()
    async with Admin(settings) as admin:
        # A broker does not know at once what was created. SCENARIO_S bounds this.
        while len(before := await admin.configs(names)) < len(names):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    section = BridgeSection(name=plan.bridge, shards=1, data_dir=stage.folder)
    http = HttpSection(listen="127.0.0.1:0")
    config = Config(kafka=settings.model_copy(update={"partitions": plan.partitions}), bridge=section, http=http)
    bridge = assembly.build(config, SystemClock())
    running = asyncio.create_task(bridge.run())
    try:
        await stage.until(lambda: owns(bridge, 0) or running.done(), "the bridge runs")
    finally:
        bridge.stop()
        await asyncio.wait([running])
    await running
    async with Admin(settings) as admin:
        after = await admin.configs(names)
    changed = sorted(
        f"{key}={value} became {after[name].get(key)}"
        for name in names
        for key, value in before[name].items()
        if after[name].get(key) != value
    )
    if changed:
        raise Harm(f"after a start {changed[0]}, and {len(changed) - 1} entries more are others")


def owns(bridge: assembly.Bridge, number: int) -> bool:
    assignment = bridge.supervisor.assignment
    return assignment is not None and number in assignment.owners


# -- D15 ---------------------------------------------------------------------------------------------------------


@contextmanager
def no_heartbeat() -> Iterator[None]:
    """A shard writes when there is something to write."""
    with patch.object(shard, "HEARTBEAT_S", float("inf")):
        yield


@rule(
    "D15",
    "a person erased from a partition that is quiet afterwards",
    twin=no_heartbeat,
    harm="still on the disk",
)
async def quiet_tombstone(stage: Stage) -> None:
    """The segment that is written to is never compacted, and without a further record it never ends.

    A day is a few seconds here. The control is a topic with the same past into which the test writes one more record:
    when its data has gone, that of the shard has to be gone.
    """
    name = f"{stage.bench.plan.bridge}x"
    brisk = {
        "cleanup_policy": "compact",
        "segment_ms": "1000",
        "max_compaction_lag_ms": "1000",
        "min_cleanable_dirty_ratio": "0.01",
        "file_delete_delay_ms": "100",
    }
    plan = TopicPlan(name, 1, Partitions(customers=1, tags=1, users=1, outcomes=1))
    control = f"{name}.control"
    await stage.create(plan.state, **brisk)
    await stage.create(control, **brisk)
    bench = await bench_on(stage.bench.settings.servers, name, 1, plan.partitions)
    bench.cluster.partitions[control] = 1
    with patch.object(shard, "HEARTBEAT_S", shard.HEARTBEAT_S / 20_000):
        process = await stage.process(bench=bench)
        await stage.until(process.serving, "the shard runs")
        writer = await bench.opened(shard=7)
        for value in (PERSON, None):
            records = [Record(topic, 0, b"acme/customers/1", value) for topic in (plan.state, control)]
            await writer.publish(records, None)
        await writer.close()
        await asyncio.sleep(1.1)  # real time: the segment is old enough to end with the next record
        await stage.send(b"one more", topic=control)
        await gone(stage, control, WAIT_S)
        left = not await gone(stage, plan.state, 5.0)
    await bench.close()
    if left:
        raise Harm("the erased person is still on the disk, long after a partition with one more record was rid of it")


async def gone(stage: Stage, topic: str, timeout_s: float) -> bool:
    """Whether the person leaves the files of a partition within that time, those that wait to be deleted included."""
    home = stage.far.broker.home
    assert home is not None
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if not any(PERSON in content(file) for file in (home / "log" / f"{topic}-0").iterdir()):
            return True
        await asyncio.sleep(0.1)
    return False


def content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:  # deleted meanwhile
        return b""
