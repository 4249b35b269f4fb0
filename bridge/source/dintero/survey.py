"""Survey: where to cut the first reading, found with few cheap questions: how many customers changed since then?

Pure. An answer is a `Mark`; marks are in order of time, so their counts never grow. Wanted are the instants at which
equal shares of the customers begin, and one near the end of all changes. Nothing depends on hitting them: slices that
turn out unequal are cut again while they are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bridge.source.dintero.cursor import SECOND, STEP_BACK, TIE_STEP
from bridge.source.dintero.slices import Slice

ROUNDS_MAX = 5
"""Of questions side by side; each narrows the search at least by half."""

SHARE_ERROR = 4
"""A share may be wrong by this part of itself."""


class Mark(NamedTuple):
    """So many customers changed at this instant or later."""

    at: int
    rows: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """Counts for which instants are wanted, falling; with how exactly. The last one is the beginning of the end."""

    counts: tuple[int, ...]
    error: int
    error_last: int

    def missing(self, marks: Sequence[Mark]) -> list[int]:
        """Those for which there is no mark yet."""
        return [count for count in self.counts if not any(self._meets(mark, count) for mark in marks)]

    def _meets(self, mark: Mark, count: int) -> bool:
        error = self.error_last if count == self.counts[-1] else self.error
        return mark.rows > 0 and abs(mark.rows - count) <= error


def wanted(total: int, lanes: int, limit: int) -> Wanted:
    """Of so many customers equal shares for all lanes, and a last page that is surely not full."""
    shares = [total * part // lanes for part in range(lanes - 1, 0, -1)]
    last = max(1, limit // 2)
    return Wanted((*shares, last), total // (lanes * SHARE_ERROR), last - 1)


def questions(marks: Sequence[Mark], want: Wanted, lanes: int) -> list[int]:
    """Instants to ask about next, no more than there are lanes; none when nothing better can be found."""
    brackets: dict[int, list[int]] = {}
    for count in want.missing(marks):
        number = max(number for number, mark in enumerate(marks) if mark.rows > count)
        if number + 1 < len(marks) and marks[number + 1].at - marks[number].at > 2 * TIE_STEP:
            brackets.setdefault(number, []).append(count)
    if not brackets:
        return []
    found: set[int] = set()
    each = lanes // sum(map(len, brackets.values()))
    for number, counts in brackets.items():
        low, high = marks[number], marks[number + 1]
        span, spare = high.at - low.at, (each - 1) * len(counts)
        # Where it ought to be if changes are spread evenly; and, with what is left, wherever else it may be.
        guesses = [low.at + span * (low.rows - count) // (low.rows - high.rows) for count in counts]
        guesses += [low.at + span * part // (spare + 1) for part in range(1, spare + 1)]
        found.update(min(max(guess, low.at + TIE_STEP), high.at - TIE_STEP) // SECOND * SECOND for guess in guesses)
    return sorted(found)


def in_order(marks: Iterable[Mark]) -> list[Mark]:
    """By time; counts that grew because customers changed between two answers are made to fit."""
    ordered: list[Mark] = []
    for mark in sorted(marks, key=lambda mark: (mark.at, -mark.rows)):
        count = min(mark.rows, ordered[-1].rows) if ordered else mark.rows
        ordered.append(Mark(mark.at, count))
    return ordered


def cut(marks: Sequence[Mark], want: Wanted) -> tuple[Slice, ...]:
    """The slices; only one when no instant to cut at was found."""
    inner = [mark for mark in marks[1:] if mark.rows > 0]
    nearest = {min(inner, key=lambda mark: abs(mark.rows - count)) for count in want.counts} if inner else set()
    cuts: list[Mark] = []
    for mark in sorted(nearest):
        if mark.at >= (cuts[-1].at if cuts else marks[0].at) + 2 * TIE_STEP:
            cuts.append(mark)
    begins = [Mark(0, marks[0].rows), *cuts]
    ends = [*cuts, Mark(0, 0)]
    return tuple(
        Slice(max(0, begin.at - STEP_BACK), end.at or None, begin.rows - end.rows, begin.at)
        for begin, end in zip(begins, ends, strict=True)
    )
