"""Running a coroutine from a command: uvloop where there is one, and the two signals of a service."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import TypeVar

from bridge.runtime.tasks import first_leaf

T = TypeVar("T")

EXIT_AT_ONCE = 1
"""Of a second signal: the log decides about what was in flight, so nothing is lost."""


def run_async(main: Coroutine[None, None, T]) -> T:
    """Run to the end on the fastest loop there is."""
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:  # not on this platform
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


@contextlib.contextmanager
def stop_on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """First SIGINT or SIGTERM: `stop`. Second: the process ends at once."""
    loop = asyncio.get_running_loop()
    seen = False

    def handle() -> None:
        nonlocal seen
        if seen:
            sys.stderr.write("second signal: exiting at once\n")
            sys.stderr.flush()
            os._exit(EXIT_AT_ONCE)
        seen = True
        stop()

    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, handle)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


async def until_signal(main: Coroutine[None, None, None]) -> None:
    """Run until the first SIGINT or SIGTERM cancels it; that is its normal end."""
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(main)
            with stop_on_signals(lambda: _cancel(task)):
                await asyncio.wait([task])
    except BaseExceptionGroup as error:
        raise first_leaf(error) from None


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
