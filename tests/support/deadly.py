"""A bridge that kills itself: the real service, dead by SIGKILL at the n-th arrival at a named step.

    DIES_AT="commit sent:3" python -m tests.support.deadly run -c bridge.toml

`DIES_OF=SIGTERM` sends itself another signal instead, once. The steps are put around the real classes before the
command line starts; without `DIES_AT` nothing is changed.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import sqlite3
from collections.abc import Callable
from functools import wraps
from typing import Any

import aiokafka.conn
from aiokafka import AIOKafkaProducer
from aiokafka.protocol.transaction import EndTxnRequest

from bridge import assembly
from bridge.cli import main
from bridge.clock import Clock
from bridge.model import Path
from bridge.publish import producer
from bridge.publish.inbox import Inbox
from bridge.runtime import step
from bridge.runtime.ledger import Ledger
from bridge.runtime.shard import Shard
from bridge.source.client import HttpTransport
from bridge.store.sqlite import SqliteStore

VARIABLE = "DIES_AT"
SIGNAL = "DIES_OF"

LEAVES_S = 0.05
"""For a request that was written to leave the process."""


class Death:
    """Comes at the n-th arrival."""

    def __init__(self, count: int, of: signal.Signals = signal.SIGKILL) -> None:
        self._left = count
        self._of = of

    @property
    def near(self) -> bool:
        """Whether the next arrival is the last."""
        return self._left <= 1

    def arrive(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), self._of)


Step = Callable[[Death], None]
"""Puts a step around the real thing."""

# `Any` throughout: the arguments of whatever is wrapped.
Concerns = Callable[..., bool]


def before(owner: Any, name: str, concerns: Concerns = lambda *_: True) -> Step:
    """A step that is reached when something is called."""
    return lambda death: _wrap(owner, name, concerns, death, None)


def after(owner: Any, name: str, concerns: Concerns = lambda *_: True) -> Step:
    """A step that is reached when something has returned."""
    return lambda death: _wrap(owner, name, concerns, None, death)


def _wrap(owner: Any, name: str, concerns: Concerns, early: Death | None, late: Death | None) -> None:
    original = getattr(owner, name)

    def reach(death: Death | None, arguments: tuple[Any, ...]) -> None:
        if death is not None and concerns(*arguments):
            death.arrive()

    @wraps(original)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        reach(early, arguments)
        result = original(*arguments, **options)
        reach(late, arguments)
        return result

    @wraps(original)
    async def awaited(*arguments: Any, **options: Any) -> Any:
        reach(early, arguments)
        result = await original(*arguments, **options)
        reach(late, arguments)
        return result

    setattr(owner, name, awaited if inspect.iscoroutinefunction(original) else wrapped)


def _commit_sent(death: Death) -> None:
    """The commit has left, and its answer is never read."""
    send = aiokafka.conn.AIOKafkaConnection.send

    def deaf(self: Any, request: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(request, EndTxnRequest):
            if death.near:
                self._writer.transport.pause_reading()
                asyncio.get_running_loop().call_later(LEAVES_S, death.arrive)
            else:
                death.arrive()
        return send(self, request, *arguments, **options)

    aiokafka.conn.AIOKafkaConnection.send = deaf


def _applying(death: Death) -> None:
    """In the middle of a local transaction: the values are written, the position is not."""
    opened = SqliteStore.__init__

    def traced(self: SqliteStore, connection: sqlite3.Connection, position: int, salt: bytes, clock: Clock) -> None:
        opened(self, connection, position, salt, clock)
        connection.set_trace_callback(lambda said: death.arrive() if said.startswith("UPDATE meta") else None)

    SqliteStore.__init__ = traced  # type: ignore[method-assign]  # the connection is reached nowhere else


def _ends_transaction(_self: Any, request: Any, *_: Any) -> bool:
    return isinstance(request, EndTxnRequest)


def _reads(path: Path) -> Concerns:
    return lambda _self, _collection, page, *_: page.path is path and not page.complete


STEPS: dict[str, Step] = {
    "fencing": before(producer.KafkaProducer, "open"),
    "fenced": after(producer.KafkaProducer, "open"),
    "position read": after(Inbox, "committed"),
    "restoring": after(assembly.RestoreProgress, "__call__", lambda _self, done, _total: done > 0),
    "restored": after(Shard, "_restored_store"),
    "resumed": after(Inbox, "resume"),
    "fetching": before(HttpTransport, "send"),
    "fetched": after(HttpTransport, "send"),
    "snapshot page": after(step.SourceStep, "absorb", _reads(Path.SNAPSHOT)),
    "sweep page": after(step.SourceStep, "absorb", _reads(Path.SWEEP)),
    "diffed": after(step, "detect"),
    "cursor kept": after(step.SourceStep, "_keep_cursor"),
    "begun": after(AIOKafkaProducer, "begin_transaction"),
    "sent": after(AIOKafkaProducer, "send_batch"),
    "acknowledged": after(producer.KafkaProducer, "_acknowledged"),
    "offset sent": after(AIOKafkaProducer, "send_offsets_to_transaction"),
    "committing": before(producer._TransactionRequests, "sent", _ends_transaction),
    "commit sent": _commit_sent,
    "commit answered": after(producer._TransactionRequests, "answered", _ends_transaction),
    "applying": _applying,
    "applied": after(Ledger, "settle"),
    "draining": after(Shard, "drain"),
    "closing": before(producer.KafkaProducer, "close"),
}
"""In the order of a life, and what puts each around the real thing."""


if __name__ == "__main__":
    name, _, number = os.environ.get(VARIABLE, "").rpartition(":")
    if name:
        STEPS[name](Death(int(number), signal.Signals[os.environ.get(SIGNAL, "SIGKILL")]))
    main()
