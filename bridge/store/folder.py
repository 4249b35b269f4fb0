"""Folder: a place on disk that belongs to this process alone, whoever else uses the same `data_dir`.

Two processes may share a `data_dir` (a restart that overlaps, several bridges on one host). Each takes the first
numbered folder whose lock is free, so that no process ever writes into a cache that another one reads. The lock ends
with the process, also after SIGKILL; the next one finds the folder and its warm caches.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from bridge.errors import EnvironmentUnavailable

FOLDERS_MAX = 64
"""Processes that may share one `data_dir`."""


class CacheFolder:
    """The locked folder; keep the object as long as the folder is used."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def claim(cls, data_dir: Path, bridge: str) -> CacheFolder:
        """The first free folder below `data_dir/bridge`. Raises `EnvironmentUnavailable` with the remedy."""
        for number in range(FOLDERS_MAX):
            path = data_dir / bridge / str(number)
            try:
                path.mkdir(parents=True, exist_ok=True)
                lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            except OSError as error:
                raise EnvironmentUnavailable(
                    f"bridge.data_dir: {path} cannot be used ({error.strerror}); make it a folder that this user may "
                    "write to, with free space"
                ) from None
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            except OSError as error:
                os.close(lock)
                raise EnvironmentUnavailable(
                    f"bridge.data_dir: {path} cannot be locked ({error.strerror}); choose a folder on a local disk"
                ) from None
            return cls(path, lock)
        raise EnvironmentUnavailable(f"bridge.data_dir: {FOLDERS_MAX} processes use {data_dir} already; choose another")

    def release(self) -> None:
        """Let another process have the folder; idempotent."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
