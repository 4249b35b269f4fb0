"""Glances: when customers who say which tags they have are all to be asked again, and what it proves. No I/O.

Used by the reading of customers, whose task asks for the pages of a glance between two polls, so that no page of tags
ever overtakes a newer one. A sweep shows the tags as well, so it stands for a glance.

A glance proves that every edge is as the customers said at some moment since it began, if everybody who is there has
said so, and nothing that was said had to be thrown away. The bulletin is told; what may be claimed depends on the list
of tags too (see `memberships.told`).
"""

from __future__ import annotations

from dataclasses import dataclass

from bridge.runtime.memberships.bulletin import Bulletin
from bridge.runtime.memberships.rounds import ROUTINE_SHARE
from bridge.runtime.sweep import Sweep
from bridge.runtime.told import ToldTags
from bridge.source.feed import Cursor, Page
from bridge.source.memberships import Glances

AGAIN_S = 5.0
"""After a glance that had to throw something away; the list of tags, which it waits for, is polled about as often."""


@dataclass(frozen=True, slots=True)
class GlancePlan:
    """Who is asked, and seconds between the starts of two glances at the least."""

    glances: Glances
    interval_s: float


class Glancing:
    """Of one source during one opening of its shard."""

    def __init__(self, plan: GlancePlan, told: ToldTags, bulletin: Bulletin) -> None:
        self._plan = plan
        self._told = told
        self._bulletin = bulletin
        self._began: float | None = None
        self._sound = False
        self._pause_s = 0.0

    def due(self, sweep: Sweep, now: float) -> bool:
        """Whether the next one is to begin; now: wall-clock seconds. They spend no more than memberships may."""
        interval_s = min(AGAIN_S, self._plan.interval_s) if self._told.lost else self._plan.interval_s
        latest = max(sweep.glanced_at, 0.0 if self._told.lost else sweep.began_at)
        early = latest <= now < latest + max(interval_s, self._pause_s)  # a clock that was ahead left one in the future
        return self._bulletin.wants_glances and not early

    def cursor(self, cursor: Cursor) -> Cursor:
        """Where it begins."""
        return self._plan.glances.glance(cursor)

    def begins(self, now: float) -> None:
        """A sweep or a glance does, so this life sees it from its first page on."""
        self._told.lost = False
        self._began, self._sound = now, True

    def note(self, page: Page, *, glancing: bool, now: float) -> None:
        """A page of a glance (glancing) or of a sweep is in the ledger."""
        if self._began is None:
            return
        shown = page.familiar if glancing else [document.uid for document in page.documents]
        self._sound &= all(uid in page.tags for uid in shown) and all(reject.uid is not None for reject in page.rejects)
        if not page.complete:
            return
        if glancing:
            self._pause_s = (now - self._began) / ROUTINE_SHARE
        if self._sound and not self._told.lost:
            self._bulletin.glanced(self._began, now)
        self._began = None
