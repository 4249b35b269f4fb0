"""Where the classes of Kafka lie parsed and verified, so that a broker starts in half the time.

Java calls it class-data sharing (JEP 350, Java 13): a process that is told to writes what it loaded into a file as it
ends, and later ones map that file instead of reading five thousand classes from jars. `node.py` runs one broker for it,
once per Java and per set of jars. Such a file is a cache: Java ignores one that does not fit, it may be deleted at any
time, and where none can be made everything works as before.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import blake2b
from pathlib import Path

from bridge.sandbox.kafka.java import Java, cache_folder
from bridge.sandbox.kafka.lock import LOCK_POLL_S, taken

ARCHIVES_MAX = 4  # of about 50 MiB each
MAKING_TIMEOUT_S = 180.0  # takes ten seconds; behind one that hangs a broker starts without


def archive_of(java: Java, jars: list[Path]) -> Path | None:
    """The file for exactly this Java and these jars, there or not; None when there is nowhere to keep one.

    It is empty where Java could not make one.
    """
    said = blake2b(digest_size=8)
    try:
        for file in (java.executable.resolve(), *jars):
            stat = file.stat()
            said.update(f"{file} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        return cache_folder() / f"kafka-{said.hexdigest()}.jsa"
    except OSError:
        return None


def tried(archive: Path) -> bool:
    """Whether making it was tried, well or in vain."""
    return archive.exists()


def usable(archive: Path) -> bool:
    """Whether it was made."""
    with contextlib.suppress(OSError):
        return archive.stat().st_size > 0
    return False


@asynccontextmanager
async def making(archive: Path) -> AsyncIterator[Path | None]:
    """Only one process at a time makes it; yields where to write, or None when it is there or another takes too long.

    What was written there takes its place at the end, or else an empty file does, so that nobody tries again. When the
    block raises, there is no trace. Raises OSError when the folder cannot be written.
    """
    with archive.with_suffix(".lock").open("w") as lock:
        deadline = time.monotonic() + MAKING_TIMEOUT_S
        while not (ours := taken(lock)) and time.monotonic() < deadline:  # noqa: ASYNC110 - of processes
            await asyncio.sleep(LOCK_POLL_S)
        if not ours or tried(archive):
            yield None
            return
        written = archive.with_suffix(".part")
        written.unlink(missing_ok=True)
        try:
            yield written
            written.touch()
            written.replace(archive)
        finally:
            written.unlink(missing_ok=True)
        _forget_old(archive)


def _forget_old(newest: Path) -> None:
    """Without those of former versions; whoever uses one keeps it until he ends."""
    others = sorted(newest.parent.glob("kafka-*.jsa"), key=lambda path: path.stat().st_mtime, reverse=True)
    for archive in others[ARCHIVES_MAX:]:
        archive.unlink(missing_ok=True)
        archive.with_suffix(".lock").unlink(missing_ok=True)
