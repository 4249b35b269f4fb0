"""Virtual time: a loop whose clock jumps to the next timer as soon as nothing else is to be done.

`run_virtual(main)` runs `main(clock)` on such a loop. Hours pass in no time, and every `asyncio.sleep`,
`asyncio.timeout` and wait through the clock port sees the same time. Sockets and threads do not belong here.

The same program does the same on every run. asyncio keeps tasks in sets, and a task group cancels them in the order
of the set; so the tasks of this loop hash by the number of their birth and not by their address.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")

WALL_START = 1_800_000_000.0

ROUNDS_MAX = 1_000_000
"""Of the loop within one virtual millisecond; more than that many is a program that goes round in circles."""


class VirtualClock:
    """The loop's time as a `Clock`."""

    def __init__(self, wall: float = WALL_START) -> None:
        self._wall = wall

    def wall(self) -> float:
        return self._wall + self.monotonic()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))

    def step(self, seconds: float) -> None:
        """Somebody sets the wall clock."""
        self._wall += seconds


class _NumberedTask(asyncio.Task[Any]):
    """A task whose place in a set is the same on every run. `Any`: whatever its coroutine returns."""

    def __init__(self, number: int, coro: Any, **options: Any) -> None:
        """`Any`: the coroutine, and what the Python version in use passes on with it."""
        self._number = number  # first: the task is put into a set while it is being made
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._number


class _JumpingSelector(selectors.SelectSelector):
    """Never waits: a time-out passes at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self._since = 0.0
        self._rounds = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._rounds += 1
        if self.now >= self._since + 0.001:
            self._since, self._rounds = self.now, 0
        elif self._rounds > ROUNDS_MAX:
            self._rounds = 0  # for those who clean up
            raise RuntimeError("time stands still: something goes round in circles without waiting")
        if timeout is not None and timeout <= 0:
            return []  # callbacks are waiting; nothing but the loop's own waking pipe could be ready
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("every task waits for something that never happens")
            self.now += timeout
        return ready


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        self._born = 0
        self.set_task_factory(self._numbered)

    def time(self) -> float:
        return self._jumping.now

    def _numbered(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        """`Any`: see `_NumberedTask`."""
        self._born += 1
        return _NumberedTask(self._born, coro, loop=loop, **options)


def run_virtual(main: Callable[[VirtualClock], Awaitable[T]]) -> T:
    """The result of `main`, which gets the clock of its loop."""

    async def body() -> T:
        return await main(VirtualClock())

    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        return runner.run(body())
