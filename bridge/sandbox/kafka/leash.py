"""Ends a process when the one that started it is gone, however that happened; a script of its own.

`node.py` runs this file beside each broker: `python leash.py PID [DIRECTORY]`, with a pipe as standard
input whose other end only the starter holds. End of file means that the starter is dead (SIGKILL included,
where no handler of its own could run), so the process is killed and its temporary directory removed. On an
orderly stop the starter kills the leash first. A pipe, and not the kernel's parent-death signal: that one
does not exist on macOS, and on Linux it fires when the *thread* that started the child ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time

GONE_TIMEOUT_S = 10.0  # a killed process vanishes in milliseconds unless its disk hangs
GONE_POLL_S = 0.02


def main(pid: int, directory: str | None) -> None:
    sys.stdin.buffer.read()
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + GONE_TIMEOUT_S
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            time.sleep(GONE_POLL_S)
    if directory is not None:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
