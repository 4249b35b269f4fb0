"""Sweep: the complete reading beside the polls, as a value. Pure.

Polls show what the provider dates as changed; a sweep shows what it forgot to date. It has a position of its own, which
is kept inside the record of the feed's cursor, so that both move in the transaction of the page they come from, and a
crash in the middle of a sweep repeats one page of it.

A *glance* takes the place of a sweep for a while: it is a complete reading as well, but only of who is there and with
which tags, at a provider whose customers say so. Each is due in its own time, one of them is read at a time, and a
sweep shows all that a glance does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from bridge.source.feed import Cursor

FIELD = "@sweep"
"""Beside the feed's own fields in its stored cursor; feeds do not use names with an @."""


OWED_S = 300.0
"""Between the beginnings of two sweeps while one is owed: the last was in vain, and nothing is claimed meanwhile."""


class Sweep(NamedTuple):
    """The latest one. began_at: wall-clock seconds. cursor: the next page of what is being read; None when it is over.

    glanced_at: wall-clock seconds at which the latest glance began. glancing: whether the cursor is a glance's.

    owed: the feed has lost its position and reads everything anew. Who was told before and left since is shown by
    neither that reading nor the polls after it, only by a sweep; until one is over, nothing can be claimed.
    """

    began_at: float
    cursor: Cursor | None = None
    owed: bool = False
    glanced_at: float = 0.0
    glancing: bool = False

    def due(self, interval_s: float, now: float) -> bool:
        """True when a page of it is to be read, or the first of the next one."""
        if self.owed:
            interval_s = min(interval_s, OWED_S)
        return self.cursor is not None or now >= self.began_at + interval_s

    def swept(self, cursor: Cursor, now: float) -> Sweep:
        """A sweep begins."""
        return self._replace(began_at=now, cursor=cursor, glancing=False)

    def glanced(self, cursor: Cursor, now: float) -> Sweep:
        """A glance begins."""
        return self._replace(cursor=cursor, glanced_at=now, glancing=True)

    def after(self, cursor: Cursor | None) -> Sweep:
        """Behind a page; None: it was the last one."""
        return self._replace(cursor=cursor, glancing=self.glancing and cursor is not None)


AT_ONCE = Sweep(0.0)
"""What stands for the latest sweep when the next one is to begin now: it was so long ago."""


def parted(stored: Cursor | None) -> tuple[Cursor | None, Sweep | None]:
    """The feed's cursor and the sweep; none before the first complete reading is over, unless one has to follow it."""
    if stored is None or FIELD not in stored:
        return stored, None
    fields = stored[FIELD]
    sweep = Sweep(
        fields["at"],
        fields.get("cursor"),
        fields.get("owed", False),
        fields.get("glanced", 0.0),
        fields.get("glancing", False),
    )
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
    if sweep.glancing:
        fields["glancing"] = True
    if sweep.glanced_at:
        fields["glanced"] = sweep.glanced_at
    return {**cursor, FIELD: fields}


def owes(stored: Cursor) -> bool:
    """Whether a sweep has to be over before anything can be claimed."""
    return bool(stored.get(FIELD, {}).get("owed"))


def settled(stored: Cursor) -> Cursor:
    """The same when it has said who is absent; then nothing is owed."""
    if not owes(stored):
        return stored
    return {**stored, FIELD: {name: value for name, value in stored[FIELD].items() if name != "owed"}}
