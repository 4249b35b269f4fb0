"""Restores while the broker rewrites the log that they read (K28)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from random import Random
from typing import NamedTuple

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from bridge.publish.producer import KafkaProducer
from bridge.publish.settings import KafkaSettings
from bridge.publish.statelog import restore
from bridge.publish.topics import TopicPlan, ensure
from bridge.publish.transaction import Record
from bridge.store.base import Store
from bridge.store.memory import MemoryStore
from tests.faults.conftest import Broker
from tests.publish.benching import Bench, HeldCommit

pytestmark = pytest.mark.kafka

STEPS = 80
KEYS = 25
QUICK = {"segment.ms": "150", "min.cleanable.dirty.ratio": "0.01", "max.compaction.lag.ms": "200"}


class Written(NamedTuple):
    """After a commit. last: offset of its last record. records: in all commits so far. fold: what they add up to."""

    last: int
    records: int
    fold: dict[str, bytes]


class Seen(NamedTuple):
    """A restored store."""

    position: int
    records: int
    content: dict[str, bytes]


@pytest.fixture
async def bench(broker: Broker, bridge_name: str) -> AsyncIterator[Bench]:
    """Its state topic is compacted all the time; everything else is as declared."""
    settings = KafkaSettings(bootstrap_servers=[broker.kafka.bootstrap_servers])
    plan = TopicPlan(bridge_name, 2)
    [state] = [topic for topic in plan.declared() if topic.name == plan.state]
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.kafka.bootstrap_servers)
    await admin.start()
    await admin.create_topics([NewTopic(plan.state, 2, 1, topic_configs={**state.config, **QUICK})])
    await admin.close()
    bench = Bench(settings, plan, await ensure(settings, plan, create=True))
    yield bench
    await bench.close()


async def write(bench: Bench, chance: Random, turn: asyncio.Lock) -> list[Written]:
    """Documents and removals in committed transactions, and between them some that are aborted; each in its turn."""
    history: list[Written] = []
    fold: dict[str, bytes] = {}
    records = 0
    producer = await bench.opened()
    for number in range(STEPS):
        keys = [f"acme/customers/{key}" for key in chance.sample(range(KEYS), 6)]
        pairs = [(key, None if chance.random() < 0.3 else b"%d" % number) for key in keys]
        step = [Record(bench.plan.state, 0, key.encode(), value) for key, value in pairs]
        async with turn:
            if chance.random() < 0.2:
                producer = await aborted(bench, producer, [record._replace(value=b"aborted") for record in step])
                continue
            receipt = await producer.publish(step, None)
        records += len(step)
        for key, value in pairs:
            if value is None:
                fold.pop(key, None)
            else:
                fold[key] = value
        history.append(Written(receipt.offsets[bench.plan.state, 0], records, dict(fold)))
        await asyncio.sleep(0.03)  # over several segments
    return history


async def aborted(bench: Bench, producer: KafkaProducer, records: list[Record]) -> KafkaProducer:
    """Leaves the records in the log, undone; the producer that comes after."""
    held = HeldCommit(producer)
    publishing = asyncio.create_task(producer.publish(records, None))
    await held.reached.wait()
    publishing.cancel()
    await asyncio.wait([publishing])
    await producer.abandon()
    return await bench.opened()


async def restored(bench: Bench, store: Store, shard: int = 0) -> Seen:
    done = await restore(bench.settings, bench.plan.state, shard, store, bench.clock, lambda *_: None)
    return Seen(done.position, done.records, dict(store.scan("")))


async def test_a_restore_under_compaction_is_the_fold_of_what_was_committed(bench: Bench) -> None:
    """From the beginning each time, and with a cache that is read on from where it is.

    Nobody writes while an owner restores, which is behind its fence; the broker rewrites what was written before. (With
    later records in the log, it may already have dropped the last one before the end for their sake, and not yet those
    before that; who restores beside a writer sees such keys too old, and reads their later records next.)
    """
    cache = MemoryStore()
    turn = asyncio.Lock()
    fresh: list[Seen] = []
    cached: list[Seen] = []
    async with asyncio.TaskGroup() as group:
        writing = group.create_task(write(bench, Random(5), turn))
        while not writing.done():
            async with turn:
                await bench.settled(bench.plan.state)
                fresh.append(await restored(bench, MemoryStore()))
                cached.append(await restored(bench, cache))
            await asyncio.sleep(0.2)
    history = writing.result()
    await bench.settled(bench.plan.state)
    async with asyncio.timeout(60):
        while (last := await restored(bench, MemoryStore())).records >= history[-1].records // 2:
            assert last.content == history[-1].fold
            await asyncio.sleep(0.2)
    fresh.append(last)
    cached.append(await restored(bench, cache))
    assert cached[-1].content == history[-1].fold
    compacted = 0
    for seen in fresh + cached:
        before = [written for written in history if written.last < seen.position]
        assert seen.content == (before[-1].fold if before else {})
    for seen in fresh[:-1]:
        before = [written for written in history if written.last < seen.position]
        compacted += bool(before) and seen.records < before[-1].records
    print(f"{len(fresh)} restores, {compacted} of them of a compacted log while it was written")
    assert compacted >= 3
    assert (await restored(bench, MemoryStore(), shard=1)).content == {}
