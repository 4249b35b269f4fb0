"""How one local broker is configured: what a caller may choose, and what differs from Kafka's own defaults.

A single small node that must start, rebalance and recover within seconds wants other numbers than a cluster;
each property below says which and why. Everything not named is Kafka's default, so that what is tried here
behaves as it will elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

KAFKA_VERSION = "4.3.1"
# The broker with everything it needs, and the smallest logger: without one Kafka says nothing at all when it
# fails. 1.7.36 is the slf4j release this Kafka is built against; a 2.x logger would be ignored silently.
KAFKA_COORDINATES = (f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}", "org.slf4j:slf4j-simple:1.7.36")

HOST = "127.0.0.1"
NODE_ID = 1

BROKER_PROPERTIES: Mapping[str, str] = {
    "auto.create.topics.enable": "false",  # a misspelt topic is an error, as on any serious cluster
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    # How often the broker looks for transactions that are past their timeout; by default every 10 s.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    # A killed broker may register again only when its former session is over; by default 9 s.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "log.cleaner.enable": "true",
    "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),  # bytes; the default takes 128 MiB of the heap
    "num.network.threads": "2",
    "num.io.threads": "4",
}


@dataclass(frozen=True)
class KafkaSettings:
    """How to run one local broker; every field has a default that works."""

    port: int | None = None  # None: a free one is chosen, and kept over restarts
    data: Path | None = None  # None: a temporary directory that `stop` removes
    heap_mib: int = 512
    properties: Mapping[str, str] = field(default_factory=dict)  # on top of BROKER_PROPERTIES and the node's own
    cluster_id: str | None = None  # None: a random one; nodes of one cluster need the same
    java: Path | None = None  # None: found by `find_java`
    coordinates: tuple[str, ...] = KAFKA_COORDINATES


def node_properties(settings: KafkaSettings, log_directory: Path, port: int, controller_port: int) -> str:
    """The content of server.properties."""
    properties = {
        "process.roles": "broker,controller",
        "node.id": str(NODE_ID),
        # Static voters: the controller's port may differ from start to start, nothing of it is stored.
        "controller.quorum.voters": f"{NODE_ID}@{HOST}:{controller_port}",
        "listeners": f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{port}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": log_directory.as_posix(),
        **BROKER_PROPERTIES,
        **settings.properties,
    }
    return "".join(f"{key}={value}\n" for key, value in properties.items())
