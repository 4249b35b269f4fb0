"""Small things about tasks that the standard library leaves open."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

T = TypeVar("T")


class TaskDied(Exception):
    """A task that others rely on has ended without being asked to."""


async def outlived(task: asyncio.Task[T], *vital: asyncio.Task[Any]) -> T:
    """The result of the task. Raises `TaskDied` as soon as a vital one ends before it, whatever it returns.

    A task group notices a child that fails, but not one that returns or was cancelled by somebody else.
    """
    await asyncio.wait([task, *vital], return_when=asyncio.FIRST_COMPLETED)
    if task.done() and not task.cancelled():
        return task.result()
    dead = next((other for other in vital if other.done()), task)
    raise TaskDied(f"the task '{dead.get_name()}' has ended")


def first_leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The exception that broke a task group: the first one that is not a mere cancellation.

    Siblings are cancelled by the group because of it, so the others tell nothing.
    """
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
