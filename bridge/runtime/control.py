"""Control: what signals have asked of one feed, and the way to break off what its loop is doing.

Whether a feed is paused is a state record, so it outlives restarts and moves with the shard; `paused` reads through
what is not committed yet. A signal changes the state first and then calls: the loop is cancelled at its next await,
wherever it waits, and begins anew with what the state says now. In between it may come back from one wait with an
answer to what was asked before the signal; it checks for that right before it makes the answer true.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from bridge.model import Collection, iso, key_of
from bridge.runtime.ledger import Ledger
from bridge.store.record import encode_json

CONTROL = "control"
"""Second part of a state key, `source/control/collection`."""


def control_key(source: str, collection: Collection) -> str:
    """Of the record that is there while the collection is paused."""
    return key_of(source, CONTROL, collection)


class Interrupted(Exception):
    """A signal came in between; what was read belongs to the time before it."""


class Control:
    """Of one feed during one opening of its shard. Synchronous but for `run`."""

    def __init__(self, source: str, collection: Collection, ledger: Ledger) -> None:
        self._key = control_key(source, collection)
        self._ledger = ledger
        self._called = asyncio.Event()
        self._scope: asyncio.Timeout | None = None

    @property
    def paused(self) -> bool:
        """Whether the provider is to be asked nothing about this collection."""
        return self._ledger.get(self._key) is not None

    def pause(self, at: float) -> None:
        """From `at`, in seconds, on."""
        self._ledger.put(self._key, encode_json({"paused": True, "since": iso(int(at * 1_000_000))}))

    def resume(self) -> None:
        """Go on."""
        self._ledger.put(self._key, None)

    def call(self) -> None:
        """Break off what the loop does, or wake it up."""
        self._called.set()
        if self._scope is not None and not self._scope.expired():
            self._scope.reschedule(asyncio.get_running_loop().time())

    def check(self) -> None:
        """Raises `Interrupted` when the loop was called since it began."""
        if self._called.is_set():
            raise Interrupted

    async def run(self, read: Callable[[], Awaitable[None]], idle: Callable[[], Awaitable[None]]) -> None:
        """`read`, which never returns, again after each call; `idle` once each time while paused."""
        while True:
            self._called.clear()
            if self.paused:
                await idle()
                await self._called.wait()
                continue
            try:
                async with asyncio.timeout(None) as self._scope:
                    await read()
            except (Interrupted, TimeoutError):
                if not self._called.is_set():
                    raise
            finally:
                self._scope = None
