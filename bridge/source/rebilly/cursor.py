"""Cursor: where the reading of the customer list stands, as a value. Pure arithmetic on instants, no I/O.

    begin ──► SWEEP ──(no box left)──► POLL ──(its boxes)──► POLL …

A *sweep* reads everything along `createdTime`. A *poll* reads what changed since an instant along `updatedTime`; it has
boxes left only inside of one run. All instants are the server's, in microseconds since 1970:

position   every change up to `position` minus the overlap has been read. A run starts there. It moves to the greatest
           change time that a run has shown, never back, and never beyond the server's own `Date`, so that one row
           dated 9999 does not end all polling.
seen, at   the greatest change time ever shown, and our wall clock at that moment. From then on the server's clock is
           known to be at least `seen + (now - at)`, however wrong the two clocks and the `Date` header are.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from bridge.model import Path
from bridge.source.rebilly import boxes
from bridge.source.rebilly.boxes import CREATED, SECOND, UPDATED, Box, UnknownBox

QUIET_S = 30
"""So long after the overlap it has done its work: runs stop re-reading the last changes. Short, because those may be a
bulk job's thousands."""

EVERYTHING = (Box(CREATED),)
"""What a sweep begins with."""


class UnknownCursor(ValueError):
    """Not a cursor of this feed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A complete reading.

    path: SNAPSHOT for the first one. glance: only ids and tags are asked for. left: boxes, the next one first.
    resume: where polls go on; None for the first reading of all, which takes it from `began` and `seen`.
    began: the server's `Date` when it began, else the greatest change time of the first page.
    empty: the answer before was empty where rows had to be; believed when it comes twice.
    """

    path: Path
    glance: bool = False
    left: tuple[Box, ...] = EVERYTHING
    resume: int | None = None
    began: int | None = None
    seen: int | None = None
    at: float = 0.0
    empty: bool = False

    def polling(self) -> Poll:
        """What follows the end. The position is the earlier of `began` and the greatest change time shown: a `Date`
        ahead of the change times must not skip any. With neither, polling begins in 1970."""
        if self.resume is not None:
            return Poll(position=self.resume, seen=self.seen, at=self.at)
        position = 0 if self.began is None or self.seen is None else min(self.began, self.seen)
        return Poll(position=position, seen=self.seen, at=self.at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """Changes.

    left: boxes of the run that is under way; none between two runs. reached: the greatest change time it has shown.
    behind: the server's `Date` when it was before `position`: its clock was set back, and what changes now is dated
        accordingly.
    quiet: nothing has changed for `QUIET_S` and the overlap, and a run ended after that.
    unsure: the run has met a row that may be any customer's change, or a second that was not over; it proves nothing.
    empty: as in `Sweep`.
    """

    position: int = 0
    seen: int | None = None
    at: float = 0.0
    left: tuple[Box, ...] = ()
    reached: int = 0
    behind: int | None = None
    quiet: bool = False
    unsure: bool = False
    empty: bool = False

    def begun(self, overlap: int) -> Poll:
        """In a run: the one that is under way, or the next one. It begins at a whole second."""
        if self.left:
            return self
        return replace(self, left=(Box(UPDATED, self._start(overlap) // SECOND * SECOND),), reached=0, unsure=False)

    def ended(self, date: int | None, now: float, overlap: int) -> Poll:
        """Behind a run. date: the server's, of its last answer; now: our wall clock."""
        position = max(self.position, self.reached)
        behind = date if date is not None and date + SECOND < position else None
        quiet = position == self.position and behind is None and self._is_quiet(now, overlap)
        return replace(self, position=position, left=(), reached=0, behind=behind, quiet=quiet, empty=False)

    def sweep(self, *, glance: bool) -> Sweep:
        """A complete reading; polling goes on from where it stands now."""
        return Sweep(path=Path.SWEEP, glance=glance, resume=self.position, seen=self.seen, at=self.at)

    def server_clock(self, now: float) -> int:
        """A moment that the server's clock has certainly reached."""
        return 0 if self.seen is None else self.seen + max(0, int((now - self.at) * SECOND))

    def _start(self, overlap: int) -> int:
        if self.behind is not None:
            return max(0, min(self.position, self.behind) - overlap)
        return self.position if self.quiet else max(0, self.position - overlap)

    def _is_quiet(self, now: float, overlap: int) -> bool:
        """True when the last change was so long ago that no older one can still appear."""
        return self.seen is not None and self.server_clock(now) >= self.position + overlap + QUIET_S * SECOND


State = TypeVar("State", Sweep, Poll)


def noted(state: State, latest: int | None, now: float) -> State:
    """With the greatest change time of a page, and our wall clock when it came."""
    if latest is None or (state.seen is not None and latest <= state.seen):
        return state
    return replace(state, seen=latest, at=round(now, 3))


def dump(state: Sweep | Poll) -> dict[str, Any]:
    """The state as JSON; `Any` as in `Cursor`. Defaults are left out, but for the boxes."""
    members = {field.name: getattr(state, field.name) for field in fields(state)}
    kept = {name: value for name, value in members.items() if value not in (None, False, 0, ())}
    if state.left:
        kept["left"] = boxes.dump(state.left)
    return {"mode": "sweep" if isinstance(state, Sweep) else "poll", **kept}


def load(cursor: dict[str, Any]) -> Sweep | Poll:
    """The reverse; UnknownCursor when it was not written by `dump`."""
    members = dict(cursor)
    mode = members.pop("mode", None)
    try:
        members["left"] = boxes.load(members.get("left", ()))
        if mode == "sweep" and members["left"]:
            return Sweep(**{**members, "path": Path(members["path"])})
        if mode == "poll":
            return Poll(**members)
    except (TypeError, KeyError, ValueError, UnknownBox) as error:
        raise UnknownCursor("not a cursor of the customer list") from error
    raise UnknownCursor("not a cursor of the customer list")
