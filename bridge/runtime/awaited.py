"""Awaited: edges that commands are bringing about, so that whoever sees one first knows why it has moved.

A poll may see what a command has done before the command looks itself. Then the event says the same all the same: its
cause is the command. Mirrors stand on that, because they leave alone what another mirror has done.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from bridge.clock import Clock
from bridge.detect.edges import EdgeMove
from bridge.model import Cause, Path

AWAITED_S: Final = 3600.0
"""As long as a command may wait for what it has done; what nobody has seen by then may be anybody's."""

AWAITED_MAX: Final = 50_000
"""Edges; five of the largest commands. Of more the oldest are not waited for."""


class _Command(NamedTuple):
    """until: of the monotonic clock."""

    id: str
    until: float


class Awaited:
    """Of one source during one opening of its shard."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._edges: dict[EdgeMove, _Command] = {}  # longest ago first

    def expect(self, command: str, moves: Iterable[EdgeMove]) -> None:
        """A command begins to bring these about."""
        awaited = _Command(command, self._clock.monotonic() + AWAITED_S)
        for move in moves:
            self._edges.pop(move, None)
            self._edges[move] = awaited
        while self._edges and (len(self._edges) > AWAITED_MAX or self._oldest.until < self._clock.monotonic()):
            del self._edges[next(iter(self._edges))]

    def forget(self, moves: Iterable[EdgeMove]) -> None:
        """They are so: who brings them about again is somebody else."""
        for move in moves:
            self._edges.pop(move, None)

    def cause(self, move: EdgeMove, seen: Cause) -> Cause:
        """Why the edge has moved that was seen to have. seen: why it was looked at."""
        awaited = self._edges.pop(move, None)
        if awaited is None or awaited.until < self._clock.monotonic():
            return seen
        return Cause(Path.COMMAND, awaited.id)

    @property
    def _oldest(self) -> _Command:
        return next(iter(self._edges.values()))
