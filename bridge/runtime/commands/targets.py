"""Targets: the customers of a tagging, in their order: named by their uids, or by a value that they have.

Those who are named by a value are known only once they are looked up, some values at a time: it is `unknown` who they
are, then some are `left` to be done to, and so on. Pure; what has to survive a crash is `stored`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bridge.commands.command import Tagging
from bridge.runtime.joins import Found

NAMELESS = ""
"""A value that the command gave no name is counted, and not listed."""


class Targets:
    """Of one command."""

    def __init__(self, command: Tagging, stored: Mapping[str, Any]) -> None:
        """stored: what `stored` told before, among other things."""
        self._where = command.where
        self._named: Sequence[str] = list(dict.fromkeys(command.customers or ()))
        if command.where is not None:
            self._named = command.where.values
        self._next: int = stored.get("next", 0)  # of what is named
        self._found: list[str] = stored.get("found", [])  # who have the values before it, and are not done to
        self._matched: int = stored.get("matched", 0)

    @property
    def stored(self) -> dict[str, Any]:
        """As JSON."""
        if self._where is None:
            return {"next": self._next}
        return {"next": self._next, "found": self._found, "matched": self._matched}

    @property
    def total(self) -> int:
        """How many customers are meant, as far as that is known."""
        return len(self._named) if self._where is None else self._matched

    @property
    def unknown(self) -> bool:
        """Whether the next ones have to be looked up."""
        return self._where is not None and not self._found and self._next < len(self._named)

    @property
    def left(self) -> bool:
        """Whether somebody has to be done to, or to be looked up."""
        return bool(self._found) or self._next < len(self._named)

    def slice(self, size: int) -> list[str]:
        """Uids of the next ones."""
        return list(self._named[self._next : self._next + size] if self._where is None else self._found[:size])

    def done(self, count: int) -> None:
        """With so many of the next ones."""
        if self._where is None:
            self._next += count
        else:
            self._found = self._found[count:]

    def next_values(self, size: int) -> tuple[str, Sequence[str]]:
        """The field, and the values of it that are to be looked up."""
        assert self._where is not None, "asked only while it is unknown who they are"
        return self._where.field, self._named[self._next : self._next + size]

    def matched(self, found: Found) -> tuple[list[str], list[str]]:
        """Who has the next values; the names of values that nobody has, and of those that too many have."""
        places = range(self._next, self._next + found.values)
        self._next += found.values
        self._found = list(dict.fromkeys(uid for uids in found.uids.values() for uid in uids))
        self._matched += len(self._found)
        crowded = [at for at in places if self._named[at] in found.crowded]
        nobody = [at for at in places if self._named[at] not in found.uids and self._named[at] not in found.crowded]
        return self._names(nobody), self._names(crowded)

    def abandon(self) -> list[str]:
        """Nobody else is done to: their uids, or the names of their values."""
        left = [*self._named[self._next :]] if self._where is None else self._names(range(self._next, len(self._named)))
        uids, self._found, self._next = self._found, [], len(self._named)
        return [*uids, *left]

    def _names(self, places: Sequence[int]) -> list[str]:
        assert self._where is not None, "only values have names"
        names = self._where.names
        return [NAMELESS if names is None else names[at] for at in places]
