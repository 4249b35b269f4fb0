"""Sweep: the complete reading beside the polls, as a value. Pure.

Polls show what the provider dates as changed; a sweep shows what it forgot to date. It has a position of its own, which
is kept inside the record of the feed's cursor, so that both move in the transaction of the page they come from, and a
crash in the middle of a sweep repeats one page of it.
"""

from __future__ import annotations

from typing import NamedTuple

from bridge.source.feed import Cursor

FIELD = "@sweep"
"""Beside the feed's own fields in its stored cursor; feeds do not use names with an @."""


class Sweep(NamedTuple):
    """The latest one. began_at: wall-clock seconds. cursor: its next page; None when it is over."""

    began_at: float
    cursor: Cursor | None = None

    def due(self, interval_s: float, now: float) -> bool:
        """True when a page of it is to be read, or the first of the next one."""
        return self.cursor is not None or now >= self.began_at + interval_s


AT_ONCE = Sweep(0.0)
"""What stands for the latest sweep when the next one is to begin now: it was so long ago."""


def parted(stored: Cursor | None) -> tuple[Cursor | None, Sweep | None]:
    """The feed's cursor and the sweep. No sweep before the first complete reading: that is one itself."""
    if stored is None or FIELD not in stored:
        return stored, None
    fields = stored[FIELD]
    return {name: value for name, value in stored.items() if name != FIELD}, Sweep(fields["at"], fields.get("cursor"))


def joined(cursor: Cursor, sweep: Sweep | None) -> Cursor:
    """What is stored."""
    if sweep is None:
        return cursor
    fields = {"at": sweep.began_at} if sweep.cursor is None else {"at": sweep.began_at, "cursor": sweep.cursor}
    return {**cursor, FIELD: fields}
