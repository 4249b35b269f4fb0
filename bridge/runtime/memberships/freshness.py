"""Freshness: how late a membership that moved is told at the latest, as a formula over `rounds`. Pure.

It holds while the provider answers as quickly as the budget lets us ask, and polls leave memberships their share.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from bridge.runtime.memberships.rounds import ROUTINE_SHARE, ROWS_PER_REQUEST, SWEEP_SHARE, TURNS, RoundsPlan, Work

ENDS_MAX: Final = 4
"""Requests of one tag beyond its full pages: with contacts and without, each may have a short page and an empty one."""


class Load(NamedTuple):
    """So many tags with so many members, all together."""

    tags: int
    members: int

    @property
    def requests(self) -> float:
        """At most, for reading all of them once."""
        return self.members / ROWS_PER_REQUEST + ENDS_MAX * self.tags


class Freshness(NamedTuple):
    """Seconds at the latest from a change at the provider to its event.

    counted: when it changes how many members the tag has. uncounted: when as many came as went.
    """

    counted: float
    uncounted: float


def seen_within(plan: RoundsPlan, load: Load, moved: Load) -> Freshness:
    """load: all tags. moved: those whose members change at about the same time.

    A change that comes while its tag is being read may be missed by that reading, so a reading is waited for first.
    """
    probe_s = max(plan.poll_interval_s, load.tags / _rate(plan, Work.PROBE))
    sweep_s = max(SWEEP_SHARE * plan.sweep_interval_s, load.requests / _rate(plan, Work.SWEEP))
    under_way_s = moved.requests / _rate(plan, Work.SWEEP)
    return Freshness(
        counted=under_way_s + probe_s + moved.requests / _rate(plan, Work.DIRTY), uncounted=sweep_s + under_way_s
    )


def _rate(plan: RoundsPlan, work: Work) -> float:
    """Requests per second that one kind of work is sure of."""
    return plan.requests_per_s * ROUTINE_SHARE * TURNS.count(work) / len(TURNS)
