"""Workers: processes that run tests side by side, each with its own part of what they would take from one another."""

from __future__ import annotations

import os


def own_part(first: int, end: int) -> range:
    """The part of the numbers from `first` to before `end` that is this process's; all of them when it is alone."""
    worker, count = os.environ.get("PYTEST_XDIST_WORKER", "gw0"), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    width = (end - first) // count
    begin = first + width * int(worker.removeprefix("gw"))
    return range(begin, begin + width)
