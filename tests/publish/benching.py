"""What the tests of publishing share: a bridge's topics on a Kafka, its producers, a view of what was committed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from bridge.clock import SystemClock
from bridge.publish.producer import KafkaProducer
from bridge.publish.reading import Message, read_topics
from bridge.publish.settings import KafkaSettings, Partitions, quiet_client_loggers
from bridge.publish.topics import Cluster, TopicPlan, ensure

SHARDS = 4
SETTLE_S = 10.0

quiet_client_loggers()


class Bench:
    """One bridge's topics on one cluster."""

    def __init__(self, settings: KafkaSettings, plan: TopicPlan, cluster: Cluster) -> None:
        self.settings = settings
        self.plan = plan
        self.cluster = cluster
        self.clock = SystemClock()
        self._producers: list[KafkaProducer] = []

    def producer(
        self, shard: int = 0, settings: KafkaSettings | None = None, record_bytes_max: int | None = None
    ) -> KafkaProducer:
        """A new producer of a shard, not open yet; abandoned at the end of the test."""
        producer = KafkaProducer(
            settings or self.settings,
            transactional_id=f"{self.plan.bridge}-{shard}",
            group_id=self.plan.bridge,
            inbox_topic=self.plan.inbox,
            shard=shard,
            partitions=self.cluster.partitions,
            record_bytes_max=record_bytes_max or self.cluster.record_bytes_max,
            clock=self.clock,
        )
        self._producers.append(producer)
        return producer

    async def opened(
        self, shard: int = 0, settings: KafkaSettings | None = None, record_bytes_max: int | None = None
    ) -> KafkaProducer:
        producer = self.producer(shard, settings, record_bytes_max)
        await producer.open()
        return producer

    async def settled(self, *topics: str) -> None:
        """Kafka answers a commit before its markers are in the log; return when no transaction is open in these."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.settings.bootstrap_servers, isolation_level="read_committed")
        raw = AIOKafkaConsumer(bootstrap_servers=self.settings.bootstrap_servers)
        await consumer.start()
        await raw.start()
        try:
            partitions = [
                TopicPartition(topic, number) for topic in topics for number in range(self.cluster.partitions[topic])
            ]
            async with asyncio.timeout(SETTLE_S):
                while await consumer.end_offsets(partitions) != await raw.end_offsets(partitions):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        finally:
            await consumer.stop()
            await raw.stop()

    async def committed(self, *topics: str, settle: bool = True) -> list[Message]:
        """Everything that a `read_committed` reader sees, at once or when every transaction has ended."""
        if settle:
            await self.settled(*topics)
        async with aclosing(read_topics(self.settings, topics, self.clock)) as messages:
            return [message async for message in messages]

    async def values(self, *topics: str, settle: bool = True) -> Sequence[bytes | None]:
        return [message.value for message in await self.committed(*topics, settle=settle)]

    async def close(self) -> None:
        for producer in self._producers:
            await producer.abandon()


async def bench_on(servers: str, name: str, shards: int = SHARDS, partitions: Partitions | None = None) -> Bench:
    settings = KafkaSettings(bootstrap_servers=[servers])
    plan = TopicPlan(name, shards, partitions or Partitions())
    cluster = await ensure(settings, plan, create=True)
    return Bench(settings, plan.sized(cluster), cluster)


class HeldCommit:
    """Stops a producer between the last acknowledgement and its commit. There is no other way to see that moment."""

    def __init__(self, producer: KafkaProducer) -> None:
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()
        client: Any = producer._client
        commit = client.commit_transaction

        async def held() -> None:
            self.reached.set()
            await self.go_on.wait()
            await commit()

        client.commit_transaction = held
