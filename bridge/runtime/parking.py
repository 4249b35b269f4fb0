"""Parking: a feed that breaks again and again in ways nobody foresaw is asked rarely, so that its siblings have peace.

What a feed's answer does to us may end the whole life of its shard. The count of such surprises outlives the shard's
lives, so each of them is longer than the one before; after some in a row the feed is *parked*: told by
`bridge_feeds_parked` and tried again only now and then. A reading that comes to its end ends it.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field

from bridge.errors import EnvironmentUnavailable, PublishError
from bridge.runtime.schedule import Backoff

PARKED_AFTER = 8
"""Surprises in a row; with the usual back-off that is after two minutes."""

PARKED_RETRY_S = 900.0
"""Between two attempts of a parked feed: four lives of its shard an hour, at worst."""

FORESEEN = (PublishError, EnvironmentUnavailable, OSError, sqlite3.Error)
"""What Kafka, the disk and the machine do to a shard; no feed is to blame for it."""


@dataclass(slots=True)
class Surprises:
    """One way of reading a feed. said: what the last surprise was."""

    said: str | None = None
    _backoff: Backoff = field(default_factory=Backoff)

    @property
    def any(self) -> bool:
        """Whether the last attempt was one."""
        return self._backoff.attempts > 0

    @property
    def parked(self) -> bool:
        """Whether there were too many in a row."""
        return self._backoff.attempts >= PARKED_AFTER

    def happened(self, said: str) -> None:
        """One more."""
        self.said = said
        self._backoff = self._backoff.failed()

    def over(self) -> None:
        """An attempt went well."""
        self.said = None
        self._backoff = Backoff()

    def delay_s(self, spread: float) -> float:
        """Seconds until the next attempt; 0 without a surprise. spread: see `Backoff.delay_s`."""
        if not self.any:
            return 0.0
        return self._backoff.delay_s(spread, PARKED_RETRY_S if self.parked else None)


@dataclass(slots=True)
class Parking:
    """Of one feed; polls and sweeps apart, because either may go well while the other does not."""

    polls: Surprises = field(default_factory=Surprises)
    sweeps: Surprises = field(default_factory=Surprises)

    @property
    def parked(self) -> bool:
        """Whether a person should look."""
        return self.polls.parked or self.sweeps.parked
