"""A state topic that lost its end, as after an unclean election or from a backup (K29)."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.detect.diff import Change
from bridge.event.catalog import classify
from bridge.event.envelope import ContentMode, EventBuilder, Position
from bridge.model import Account, Cause, Collection
from bridge.model import Path as Way
from bridge.publish.reading import Message, read_topics
from bridge.publish.witness import sequence_of
from bridge.sandbox.kafka import LocalKafka
from bridge.verify.reading import verify
from bridge.verify.verdict import Invariant
from tests.support.neighbourhood import Neighbourhood, brisk, published, runs, until

LOST_BATCHES = 2
"""Of the state partition: the last records and their commit marker."""


def cut(kafka: LocalKafka, topic: str, partition: int, batches: int) -> None:
    """Remove the last batches of a partition from the disk of a broker that was killed; it recovers what is left."""
    assert kafka.home is not None
    [segment] = (kafka.home / "log" / f"{topic}-{partition}").glob("*.log")
    data = segment.read_bytes()
    starts, at = [], 0
    while at + 12 <= len(data) and (size := int.from_bytes(data[at + 8 : at + 12], "big")):
        starts.append(at)
        at += 12 + size
    assert len(starts) > batches
    segment.write_bytes(data[: starts[-batches]])


async def events(town: Neighbourhood) -> int:
    return len([event async for event in read_topics(town.kafka, [town.plan.customers], town.world.clock)])


async def test_a_state_behind_its_events_is_refused_and_explained(
    tmp_path: Path, own_kafka: LocalKafka, bridge_name: str
) -> None:
    town = Neighbourhood(tmp_path, brisk(own_kafka.bootstrap_servers), bridge_name, shards=1)
    async with town.bridge() as bridge:
        await until("it runs", runs(bridge, 0))
        await until("all is read", lambda: bridge.proved_until() > 0)
        for _ in range(3):
            before = published(bridge)
            town.sign_up()
            await until("it is published", lambda: published(bridge) > before)  # noqa: B023 - at once
    await town.verified()
    whole = await events(town)
    own_kafka.kill()
    cut(own_kafka, town.plan.state, 0, LOST_BATCHES)
    await own_kafka.start()
    town.sign_up()
    for cache in ("a", "of a process that never ran"):
        town.said.clear()
        async with town.bridge(cache):
            await until("it refuses", lambda: bool(town.heard("the shard refuses to run")))
        [line] = town.heard("the shard refuses to run")
        assert line["level"] == "error"
        assert "has lost its newest records" in line["detail"]
        assert "Restore it from a backup" in line["detail"]
    assert await events(town) == whole
    verdict = await verify(town.kafka, town.plan, town.world.clock, lambda *_: None, wait_s=0.5)
    assert not verdict.ok
    assert verdict.broken(Invariant.ATOMIC)
    assert any("the counters say" in finding.text for finding in verdict.findings)


@pytest.mark.parametrize("mode", ContentMode)
def test_an_event_tells_its_number_in_either_mode(mode: ContentMode) -> None:
    builder = EventBuilder(Account("acme", "dintero", "T1"), mode)
    change = Change(None, {"first_name": "A"}, ())
    kind = classify(Collection.CUSTOMERS, change, Way.POLL)
    at = Position(4711, 0, 0)
    event = builder.build(
        kind,
        "u",
        change,
        at,
        cause=Cause(Way.POLL),
        changed_at=1,
        detected_at=2,
        before_json=None,
        after_json=b'{"first_name":"A"}',
    )
    message = Message("t", 0, 0, 0, event.key, event.value, tuple(event.headers))
    assert sequence_of(message) == 4711
    assert sequence_of(message._replace(headers=(("ce_sequence", b"x"),))) == 0
    assert sequence_of(message._replace(headers=(), value=b"4")) == 0
