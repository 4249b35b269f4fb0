"""Slices: the first reading of everything, cut by change time, as a value. Pure arithmetic on instants, no I/O.

A list that shows what changed since an instant, oldest first, can be read in several places at once. The slices lie
side by side from 1970 on, each ends where the next begins, the last one is open:

    [0 ........ b1) [b1 ........ b2) [b2 ........ b3) [b3 ........

A slice is read as polls are: by change time, a step back before each next page. It ends with a row from its end or
later, never with a short page. The open one ends with a page that shows as many rows as the provider says there are.

Why nothing is lost. The *position*, where polling begins afterwards, is known before any other slice is read: it is
the greatest change time that the open slice showed first, and not later than the server's `Date` when all began. What
had changed before the position minus the overlap was visible by then, and either stays in its place or changes. If it
stays, the slice of its place shows it: an ascending list holds its place whatever happens to other rows. If it
changes, it is dated later than the position and polls show it, as they show what is new.

Why it is believed. None of this is taken on trust: `Unsliceable` is raised when a row is out of order, when one
instant fills a page, when rows are older than was asked for, when a page falls short of its slice's end. What no page
can tell is counted: each customer that was dated before the position (minus the overlap) is counted once, when its
instant is complete, and there must be as many as the provider has that are still dated so. Rows without a change time
are in the number of all customers and not in the number of those since 1970. Customers that were counted and changed
later are not expected any more, so in an account that changes meanwhile missing ones could hide behind as many of
them; the next sweep finds those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, replace
from typing import Any, Final, NamedTuple

from bridge.model import Path
from bridge.source.dintero.cursor import SECOND, STEP_BACK, TIE_STEP, Poll, Sweep, UnknownCursor
from bridge.source.dintero.rows import Rows, matching, paged_on

MODE: Final = "slices"
"""Of a cursor that holds slices."""


class Unsliceable(Exception):
    """The list is not ordered, bounded or counted as slices need it: walk instead."""


class Shown(NamedTuple):
    """One page of a slice. total: the provider's count of everything since, if it was asked for and given.

    date, asked_at, received_at: see `Answer`.
    """

    rows: list[Any]
    mapped: Rows
    limit: int
    total: int | None
    date: int | None
    asked_at: float
    received_at: float

    def distinct(self, begin: int, end: int) -> int:
        """Customers that are dated in between."""
        return sum(begin <= moment < end for moment in self.mapped.moments.values())


@dataclass(frozen=True, slots=True)
class Slice:
    """One of them. since: where its next page begins. end: None for the open one. left: rows, as far as one can guess.

    counted: all instants before it are read. rows: number of those on the page before. empty: that page was empty.
    """

    since: int
    end: int | None
    left: int
    counted: int
    rows: int = 0
    empty: bool = False

    @property
    def until(self) -> int:
        """Its end; of the open one later than every instant."""
        return _NEVER if self.end is None else self.end

    def after(self, shown: Shown) -> Slice | None:
        """What is left of it after a page; None when nothing is. Raises `Unsliceable`."""
        if not shown.rows and not self.empty:
            return replace(self, empty=True)  # providers have shown nothing by mistake; one more request is cheap
        if any(moment < self.since - TIE_STEP for moment in shown.mapped.times):
            raise Unsliceable("rows that changed before the instant they were asked for")
        if self.end is None and shown.total is None:
            raise Unsliceable("no total-count")
        if shown.total is not None and matching(self.since, shown.rows, shown.mapped, shown.limit) >= shown.total:
            return None
        last = paged_on(self.since, shown.rows, shown.mapped)
        if last is None:
            raise Unsliceable("rows out of order, of one instant only, or fewer than there are")
        if self.end is not None and last >= self.end:
            return None
        left = max(self.left - shown.distinct(self.counted, last), shown.limit)
        return Slice(last - STEP_BACK, self.end, left, last, min(len(shown.rows), shown.limit))

    def split(self, latest: int | None) -> tuple[Slice, Slice] | None:
        """Two halves by time, None when it is too short. The open one only up to an instant that has passed."""
        end = latest if self.end is None else self.end
        if end is None:
            return None
        middle = (self.counted + end) // 2
        middle -= middle % SECOND
        if not self.counted + TIE_STEP <= middle <= end - TIE_STEP:
            return None
        upper = Slice(middle - STEP_BACK, self.end, self.left // 2, middle)
        return replace(self, end=middle, left=self.left - upper.left), upper


@dataclass(frozen=True, slots=True, kw_only=True)
class Slices:
    """Where the first reading stands. slices: not yet read, in order; the counting is left when there are none.

    began: the server's `Date` when it began, if given. position: see the module; None until the open slice, which is
    read first, has shown it. counted_to: customers dated before it are counted. read: how many were. seen, at, width:
    as in `Sweep` and `Poll`.
    """

    slices: tuple[Slice, ...] = ()
    began: int | None = None
    position: int | None = None
    counted_to: int = 0
    read: int = 0
    seen: int | None = None
    at: float = 0.0
    width: int = 0

    def next(self, lanes: int) -> range:
        """Which of the slices are asked side by side."""
        if self.position is None:
            return range(len(self.slices) - 1, len(self.slices))
        return range(min(lanes, len(self.slices)))

    def after(self, pages: Sequence[Shown | None], lanes: int, overlap: int) -> Slices:
        """After a page of each slice, None where there is no answer. Raises `Unsliceable`."""
        state = self._noted(pages)
        if state.position is None:
            state = state._placed(pages[-1], overlap)
        read, width, spare = state.read, state.width, 0
        left: list[Slice] = []
        for piece, shown in zip(self.slices, pages, strict=True):
            following = piece if shown is None else piece.after(shown)
            if shown is not None:
                end = piece.end if following is None else following.counted
                to = state.counted_to if end is None else min(end, state.counted_to)
                read += shown.distinct(piece.counted, to)
                if following is None or following.counted > piece.counted:
                    width = max(width, piece.rows)  # a page with another behind it was a full one
            if following is not None:
                left.append(replace(following, left=following.left + spare))
                spare = 0
            elif shown is not None:
                # It was guessed too large, so its neighbour was guessed too small.
                spare += max(0, piece.left - shown.distinct(piece.counted, piece.until))
        if spare and left:
            left[-1] = replace(left[-1], left=left[-1].left + spare)
        return replace(state, slices=tuple(left), read=read, width=width)._filled(lanes, _limit(pages))

    def proves(self, everybody: int, dated: int, moved: int) -> bool:
        """Whether everything was read. everybody: customers. dated: since 1970. moved: since `counted_to`."""
        return dated >= everybody and self.read >= dated - moved

    def polling(self) -> Poll:
        """What follows when it was."""
        return Poll(position=self.position or 0, seen=self.seen, at=self.at, width=self.width)

    def walking(self) -> Sweep:
        """What follows when it cannot be known: everything again, by the other way.

        Polls begin where this reading began all the same: who was told by it and has left since is shown by them alone.
        """
        began = self.position if self.began is None else self.began
        return Sweep(path=Path.SNAPSHOT, began=began, seen=self.seen, at=self.at, width=self.width)

    def _noted(self, pages: Sequence[Shown | None]) -> Slices:
        state = self
        for shown in pages:
            latest = None if shown is None else shown.mapped.latest
            if shown is not None and latest is not None and (state.seen is None or latest > state.seen):
                state = replace(state, seen=latest, at=round(shown.received_at, 3))
        return state

    def _placed(self, shown: Shown | None, overlap: int) -> Slices:
        if shown is None or not shown.rows:
            return self
        if not shown.mapped.times:
            raise Unsliceable("no change time to go by")
        latest = max(shown.mapped.times)
        position = latest if self.began is None else min(latest, self.began)
        return replace(self, position=position, counted_to=max(0, position - overlap))

    def _filled(self, lanes: int, limit: int) -> Slices:
        """Cut the largest until there is one for each lane."""
        pieces = list(self.slices)
        while len(pieces) < lanes:
            for number in sorted(range(len(pieces)), key=lambda number: -pieces[number].left):
                halves = pieces[number].split(self.seen)
                if halves is not None and pieces[number].left >= limit:
                    pieces[number : number + 1] = halves
                    break
            else:
                break
        return replace(self, slices=tuple(pieces))


def dump(state: Slices) -> dict[str, Any]:
    """The state as JSON; `Any` as in `Cursor`. Defaults are left out."""
    fields = {name: value for name, value in asdict(state).items() if value not in (None, 0)}
    return {"mode": MODE, **fields, "slices": [list(astuple(piece)) for piece in state.slices]}


def load(cursor: dict[str, Any]) -> Slices:
    """The reverse; UnknownCursor when it was not written by `dump`."""
    fields = {name: value for name, value in cursor.items() if name != "mode"}
    try:
        return Slices(**{**fields, "slices": tuple(Slice(*piece) for piece in fields["slices"])})
    except (TypeError, KeyError) as error:
        raise UnknownCursor("not a cursor of the customer list in slices") from error


_NEVER = 1 << 62


def _limit(pages: Sequence[Shown | None]) -> int:
    return max((shown.limit for shown in pages if shown is not None), default=0)
