"""Breaking off a loop: at its next await, or right before it makes true what was asked before the signal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from bridge.model import Collection
from bridge.runtime.control import Control, Interrupted
from bridge.runtime.ledger import Ledger
from bridge.store.memory import MemoryStore
from tests.support.clock import VirtualClock, run_virtual


class Loop:
    """A control over a loop that takes down what it does."""

    def __init__(self) -> None:
        self.control = Control("acme", Collection.TAGS, Ledger(MemoryStore()))
        self.done: list[str] = []

    async def idle(self) -> None:
        self.done.append("idle")

    def start(self, read: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(self.control.run(read, self.idle))


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def test_a_call_breaks_off_any_wait_and_the_loop_begins_anew() -> None:
    async def main(clock: VirtualClock) -> None:
        loop = Loop()

        async def read() -> None:
            loop.done.append("reads")
            await asyncio.sleep(3600)

        task = loop.start(read)
        await asyncio.sleep(1)
        loop.control.call()
        loop.control.call()  # another before the first has come through
        await asyncio.sleep(1)
        assert loop.done == ["reads"] * 2
        loop.control.pause(clock.wall())
        loop.control.call()
        await asyncio.sleep(1)
        assert loop.done[2:] == ["idle"]
        loop.control.resume()
        loop.control.call()
        await asyncio.sleep(1)
        assert loop.done[3:] == ["reads"]
        await ended(task)
        assert task.cancelled()

    run_virtual(main)


def test_an_answer_that_came_in_the_same_moment_as_the_call_is_not_made_true() -> None:
    async def main(clock: VirtualClock) -> None:
        loop = Loop()
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def read() -> None:
            loop.done.append("asks")
            await answer
            loop.control.check()
            loop.done.append("believes")
            await asyncio.sleep(3600)

        task = loop.start(read)
        await asyncio.sleep(1)
        answer.set_result(None)
        loop.control.call()
        assert loop.done == ["asks"]
        await asyncio.sleep(1)
        assert loop.done == ["asks", "asks", "believes"]
        await ended(task)

    run_virtual(main)


def test_an_error_of_the_loop_is_not_taken_for_a_signal() -> None:
    async def main(clock: VirtualClock) -> None:
        loop = Loop()

        async def read() -> None:
            await asyncio.sleep(1)
            raise TimeoutError("of the disk")

        with pytest.raises(TimeoutError, match="of the disk"):
            await loop.control.run(read, loop.idle)

    run_virtual(main)


def test_a_cancellation_from_outside_wins_over_a_call() -> None:
    async def main(clock: VirtualClock) -> None:
        loop = Loop()

        async def read() -> None:
            loop.done.append("reads")
            await asyncio.sleep(3600)

        task = loop.start(read)
        await asyncio.sleep(1)
        loop.control.call()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert loop.done == ["reads"]

    run_virtual(main)


def test_the_check_is_silent_without_a_call() -> None:
    control = Control("acme", Collection.TAGS, Ledger(MemoryStore()))
    control.check()
    control.call()
    with pytest.raises(Interrupted):
        control.check()
