"""Topics that somebody deletes, empties or cuts anew under a running bridge (K09, K10)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

from bridge.errors import ConfigurationError
from bridge.publish.reading import read_topics
from bridge.runtime import supervisor
from tests.faults.conftest import Build
from tests.support.neighbourhood import Neighbourhood, runs, until


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the topics; every 15 s otherwise."""
    monkeypatch.setattr(supervisor, "TOPICS_WATCH_S", 0.5)


@pytest.fixture
async def admin(bootstrap_servers: str) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await admin.start()
    yield admin
    await admin.close()


async def events(town: Neighbourhood) -> int:
    return len([event async for event in read_topics(town.kafka, [town.plan.customers], town.world.clock)])


async def test_a_state_topic_that_comes_back_empty_is_no_empty_world(build: Build, admin: AIOKafkaAdminClient) -> None:
    """K09: deleted while running, and created again by whoever starts first."""
    town = build()
    async with town.bridge() as bridge:
        await until("it runs", runs(bridge, 0, 1))
        await until("all is read", lambda: bridge.proved_until() > 0)
        before = len(town.world.customers)
        async with asyncio.timeout(30):
            while await events(town) < before:  # noqa: ASYNC110 - markers come after the answer to a commit
                await asyncio.sleep(0.05)
        await admin.delete_topics([town.plan.state])
        await until("it refuses", lambda: bool(town.heard("the shard refuses to run")))
        town.sign_up()
        await asyncio.sleep(1.0)  # several polls, if there were any
        [line, *_] = town.heard("the shard refuses to run")
        assert f"{town.plan.state} is empty" in line["detail"]
        assert "the topic was deleted, recreated" in line["detail"]
        assert line["level"] == "error"
        assert town.heard(f"changed in Kafka while running: {town.plan.state}")
    assert await events(town) == before
    async with town.bridge() as restarted:
        await until("it refuses again", lambda: len(town.heard("the shard refuses to run")) >= 2)
        assert not runs(restarted, 0)()
    assert await events(town) == before


async def test_an_event_topic_that_is_deleted_stops_everything_until_it_is_back(
    build: Build, admin: AIOKafkaAdminClient
) -> None:
    """K09, where topics are made by others."""
    town = build()
    async with town.bridge() as bridge:
        await until("it runs", runs(bridge, 0, 1))
    town.kafka = town.kafka.model_copy(update={"create_topics": False})
    async with town.bridge() as bridge:
        await until("it runs", runs(bridge, 0, 1))
        await admin.delete_topics([town.plan.tags])
        lacking = f"lacks {town.plan.tags}; run `bridge topics --create`"
        await until("it says so", lambda: lacking in (bridge.supervisor.trouble or ""))
        assert bridge.supervisor.assignment is None, "nothing is owned meanwhile"
        assert not town.tasks["a"].done()


@pytest.mark.parametrize("topic", ["inbox", "state"])
async def test_partitions_that_are_added_end_the_process_with_the_remedy(
    build: Build, admin: AIOKafkaAdminClient, topic: str
) -> None:
    """K10: who owns what would change silently."""
    town = build()
    async with town.bridge() as bridge:
        await until("it runs", runs(bridge, 0, 1))
        await until("all is read", lambda: bridge.proved_until() > 0)
        await admin.create_partitions({f"{town.name}.{topic}": NewPartitions(total_count=3)})
        await until("it ends", town.tasks["a"].done)
    with pytest.raises(ConfigurationError, match=r"has 3 partitions, bridge\.shards is 2.*bridge\.shards = 3"):
        town.tasks["a"].result()
    assert town.heard(f"changed in Kafka while running: {town.name}.{topic}")
