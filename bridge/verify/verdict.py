"""Verdict: what a check found, as values. A finding names an invariant, what kind of break it is, and where.

Keys and uids are shown, documents never: a finding may be pasted into a ticket. Text from outside is made printable.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

FINDINGS_SHOWN_MAX = 20
"""Per kind; the others are counted. One broken partition must not print a million lines."""

TEXT_CHARS_MAX = 120
"""Of a key or an id in a finding."""


class Invariant(StrEnum):
    """The rows of a report; the first four as numbered in the contract."""

    EXACT = "1"
    SEQUENCE = "2"
    ATOMIC = "3"
    CACHE = "6"
    PROVIDER = "provider"

    @property
    def meaning(self) -> str:
        """For people."""
        return _TITLES[self]


_TITLES = {
    Invariant.EXACT: "complete and exact: the events add up to the state",
    Invariant.SEQUENCE: "no gap, no double, in order",
    Invariant.ATOMIC: "atomic: events, state and counters belong together",
    Invariant.CACHE: "the disk is a cache: a restore brings the same state",
    Invariant.PROVIDER: "the state is what the provider shows",
}


_LOST = frozenset({"missing", "provider_more", "provider_less", "provider_differs", "unsettled"})
_DOUBLED = frozenset({"doubled", "id"})
_DISORDERED = frozenset({"order", "prior", "partition", "after_deleted"})


class Finding(NamedTuple):
    """One break. kind: a word for scripts, the same for all breaks of its sort. text: a sentence for people."""

    invariant: Invariant
    kind: str
    text: str


@dataclass(slots=True)
class Verdict:
    """What was checked and found.

    checked: the invariants that were looked at. findings: at most 20 of each kind. counts: all of them, by invariant
    and kind. hidden: how many are in no finding. figures: how much was looked at. notes: what could not be judged, and
    why that is no break.
    """

    checked: list[Invariant]
    findings: list[Finding] = field(default_factory=list)
    counts: dict[tuple[Invariant, str], int] = field(default_factory=dict)
    hidden: int = 0
    figures: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True when nothing is broken."""
        return not self.counts

    @property
    def total(self) -> int:
        """All findings, those that are not shown included."""
        return sum(self.counts.values())

    @property
    def lost(self) -> int:
        """Events that are missing, and what a provider shows (or no longer shows) without an event that says so."""
        return self._of(_LOST)

    @property
    def doubled(self) -> int:
        """Events that are there twice."""
        return self._of(_DOUBLED)

    @property
    def disordered(self) -> int:
        """Events that a reader of their key does not meet where they belong."""
        return self._of(_DISORDERED)

    def _of(self, kinds: frozenset[str]) -> int:
        return sum(count for (_, kind), count in self.counts.items() if kind in kinds)

    def broken(self, invariant: Invariant) -> int:
        """How many findings break this invariant."""
        return sum(count for (broken, _), count in self.counts.items() if broken is invariant)

    def add(self, invariant: Invariant, kind: str, text: str, count: int = 1) -> None:
        """Note one break, or several of a kind that are told in one sentence."""
        before = self.counts.get((invariant, kind), 0)
        self.counts[invariant, kind] = before + count
        if before < FINDINGS_SHOWN_MAX:
            self.findings.append(Finding(invariant, kind, text))
        else:
            self.hidden += count


def joined(verdicts: Iterable[Verdict]) -> Verdict:
    """Several verdicts as one."""
    whole = Verdict([])
    for verdict in verdicts:
        whole.checked += [invariant for invariant in verdict.checked if invariant not in whole.checked]
        whole.findings += verdict.findings
        whole.hidden += verdict.hidden
        for key, count in verdict.counts.items():
            whole.counts[key] = whole.counts.get(key, 0) + count
        for name, figure in verdict.figures.items():
            whole.figures[name] = whole.figures.get(name, 0) + figure
        whole.notes += verdict.notes
    return whole


def printable(text: str) -> str:
    """Text from outside, harmless on a terminal: no control, bidirectional or invisible character, bounded."""
    cut = text if len(text) <= TEXT_CHARS_MAX else text[:TEXT_CHARS_MAX] + "…"
    if cut.isprintable():
        return cut
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in cut)
