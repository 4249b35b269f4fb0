"""Topics: which ones the bridge has, whether the cluster has them so, and creating what is missing.

Nothing is ever altered: the client can only replace a topic's whole configuration (what is not named falls back to
the default, so that `compact` would become `delete`), and partitions decide who owns what. A difference that breaks
the guarantees stops the start; any other is a finding for people.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, NamedTuple

from bridge.errors import ConfigurationError, EnvironmentUnavailable
from bridge.model import Collection
from bridge.publish.admin import Admin
from bridge.publish.settings import KafkaSettings, Partitions

_SECOND_MS = 1000
_DAY_MS = 24 * 3600 * _SECOND_MS

INBOX_DAYS = 7
"""How long a command waits for an owner."""

INBOX_SECONDS_MAX = (INBOX_DAYS + 1) * 86_400.0
"""How long a record of the inbox may be read again: a segment goes as a whole, and takes records for a day."""

TOMBSTONE_DAYS = 7
"""How long a removed key stays visible as a tombstone; a cache that is older has missed removals."""

RECORD_BYTES_MAX = 1_048_588
"""Kafka's default of `max.message.bytes`; the cluster's own values replace it at start."""

_CREATE_DEADLINE_S = 15.0
"""From creating topics until every partition has a leader."""

_CREATE_POLL_S = 0.1

_STATE_CONFIG = {
    "cleanup.policy": "compact",
    # Erased data really leaves within a day, as long as the partition is written to at all.
    "max.compaction.lag.ms": str(_DAY_MS),
    "delete.retention.ms": str(TOMBSTONE_DAYS * _DAY_MS),
    # Clean at a quarter of garbage instead of half: a restore reads the garbage too.
    "min.cleanable.dirty.ratio": "0.25",
    # The active segment is never cleaned, so it must not live for the default of seven days.
    "segment.ms": str(_DAY_MS),
}


class Topic(NamedTuple):
    """One declared topic. fixed: another number of partitions than declared must stop the process."""

    name: str
    partitions: int
    config: Mapping[str, str]
    fixed: bool


@dataclass(frozen=True)
class TopicPlan:
    """The eight topics of a bridge. `record_bytes_max` is Kafka's default until `sized` by the cluster."""

    bridge: str
    shards: int
    partitions: Partitions = field(default_factory=Partitions)
    record_bytes_max: int = RECORD_BYTES_MAX

    @cached_property
    def customers(self) -> str:
        return f"{self.bridge}.customers"

    @cached_property
    def tags(self) -> str:
        return f"{self.bridge}.tags"

    @cached_property
    def users(self) -> str:
        return f"{self.bridge}.users"

    @cached_property
    def state(self) -> str:
        return f"{self.bridge}.state"

    @cached_property
    def progress(self) -> str:
        return f"{self.bridge}.progress"

    @cached_property
    def inbox(self) -> str:
        return f"{self.bridge}.inbox"

    @cached_property
    def outcomes(self) -> str:
        return f"{self.bridge}.outcomes"

    @cached_property
    def deadletters(self) -> str:
        return f"{self.bridge}.deadletters"

    @cached_property
    def event_topics(self) -> tuple[str, str, str]:
        """Where events are."""
        return (self.customers, self.tags, self.users)

    def events(self, collection: Collection) -> str:
        """The topic of a collection's events; membership belongs to the customer."""
        match collection:
            case Collection.TAGS:
                return self.tags
            case Collection.USERS:
                return self.users
            case _:
                return self.customers

    def declared(self) -> tuple[Topic, ...]:
        """All of them, as they are created."""
        entities = self.partitions
        return (
            Topic(self.customers, entities.customers, _kept(14), False),
            Topic(self.tags, entities.tags, _kept(14), False),
            Topic(self.users, entities.users, _kept(14), False),
            Topic(self.state, self.shards, _STATE_CONFIG, True),
            Topic(self.progress, 1, {"cleanup.policy": "compact"}, False),
            Topic(self.inbox, self.shards, {**_kept(INBOX_DAYS), "segment.ms": str(_DAY_MS)}, True),
            Topic(self.outcomes, entities.outcomes, _kept(14), False),
            Topic(self.deadletters, 1, _kept(30), False),
        )

    def sized(self, cluster: Cluster) -> TopicPlan:
        """The same with the record size that every topic of the cluster takes."""
        return replace(self, record_bytes_max=cluster.record_bytes_max)


class Finding(NamedTuple):
    """One line of comparison. level: `ok`, `created`, `differs` (works) or `wrong` (must not start)."""

    topic: str
    level: Literal["ok", "created", "differs", "missing", "wrong"]
    message: str


class Cluster(NamedTuple):
    """What the cluster says.

    partitions: of each declared topic that exists. record_bytes_max: the smallest `max.message.bytes` among them.
    """

    id: str
    partitions: dict[str, int]
    record_bytes_max: int
    findings: list[Finding]


async def inspect(settings: KafkaSettings, plan: TopicPlan) -> Cluster:
    """Compare, change nothing. Raises `EnvironmentUnavailable` when Kafka cannot be asked."""
    async with Admin(settings) as admin:
        return await _compare(admin, plan, frozenset())


async def ensure(settings: KafkaSettings, plan: TopicPlan, create: bool) -> Cluster:
    """Every declared topic exists and is as the guarantees need it; missing ones are created when allowed.

    Raises `EnvironmentUnavailable` (not reachable, missing and not to be created, refused) or `ConfigurationError`
    (exists with other shards or another cleanup policy).
    """
    async with Admin(settings) as admin:
        cluster = await _compare(admin, plan, frozenset())
        missing = [topic for topic in plan.declared() if topic.name not in cluster.partitions]
        _refuse_wrong(cluster)
        if missing and not create:
            names = ", ".join(topic.name for topic in missing)
            raise EnvironmentUnavailable(
                f"Kafka at {settings.servers} lacks {names}; run `bridge topics --create`, or set "
                "kafka.create_topics = true"
            )
        if missing:
            cluster = await _created(admin, plan, missing)
            _refuse_wrong(cluster)
        return cluster


def _kept(days: int) -> dict[str, str]:
    return {"cleanup.policy": "delete", "retention.ms": str(days * _DAY_MS)}


def _refuse_wrong(cluster: Cluster) -> None:
    wrong = [finding.message for finding in cluster.findings if finding.level == "wrong"]
    if wrong:
        raise ConfigurationError("; ".join(wrong))


async def _compare(admin: Admin, plan: TopicPlan, created: frozenset[str]) -> Cluster:
    cluster_id, existing, _ = await admin.existing()
    declared = plan.declared()
    configs = await admin.configs([topic.name for topic in declared if topic.name in existing])
    findings = [
        finding
        for topic in declared
        for finding in _judge(topic, existing.get(topic.name), configs.get(topic.name), created)
    ]
    partitions = {topic.name: existing[topic.name] for topic in declared if topic.name in existing}
    sizes = [int(config["max.message.bytes"]) for config in configs.values() if "max.message.bytes" in config]
    return Cluster(cluster_id, partitions, min(sizes, default=RECORD_BYTES_MAX), findings)


def _judge(
    topic: Topic, partitions: int | None, config: Mapping[str, str] | None, created: frozenset[str]
) -> list[Finding]:
    name = topic.name
    if partitions is None or config is None:
        return [Finding(name, "missing", f"{name} does not exist")]
    findings = []
    if partitions != topic.partitions and topic.fixed:
        findings.append(
            Finding(
                name,
                "wrong",
                f"{name} has {partitions} partitions, bridge.shards is {topic.partitions}: the number is fixed once "
                f"the topics are created, because it decides who owns what. Set bridge.shards = {partitions}, or "
                "begin anew with another bridge.name",
            )
        )
    elif partitions != topic.partitions:
        message = f"{name} has {partitions} partitions instead of {topic.partitions}; the cluster's number is used"
        findings.append(Finding(name, "differs", message))
    for key, wanted in topic.config.items():
        found = config.get(key)
        if found is None or found == wanted:
            continue
        # With `delete` the state would lose documents, with `compact` the inbox would lose commands, both silently.
        loses = key == "cleanup.policy" and (topic.fixed or wanted == "compact")
        level: Literal["wrong", "differs"] = "wrong" if loses else "differs"
        remedy = (
            f"; records would be lost. Run kafka-configs --alter --entity-type topics --entity-name {name} "
            f"--add-config {key}={wanted}"
            if level == "wrong"
            else ""
        )
        findings.append(Finding(name, level, f"{name} has {key}={found} instead of {wanted}{remedy}"))
    if findings:
        return findings
    return [Finding(name, "created" if name in created else "ok", f"{name}, {partitions} partitions")]


async def _created(admin: Admin, plan: TopicPlan, topics: Sequence[Topic]) -> Cluster:
    await admin.create((topic.name, topic.partitions, topic.config) for topic in topics)
    names = frozenset(topic.name for topic in topics)
    try:
        async with asyncio.timeout(_CREATE_DEADLINE_S):
            while True:
                # Creation is announced to the brokers one after the other, and each look may be at another one.
                if await admin.all_led(names):
                    cluster = await _compare(admin, plan, names)
                    if not any(finding.level == "missing" for finding in cluster.findings):
                        return cluster
                await asyncio.sleep(_CREATE_POLL_S)
    except TimeoutError:
        raise EnvironmentUnavailable(
            f"Kafka created {', '.join(sorted(names))} but did not give every partition a leader within "
            f"{_CREATE_DEADLINE_S:.0f} s; look at the brokers"
        ) from None
