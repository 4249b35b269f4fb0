"""Boxes: a list that shows no more than its first rows, read completely in pieces. Pure arithmetic on instants.

The list can be filtered and sorted by two times, `createdTime` and `updatedTime`, and says how many rows match; no more
than the first `offset + limit` of them can be reached. A *box* is a question: the rows between two instants of one of
the times (its axis), perhaps only those of one second of the other. Its answer is its first page. What the page leaves
over becomes one or two smaller boxes:

    rows ascend, and end later than the box begins ──► the box from the last row's instant on (asked for again, so
                                                       that nothing depends on how ties are ordered, or on offsets,
                                                       which shift while rows move)
    rows do not ascend ──────────────────────────────► two halves
    all rows in the first second ────────────────────► that second, cut along the other axis; and what is behind it
    all in the same second of both axes ─────────────► a *heap*, to be read by offset and in several orders

A box that is empty or shown whole is gone. Each step makes the boxes smaller, so they come to an end. A row that
changes while boxes are read moves to a later instant of `updatedTime`, which is read later, or not at all along
`createdTime`, which never changes; so every row that is there from beginning to end is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final, NamedTuple

from bridge.errors import Malformed
from bridge.model import iso

SECOND: Final = 1_000_000
"""Microseconds; the coarsest precision of times, so no box is cut smaller."""

CREATED: Final = "createdTime"
UPDATED: Final = "updatedTime"

_OTHER = {CREATED: UPDATED, UPDATED: CREATED}


class UnknownBox(ValueError):
    """Not a box that was written by this release or one before."""


@dataclass(frozen=True, slots=True)
class Box:
    """See the module. low, high: instants in microseconds, both inclusive; None: without end.

    burst: the second of the other axis that rows are from, by its beginning; None: any. heap: not to be cut any more.
    """

    axis: str
    low: int = 0
    high: int | None = None
    burst: int | None = None
    heap: bool = False

    @property
    def filter(self) -> str | None:
        """In the provider's words; None for everything."""
        terms = []
        if self.low or self.high is not None:
            terms.append(_range(self.axis, self.low, self.high))
        if self.burst is not None:
            terms.append(_range(_OTHER[self.axis], self.burst, self.burst + SECOND))
        return ";".join(terms) or None

    def holds(self, moment: int) -> bool:
        """Whether a row of this instant may be in the box; a row may be shown with its fraction cut off."""
        return moment > self.low - SECOND and (self.high is None or moment <= self.high)


class Shown(NamedTuple):
    """The first page of a box. times: instants of its rows along the box's axis, in their order, as far as they can be
    read. rows: how many different ones. total: rows that match. now: the server's time, or ours, in microseconds."""

    times: Sequence[int]
    rows: int
    total: int
    now: int


def left(box: Box, shown: Shown) -> tuple[Box, ...]:
    """What the page leaves over, in the order in which it is to be read.

    Raises `Malformed` when the answer cannot be one to this box.
    """
    assert not box.heap, "a heap is read as a whole"
    if any(not box.holds(moment) for moment in shown.times):
        raise Malformed(f"customers.list: the provider does not obey the filter by {box.axis}")
    if shown.total <= shown.rows:
        return ()
    if not shown.times:
        raise Malformed(f"customers.list: {shown.total} rows match and none of those shown has a {box.axis}")
    if not all(earlier <= later for earlier, later in pairwise(shown.times)):
        return _halves(box, max(shown.now, *shown.times))
    last = shown.times[-1]
    if last > box.low:
        return (replace(box, low=last),)
    return _second(box)


def _second(box: Box) -> tuple[Box, ...]:
    """Too many rows in the first second of the box."""
    end = box.low + SECOND
    first = Box(_OTHER[box.axis], burst=box.low) if box.burst is None else replace(box, high=end, heap=True)
    return (first,) if box.high is not None and box.high <= end else (first, replace(box, low=end))


def _halves(box: Box, now: int) -> tuple[Box, ...]:
    """At a whole second; where there is none in between, the first second by itself."""
    high = max(now, box.low + SECOND) if box.high is None else box.high
    middle = (box.low + high) // 2 // SECOND * SECOND
    if middle <= box.low:
        return _second(box)
    return replace(box, high=middle), replace(box, low=middle)


def _range(field: str, low: int, high: int | None) -> str:
    end = "" if high is None else iso(high)
    return f"{field}:{iso(low) if low else ''}..{end}"


def dump(boxes: Sequence[Box]) -> list[list[Any]]:
    """As JSON, for a cursor; `Any`: texts, numbers and truth values."""
    return [[box.axis, box.low, box.high, box.burst, box.heap] for box in boxes]


def load(stored: Any) -> tuple[Box, ...]:
    """The reverse; `UnknownBox` for anything else. `Any`: what a cursor holds."""
    try:
        boxes = tuple(Box(*fields) for fields in stored)
        sound = all(
            box.axis in _OTHER
            and type(box.low) is int
            and all(type(moment) in (int, type(None)) for moment in (box.high, box.burst))
            and type(box.heap) is bool
            for box in boxes
        )
    except TypeError as error:
        raise UnknownBox("not boxes") from error
    if not sound:
        raise UnknownBox("not boxes")
    return boxes
