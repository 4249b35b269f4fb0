"""A lock between processes: a file that one of them has at a time, and nobody any more when he dies."""

from __future__ import annotations

import fcntl
from typing import IO

LOCK_POLL_S = 0.1
"""Between two attempts; whoever waits has a bound of his own, for one who hangs with the lock."""


def taken(lock: IO[str]) -> bool:
    """Whether this open file is ours now. Does not wait; closing it gives it back. Raises OSError."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
