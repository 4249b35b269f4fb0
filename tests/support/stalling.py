"""A bridge whose event loop can be blocked: SIGUSR1 makes it do nothing else for `STALL_S` seconds.

STALL_S=6 python -m tests.support.stalling run -c bridge.toml
"""

from __future__ import annotations

import os
import signal
import sys
import time

from bridge.cli import main

VARIABLE = "STALL_S"
PROGRAM = [sys.executable, "-m", "tests.support.stalling"]


def stall(*_: object) -> None:
    """What a giant page or a slow disk would do."""
    time.sleep(float(os.environ[VARIABLE]))


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, stall)
    main()
