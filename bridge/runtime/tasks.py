"""Small things about tasks that the standard library leaves open."""

from __future__ import annotations


def first_leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The exception that broke a task group: the first one that is not a mere cancellation.

    Siblings are cancelled by the group because of it, so the others tell nothing.
    """
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
