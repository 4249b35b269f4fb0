"""Sweep: the complete reading beside the polls, as a value. Pure.

Polls show what the provider dates as changed; a sweep shows what it forgot to date. It has a position of its own, which
is kept inside the record of the feed's cursor, so that both move in the transaction of the page they come from, and a
crash in the middle of a sweep repeats one page of it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from bridge.source.feed import Cursor

FIELD = "@sweep"
"""Beside the feed's own fields in its stored cursor; feeds do not use names with an @."""


OWED_S = 300.0
"""Between the beginnings of two sweeps while one is owed: the last was in vain, and nothing is claimed meanwhile."""


class Sweep(NamedTuple):
    """The latest one. began_at: wall-clock seconds. cursor: its next page; None when it is over.

    owed: the feed has lost its position and reads everything anew. Who was told before and left since is shown by
    neither that reading nor the polls after it, only by a sweep; until one is over, nothing can be claimed.
    """

    began_at: float
    cursor: Cursor | None = None
    owed: bool = False

    def due(self, interval_s: float, now: float) -> bool:
        """True when a page of it is to be read, or the first of the next one."""
        if self.owed:
            interval_s = min(interval_s, OWED_S)
        return self.cursor is not None or now >= self.began_at + interval_s


AT_ONCE = Sweep(0.0)
"""What stands for the latest sweep when the next one is to begin now: it was so long ago."""


def parted(stored: Cursor | None) -> tuple[Cursor | None, Sweep | None]:
    """The feed's cursor and the sweep; none before the first complete reading is over, unless one has to follow it."""
    if stored is None or FIELD not in stored:
        return stored, None
    fields = stored[FIELD]
    sweep = Sweep(fields["at"], fields.get("cursor"), fields.get("owed", False))
    return {name: value for name, value in stored.items() if name != FIELD}, sweep


def joined(cursor: Cursor, sweep: Sweep | None) -> Cursor:
    """What is stored."""
    if sweep is None:
        return cursor
    fields: dict[str, Any] = {"at": sweep.began_at}
    if sweep.cursor is not None:
        fields["cursor"] = sweep.cursor
    if sweep.owed:
        fields["owed"] = True
    return {**cursor, FIELD: fields}


def owes(stored: Cursor) -> bool:
    """Whether a sweep has to be over before anything can be claimed."""
    return bool(stored.get(FIELD, {}).get("owed"))


def settled(stored: Cursor) -> Cursor:
    """The same when it has said who is absent; then nothing is owed."""
    if not owes(stored):
        return stored
    return {**stored, FIELD: {name: value for name, value in stored[FIELD].items() if name != "owed"}}
