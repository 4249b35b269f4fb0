"""Agenda: what has been begun in the world and is done later, each at its own moment."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

Action = Callable[[float], object]
"""Gets the wall-clock second for which it was put down, at which it counts as done."""


class Agenda:
    """Ordered by moment, then by who came first."""

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, Action]] = []
        self._number = 0

    @property
    def due_at(self) -> float | None:
        """Wall-clock seconds of the next entry, None when there is none."""
        return self._entries[0][0] if self._entries else None

    def add(self, at: float, action: Action) -> None:
        """Put something down for wall-clock second `at`."""
        self._number += 1
        heappush(self._entries, (at, self._number, action))

    def run(self, until: float) -> int:
        """Do everything that is due by then, in order; returns how much that was."""
        done = 0
        while self._entries and self._entries[0][0] <= until:
            at, _, action = heappop(self._entries)
            action(at)
            done += 1
        return done
