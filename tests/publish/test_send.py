"""Appending to the inbox: acknowledged by every replica, where its owner looks, and bounded whatever Kafka does."""

from __future__ import annotations

import asyncio
import time

import pytest

from bridge.clock import SystemClock
from bridge.errors import EnvironmentUnavailable
from bridge.publish.partitioner import partition_of
from bridge.publish.reading import read_topics
from bridge.publish.send import InboxSender, Outcomes
from bridge.publish.settings import CLOSE_DEADLINE_S, KafkaSettings
from bridge.publish.wire import CUT_DEADLINE_S
from bridge.sandbox.kafka import LocalKafka
from tests.publish.benching import SHARDS, Bench

QUICK_S = 3.0


def quick(bench: Bench) -> KafkaSettings:
    return bench.settings.model_copy(update={"answer_deadline_s": QUICK_S})


async def values(bench: Bench) -> list[tuple[int, bytes | None, bytes | None]]:
    messages = read_topics(bench.settings, [bench.plan.inbox], SystemClock())
    return [(message.partition, message.key, message.value) async for message in messages]


async def test_a_record_lies_where_the_owner_of_its_source_looks(bench: Bench) -> None:
    async with InboxSender(bench.settings, bench.plan.inbox) as sender:
        for source in ("acme", "globex", "initech"):
            partition, offset = await sender.send(source, b"x")
            assert partition == partition_of(source.encode(), SHARDS)
            assert offset >= 0
    assert sorted(key or b"" for _, key, _ in await values(bench)) == [b"acme", b"globex", b"initech"]


async def test_the_answer_is_found_also_when_it_comes_at_once(bench: Bench) -> None:
    async with Outcomes(bench.settings, bench.plan.outcomes, SystemClock()) as outcomes:
        await outcomes.note("id-1", from_beginning=False)
        async with InboxSender(bench.settings, bench.plan.outcomes) as answering:
            await answering.send("id-0", b"another")
            await answering.send("id-1", b"first")
            await answering.send("id-1", b"second")
        assert await asyncio.wait_for(outcomes.answer("id-1"), 10) == b"first"
    async with Outcomes(bench.settings, bench.plan.outcomes, SystemClock()) as late:
        await late.note("id-1", from_beginning=True)
        assert await asyncio.wait_for(late.answer("id-1"), 10) == b"first"


async def test_a_broker_that_says_nothing_ends_in_time_and_the_same_sender_goes_on(
    own_bench: Bench, own_kafka: LocalKafka
) -> None:
    async with InboxSender(quick(own_bench), own_bench.plan.inbox) as sender:
        await sender.send("acme", b"before")
        own_kafka.pause()
        began = time.monotonic()
        with pytest.raises(EnvironmentUnavailable, match="in time"):
            await sender.send("acme", b"meanwhile")
        assert time.monotonic() - began < QUICK_S + 2
        own_kafka.resume()
        async with asyncio.timeout(60):
            while True:
                try:
                    await sender.send("acme", b"after")
                    break
                except EnvironmentUnavailable:
                    pass
    found = [value for _, _, value in await values(own_bench)]
    assert found[0] == b"before"
    assert b"after" in found


async def test_closing_while_the_broker_says_nothing_is_bounded_and_leaves_no_task(
    own_bench: Bench, own_kafka: LocalKafka
) -> None:
    before = asyncio.all_tasks()
    async with InboxSender(quick(own_bench), own_bench.plan.inbox) as sender:
        await sender.send("acme", b"before")
        own_kafka.pause()
        with pytest.raises(EnvironmentUnavailable):
            await sender.send("acme", b"meanwhile")
        began = time.monotonic()
    assert time.monotonic() - began < CLOSE_DEADLINE_S + CUT_DEADLINE_S + 1
    own_kafka.resume()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
