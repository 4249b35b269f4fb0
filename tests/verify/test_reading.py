"""Verifying what is in a real Kafka: a true history, a broken one, and one that is being written meanwhile."""

from __future__ import annotations

import asyncio

from aiokafka import AIOKafkaProducer

from bridge.clock import SystemClock
from bridge.verify.reading import verify
from bridge.verify.verdict import Invariant
from tests.verify.history import History, kinds
from tests.verify.writing import Writer, settings_for, write_once


def silent(_stage: str, _done: int, _total: int) -> None:
    """No progress."""


def some() -> History:
    history = History()
    for number in range(40):
        history.put(f"c{number % 15}", {"n": number}, source="acme" if number % 3 else "other")
    history.remove("c1")
    return history


async def test_a_true_history_is_ok(bootstrap_servers: str, bridge_name: str) -> None:
    writer = await write_once(bootstrap_servers, bridge_name, some())
    stages: dict[str, tuple[int, int]] = {}
    verdict = await verify(
        writer.settings,
        writer.plan,
        SystemClock(),
        lambda stage, done, total: stages.update({stage: (done, total)}),
    )
    assert verdict.ok, verdict.findings
    assert Invariant.CACHE in verdict.checked
    assert verdict.figures["events"] == 41
    assert list(stages) == ["restore", "state", "events"]


async def test_a_hole_is_found_after_the_wait_and_only_in_its_source(bootstrap_servers: str, bridge_name: str) -> None:
    history = some()
    del history.events[1]
    writer = await write_once(bootstrap_servers, bridge_name, history)
    clock = SystemClock()
    verdict = await verify(writer.settings, writer.plan, clock, silent, wait_s=0.5)
    assert kinds(verdict) == {"2 missing"}
    assert (await verify(writer.settings, writer.plan, clock, silent, source="other", wait_s=0.5)).ok


async def test_a_transaction_that_hangs_in_an_event_topic_is_found(bootstrap_servers: str, bridge_name: str) -> None:
    """Nothing that was to come is missing, and yet no reader will ever see what comes next."""
    writer = await write_once(bootstrap_servers, bridge_name, some())
    async with AIOKafkaProducer(bootstrap_servers=bootstrap_servers, transactional_id=f"{bridge_name}-x") as stranger:
        await stranger.begin_transaction()
        await stranger.send_and_wait(writer.plan.customers, b"", key=b"x", partition=0)
        verdict = await verify(writer.settings, writer.plan, SystemClock(), silent, wait_s=0.5)
        assert kinds(verdict) == {"3 undecided"}
        assert f"{writer.plan.customers}-0" in verdict.findings[0].text
        await stranger.abort_transaction()
    assert (await verify(writer.settings, writer.plan, SystemClock(), silent)).ok


async def test_an_empty_bridge_is_ok(bootstrap_servers: str, bridge_name: str) -> None:
    writer = await write_once(bootstrap_servers, bridge_name, History())
    assert (await verify(writer.settings, writer.plan, SystemClock(), silent)).ok


async def test_a_bridge_that_publishes_meanwhile_is_ok(bootstrap_servers: str, bridge_name: str) -> None:
    writer = Writer(settings_for(bootstrap_servers), bridge_name)
    await writer.open()
    history = some()
    await writer.write(history)
    stop = asyncio.Event()

    async def live() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            uid = f"c{number % 7}"
            if number % 11 == 0 and f"acme/customers/{uid}" in history.records:
                history.remove(uid)
            else:
                history.put(uid, {"n": number})
            await writer.write(history)

    async with asyncio.TaskGroup() as group:
        group.create_task(live())
        for _ in range(4):
            verdict = await verify(writer.settings, writer.plan, SystemClock(), silent)
            assert verdict.ok, verdict.findings
        stop.set()
    await writer.close()
    assert len(history.events) > 50
