"""A cancellation at each await of a shard's life (P15): every port is closed once, nothing swallowed or left."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Generator
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from bridge.publish.inbox import InboxRecord
from bridge.runtime.shard import Shard, ShardState
from bridge.store.base import Store
from bridge.store.memory import MemoryStore
from tests.runtime.processes import Process
from tests.runtime.shards import NUMBER, TOPICS, House, MemoryInbox, MemoryProducer
from tests.support.clock import VirtualClock, run_virtual

LIFE_S = 7.0
"""Snapshot, commits, polls, inbox, drain."""


class Stepped(Coroutine[Any, Any, Any]):
    """A coroutine that tells each time before it goes on. `Any`: whatever it yields, takes and returns."""

    def __init__(self, inner: Coroutine[Any, Any, Any], step: Callable[[], None]) -> None:
        self._inner = inner
        self._step = step

    def send(self, value: Any) -> Any:
        self._step()
        return self._inner.send(value)

    def throw(self, *error: Any) -> Any:
        self._step()
        return self._inner.throw(*error)

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        raise NotImplementedError("only tasks run it")


class Cancel:
    """Cancels a task before the n-th step of any task that belongs to it."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.steps = 0
        self.victim: asyncio.Task[Any] | None = None

    def install(self) -> None:
        """From now on every new task counts."""
        loop = asyncio.get_running_loop()
        make: Any = loop.get_task_factory()
        loop.set_task_factory(lambda loop, coro, **options: make(loop, Stepped(coro, self._step), **options))

    def _step(self) -> None:
        if self.victim is None or self.victim.done():
            return
        self.steps += 1
        if self.steps == self.at:
            self.victim.cancel()


class Slow(MemoryProducer):
    """A producer that waits in each of its calls, and counts its closes."""

    def __init__(self, house: House, closes: Counter[str]) -> None:
        super().__init__(house.kafka)
        self._closes = closes

    async def open(self) -> None:
        await asyncio.sleep(0.01)
        await super().open()

    async def close(self) -> None:
        self._closes["producer"] += 1
        await asyncio.sleep(0.01)
        await super().close()

    async def abandon(self) -> None:
        self._closes["producer"] += 1
        await asyncio.sleep(0.01)
        await super().abandon()


class SlowInbox(MemoryInbox):
    """The same for the partition."""

    async def committed(self) -> int | None:
        await asyncio.sleep(0.01)
        return await super().committed()

    async def beginning(self) -> int:
        await asyncio.sleep(0.01)
        return await super().beginning()


class CountedStore(MemoryStore):
    """A store that counts its closes."""

    def __init__(self, closes: Counter[str]) -> None:
        super().__init__()
        self._closes = closes
        closes["opened"] += 1

    def close(self) -> None:
        self._closes["store"] += 1
        super().close()


def slow_shard(house: House, closes: Counter[str]) -> Shard:
    async def restore(store: Store) -> None:
        await asyncio.sleep(0.01)
        state = [(record.key.decode(), record.value) for record in house.kafka.events("state")]
        store.apply(state, house.kafka.state_end)

    ports = replace(
        house.shard()._ports,
        inbox=SlowInbox(house.kafka),
        producer=lambda: Slow(house, closes),
        open_store=lambda: CountedStore(closes),
        restore=restore,
    )
    return Shard(NUMBER, [house.reader], ports, TOPICS, house.clock, house.metrics)


async def life(clock: VirtualClock, cancel: Cancel) -> tuple[Counter[str], asyncio.Task[None], Shard]:
    """One life with a letter and a drain, cancelled where it is said; returns when it is over."""
    closes: Counter[str] = Counter()
    house = House(clock, customers=5, tags=2)
    shard = slow_shard(house, closes)
    before = asyncio.all_tasks()
    cancel.install()
    serving = cancel.victim = asyncio.get_running_loop().create_task(shard.serve())
    await asyncio.wait([serving], timeout=LIFE_S / 2)
    shard.deliver([InboxRecord(NUMBER, 0, b"acme", b"letter", (), 0)])
    await asyncio.wait([serving], timeout=LIFE_S / 2)
    shard.drain()
    await asyncio.wait([serving])
    assert asyncio.all_tasks() == before
    return closes, serving, shard


def test_a_cancellation_at_any_await_of_a_life_closes_everything_once() -> None:
    whole = Cancel(0)

    async def uncancelled(clock: VirtualClock) -> None:
        closes, serving, _ = await life(clock, whole)
        assert serving.exception() is None
        assert closes == {"producer": 1, "opened": 1, "store": 1}

    run_virtual(uncancelled)
    assert whole.steps > 40
    swallowed = []
    for at in range(1, whole.steps + 1):

        async def cancelled(clock: VirtualClock, at: int = at) -> None:
            closes, serving, shard = await life(clock, Cancel(at))
            if not serving.cancelled():
                swallowed.append(at)
            if at > 1:  # else it never began
                assert shard.state is ShardState.CLOSED
                assert (closes["producer"], closes["store"]) == (1, closes["opened"]), at

        run_virtual(cancelled)
    assert swallowed == []


class Exclusive(Slow):
    """A producer that notes when another one of the shard is open."""

    def __init__(self, house: House, closes: Counter[str], owners: set[Exclusive]) -> None:
        super().__init__(house, closes)
        self._owners = owners
        self._closes = closes

    async def open(self) -> None:
        self._closes["opened beside another"] += len(self._owners)
        self._owners.add(self)
        await super().open()

    async def close(self) -> None:
        await super().close()
        self._owners.discard(self)

    async def abandon(self) -> None:
        self._owners.discard(self)
        await super().abandon()


async def process_life(clock: VirtualClock, cancel: Cancel, name: str) -> tuple[Counter[str], asyncio.Task[None]]:
    """A process in which the task of this name is cancelled, and which is stopped later; returns when it is over."""
    process, closes, owners = Process(clock), Counter[str](), set[Exclusive]()
    house, before = process.house, asyncio.all_tasks()
    ports = replace(slow_shard(house, closes)._ports, producer=lambda: Exclusive(house, closes, owners))
    process.build_shard = lambda: Shard(NUMBER, [house.reader], ports, TOPICS, clock, house.metrics)
    cancel.install()
    with capture_logs() as said:
        running = asyncio.get_running_loop().create_task(process.supervisor.run(), name="run")
        await asyncio.sleep(0.001)
        cancel.victim = next(task for task in asyncio.all_tasks() if task.get_name() == name)
        await asyncio.wait([running], timeout=4)
        process.supervisor.stop()
        await asyncio.wait([running], timeout=60)
    assert running.done()
    assert asyncio.all_tasks() == before
    assert [line for line in said if "TaskDied" not in str(line) and line["log_level"] == "error"] == []
    return closes, running


@pytest.mark.parametrize("name", ["run", f"owner of shard {NUMBER}"])
def test_a_cancellation_at_any_await_of_a_process_leaves_no_second_owner_and_no_task(name: str) -> None:
    whole = Cancel(0)
    run_virtual(lambda clock: process_life(clock, whole, name))
    assert whole.steps > 40
    for at in range(1, whole.steps + 1):
        closes, running = run_virtual(lambda clock, at=at: process_life(clock, Cancel(at), name))  # type: ignore[misc]
        assert closes["store"] == closes["opened"], at
        assert not closes["opened beside another"], at
        assert running.cancelled() or running.exception() is None, at
