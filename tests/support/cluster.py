"""Three Kafka nodes as one cluster, each broker and controller; any one may be killed, frozen and started again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Any

from confluent_kafka.admin import AdminClient

from bridge.sandbox.kafka import KafkaSettings, LocalKafka
from bridge.sandbox.kafka.ports import free_port

NODES = (1, 2, 3)
CLUSTER_ID = "kThreeNodesOfTheTests0"

PROPERTIES: Mapping[str, str] = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "offsets.topic.num.partitions": "3",
    "transaction.state.log.num.partitions": "3",
    # A follower that is gone leaves the in-sync replicas by its session (3 s), one that is frozen by this.
    "replica.lag.time.max.ms": "3000",
    "controller.quorum.election.timeout.ms": "500",
    "controller.quorum.fetch.timeout.ms": "1000",
    "controller.quorum.election.backoff.max.ms": "500",
    # Moved back by the tests themselves.
    "auto.leader.rebalance.enable": "false",
}


class Cluster:
    """See the module. Belongs to no event loop."""

    def __init__(self) -> None:
        ports = {number: (free_port(), free_port()) for number in NODES}
        voters = ",".join(f"{number}@127.0.0.1:{controller}" for number, (_, controller) in ports.items())
        self.nodes: dict[int, LocalKafka] = {}
        for number, (port, controller) in ports.items():
            own = {
                "node.id": str(number),
                "controller.quorum.voters": voters,
                "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
                **PROPERTIES,
            }
            self.nodes[number] = LocalKafka(
                KafkaSettings(port=port, heap_mib=256, properties=own, cluster_id=CLUSTER_ID)
            )

    @property
    def servers(self) -> list[str]:
        """All addresses, for a client that starts while one of them is gone."""
        return [node.bootstrap_servers for node in self.nodes.values()]

    async def start(self) -> None:
        """All nodes; none answers before two are there."""
        await asyncio.gather(*(node.start() for node in self.nodes.values()))

    async def whole(self) -> None:
        """Start what was killed, resume nothing; returns when every replica of every topic is in sync."""
        await asyncio.gather(*(node.start() for node in self.nodes.values() if not node.running))
        async with asyncio.timeout(60):
            while not await asyncio.to_thread(self._in_sync):  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0.1)

    async def stop(self) -> None:
        """Kill them all: nobody needs their data, and an orderly stop would wait for a quorum."""
        stops: list[Awaitable[None]] = []
        for node in self.nodes.values():
            node.kill()
            stops.append(node.stop())
        await asyncio.gather(*stops)

    def leader(self, topic: str, partition: int) -> LocalKafka:
        """The node that leads a partition now."""
        return self.nodes[self._topics()[topic].partitions[partition].leader]

    def _topics(self) -> dict[str, Any]:
        """The library's own type is not exported."""
        client = AdminClient({"bootstrap.servers": ",".join(self.servers), "log_level": 0})
        topics: dict[str, Any] = client.list_topics(timeout=10).topics
        return topics

    def _in_sync(self) -> bool:
        topics = self._topics()
        return bool(topics) and all(
            partition.leader > 0 and len(partition.isrs) == len(partition.replicas) == len(NODES)
            for topic in topics.values()
            for partition in topic.partitions.values()
        )
