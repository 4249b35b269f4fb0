"""Story: what happened in a simulation, line by line in virtual time; printed when its seed fails.

Log lines of the bridge go into it too, with the name of the process that wrote them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import blake2b
from typing import Any, NoReturn

import structlog

from bridge.clock import Clock

LINES_MAX = 4_000
"""Kept; the oldest go first."""

_SAID = ("event", "cause", "detail", "source", "collection", "shard", "shards", "next_try_s")

teller: ContextVar[str] = ContextVar("teller", default="world")
"""Who is at work: set once per process, inherited by its tasks."""


class Story:
    """See the module. digest: of all lines ever told, the same for the same seed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began = clock.monotonic()
        self._digest = blake2b(digest_size=8)
        self.lines: deque[str] = deque(maxlen=LINES_MAX)
        self.unforeseen: list[str] = []

    @property
    def digest(self) -> str:
        """Of everything so far."""
        return self._digest.hexdigest()

    def tell(self, text: str, who: str | None = None) -> None:
        """One line."""
        line = f"{self._clock.monotonic() - self._began:9.3f}  {who or teller.get():9}  {text}"
        self._digest.update(line.encode())
        self.lines.append(line)

    def of_broker(self, text: str) -> None:
        """One line about the broker, whoever made it act."""
        self.tell(text, "broker")

    @contextmanager
    def hearing_logs(self) -> Iterator[None]:
        """The bridge's log lines become part of the story instead of being printed."""
        processors = structlog.get_config()["processors"]
        former = processors.copy()
        processors[:] = [self._hear]
        try:
            yield
        finally:
            processors[:] = former

    def _hear(self, _logger: Any, level: str, event: dict[str, Any]) -> NoReturn:
        """A processor of structlog; `Any`: as it calls them."""
        said = " · ".join(str(event[name]) for name in _SAID if event.get(name) not in (None, ""))
        self.tell(f"{level}: {said}")
        error = event.get("exc_info")
        if error:
            self.unforeseen.append(f"{teller.get()}: {said}: {error!r}")
        raise structlog.DropEvent
