"""The declared topics against a cluster."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from bridge.clock import SystemClock
from bridge.errors import ConfigurationError, EnvironmentUnavailable
from bridge.model import Collection
from bridge.publish import topics as topics_module
from bridge.publish.admin import Admin
from bridge.publish.producer import KafkaProducer
from bridge.publish.settings import KafkaSettings, Partitions
from bridge.publish.topics import RECORD_BYTES_MAX, TopicPlan, ensure, inspect
from bridge.sandbox.kafka import KafkaSettings as BrokerSettings
from bridge.sandbox.kafka import LocalKafka


@pytest.fixture
def settings(bootstrap_servers: str) -> KafkaSettings:
    return KafkaSettings(bootstrap_servers=[bootstrap_servers])


async def create(servers: str, name: str, partitions: int, **config: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        dotted = {key.replace("_", "."): value for key, value in config.items()}
        answer = await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=dotted)])
        assert [error for _, error, _ in answer.topic_errors] == [0]
    finally:
        await admin.close()


async def names(servers: str) -> set[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        return set(await admin.list_topics())
    finally:
        await admin.close()


def test_events_go_to_the_topic_of_their_entity() -> None:
    plan = TopicPlan("b", 4)
    assert {collection: plan.events(collection) for collection in Collection} == {
        Collection.CUSTOMERS: "b.customers",
        Collection.TAGS: "b.tags",
        Collection.MEMBERSHIPS: "b.customers",  # one customer, one order
        Collection.USERS: "b.users",
    }


async def test_creates_all_eight_as_declared(settings: KafkaSettings, bridge_name: str) -> None:
    plan = TopicPlan(bridge_name, 5, Partitions(customers=7))
    created = await ensure(settings, plan, create=True)
    assert {finding.level for finding in created.findings} == {"created"}
    again = await ensure(settings, plan, create=False)
    assert {finding.level for finding in again.findings} == {"ok"}
    assert again.partitions == {
        f"{bridge_name}.customers": 7,
        f"{bridge_name}.tags": 3,
        f"{bridge_name}.users": 3,
        f"{bridge_name}.state": 5,
        f"{bridge_name}.progress": 1,
        f"{bridge_name}.inbox": 5,
        f"{bridge_name}.outcomes": 3,
        f"{bridge_name}.deadletters": 1,
    }
    assert again.id
    assert plan.sized(again).record_bytes_max == RECORD_BYTES_MAX


async def test_two_processes_may_create_at_once(settings: KafkaSettings, bridge_name: str) -> None:
    plan = TopicPlan(bridge_name, 2)
    clusters = await asyncio.gather(*(ensure(settings, plan, create=True) for _ in range(3)))
    assert len({tuple(cluster.partitions.items()) for cluster in clusters}) == 1


async def test_topics_are_there_when_every_broker_knows_them() -> None:
    """Each look may be at another node of a cluster, and one that hears late knows nothing of what was created."""
    plan = TopicPlan("b", 2)
    everything = {topic.name: topic.partitions for topic in plan.declared()}
    looks = iter([{}, {}, everything, {}, everything, everything])

    class Nodes:
        async def existing(self) -> tuple[str, dict[str, int], set[str]]:
            return "c", next(looks), set()

        async def all_led(self, topics: set[str]) -> bool:
            return topics <= (await self.existing())[1].keys()

        async def configs(self, topics: list[str]) -> dict[str, dict[str, str]]:
            return {topic: {} for topic in topics}

        async def create(self, _topics: object) -> None: ...

    cluster = await topics_module._created(cast(Admin, Nodes()), plan, plan.declared())
    assert cluster.partitions == everything


async def test_names_what_is_missing_and_creates_nothing_unasked(
    settings: KafkaSettings, bridge_name: str, bootstrap_servers: str
) -> None:
    plan = TopicPlan(bridge_name, 2)
    with pytest.raises(EnvironmentUnavailable, match=rf"{bridge_name}\.inbox.*topics --create"):
        await ensure(settings, plan, create=False)
    findings = (await inspect(settings, plan)).findings
    assert {finding.level for finding in findings} == {"missing"}
    assert not {name for name in await names(bootstrap_servers) if name.startswith(bridge_name)}


@pytest.mark.parametrize("topic", ["state", "inbox"])
async def test_other_shards_than_the_topics_have_stop_the_start(
    settings: KafkaSettings, bridge_name: str, bootstrap_servers: str, topic: str
) -> None:
    await create(bootstrap_servers, f"{bridge_name}.{topic}", 3, cleanup_policy=_policy(topic))
    with pytest.raises(ConfigurationError, match=r"has 3 partitions, bridge\.shards is 4.*bridge\.shards = 3"):
        await ensure(settings, TopicPlan(bridge_name, 4), create=True)


@pytest.mark.parametrize(("topic", "policy"), [("state", "delete"), ("state", "compact,delete"), ("inbox", "compact")])
async def test_a_cleanup_policy_that_loses_records_stops_the_start(
    settings: KafkaSettings, bridge_name: str, bootstrap_servers: str, topic: str, policy: str
) -> None:
    await create(bootstrap_servers, f"{bridge_name}.{topic}", 4, cleanup_policy=policy)
    with pytest.raises(ConfigurationError, match=rf"cleanup\.policy={policy} instead of {_policy(topic)}"):
        await ensure(settings, TopicPlan(bridge_name, 4), create=True)


async def test_other_differences_are_findings(
    settings: KafkaSettings, bridge_name: str, bootstrap_servers: str
) -> None:
    await create(bootstrap_servers, f"{bridge_name}.customers", 24, retention_ms="1000", max_message_bytes="5000")
    cluster = await ensure(settings, TopicPlan(bridge_name, 4), create=True)
    messages = [finding.message for finding in cluster.findings if finding.level == "differs"]
    assert len(messages) == 2
    assert "24 partitions" in messages[0]
    assert "retention.ms=1000" in messages[1]
    assert cluster.partitions[f"{bridge_name}.customers"] == 24
    assert cluster.record_bytes_max == 5000, "the strictest topic bounds every record"


async def test_says_why_kafka_cannot_be_reached() -> None:
    settings = KafkaSettings(bootstrap_servers=["127.0.0.1:1"])
    with pytest.raises(EnvironmentUnavailable, match=r"nothing listens at 127\.0\.0\.1:1 .*bootstrap_servers"):
        await ensure(settings, TopicPlan("b", 1), create=True)


async def test_a_broker_that_does_not_answer_is_given_up(own_kafka: LocalKafka) -> None:
    settings = KafkaSettings(bootstrap_servers=[own_kafka.bootstrap_servers], answer_deadline_s=1.0)
    own_kafka.pause()
    async with asyncio.timeout(4.0):
        with pytest.raises(EnvironmentUnavailable, match="within 1 s"):
            await inspect(settings, TopicPlan("b", 1))


async def test_an_impossible_replication_is_explained(settings: KafkaSettings, bridge_name: str) -> None:
    greedy = settings.model_copy(update={"replication_factor": 3})
    with pytest.raises(EnvironmentUnavailable, match=r"refuses to create .*replication"):
        await ensure(greedy, TopicPlan(bridge_name, 1), create=True)


async def test_asking_never_creates_a_topic(bridge_name: str) -> None:
    """On a broker that creates whatever it is asked about, as they do by default."""
    async with LocalKafka(BrokerSettings(heap_mib=256, properties={"auto.create.topics.enable": "true"})) as broker:
        settings = KafkaSettings(bootstrap_servers=[broker.bootstrap_servers], answer_deadline_s=5.0)
        plan = TopicPlan(bridge_name, 2)
        await inspect(settings, plan)
        producer = KafkaProducer(
            settings,
            transactional_id="t",
            group_id="g",
            inbox_topic=plan.inbox,
            shard=0,
            partitions={plan.state: 2, plan.customers: 12},
            record_bytes_max=1000,
            clock=SystemClock(),
        )
        try:
            with pytest.raises(EnvironmentUnavailable, match="partitions"):
                await producer.open()
        finally:
            await producer.abandon()
        assert not {name for name in await names(broker.bootstrap_servers) if name.startswith(bridge_name)}


def _policy(topic: str) -> str:
    return "compact" if topic == "state" else "delete"
