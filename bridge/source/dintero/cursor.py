"""Cursor: where the reading of the customer list stands, as a value. Pure arithmetic on instants, no I/O.

Two states. A *sweep* walks the whole list by `starting_after`. A *poll* asks for what changed since an instant.

    begin ──► SWEEP ──(end of list)──► POLL ──(polling cannot get on)──► SWEEP ──► POLL

All instants are the server's, in microseconds since 1970. Three of them carry the proof that nothing is lost:

position   every change up to `position` minus the overlap has been read. A poll starts there. It moves to the greatest
           change time that ascending pages have shown, never back, and never beyond the server's own `Date`, so that
           one row dated 9999 does not end all polling.
seen, at   the greatest change time ever shown, and our wall clock at that moment. From then on the server's clock is
           known to be at least `seen + (now - at)`, however wrong the two clocks and the `Date` header are.
resume     what `position` becomes after a sweep that had to step in for polling: all that had changed by the
           (proved) beginning of the sweep was read by the sweep, whatever polls could not see.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from bridge.model import Path

SECOND: Final = 1_000_000
"""Microseconds."""

TIE_STEP: Final = SECOND
"""Rows of one instant that fill a page are passed by this much; the coarsest precision of change times."""

STEP_BACK: Final = 1_000
"""The next page is asked for a millisecond before the last row: a server may read "since" as exclusive, and the page
may have ended amid the rows of one instant."""

QUIET_S = 300
"""After so long without a change the overlap has done its work: polls stop re-reading the last changes."""

RESTARTS_MAX = 3
"""Beginnings of one sweep after its cursor was refused."""


class UnknownCursor(ValueError):
    """Not a cursor of this feed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """The next page of a complete reading.

    after: id after which the page begins.
    resume: see above; None for the first reading of all, which takes its position from `began` and `seen`.
    began: the server's `Date` when the sweep began, else the greatest change time of the first page.
    pages, mark: for finding cycles; the mark is an `after` of the past.
    digest, count: ids and number of rows of the page before.
    empty: the page before was empty; an empty page is believed when it comes twice.
    bare: without tombstones. One may have the `customer_id` that somebody else has by now; behind its name the provider
        shows what is behind somebody else. Only a sweep beside polls can do without: those tell who is deleted.
    """

    path: Path
    after: str | None = None
    resume: int | None = None
    began: int | None = None
    seen: int | None = None
    at: float = 0.0
    pages: int = 0
    mark: str | None = None
    digest: str | None = None
    count: int = 0
    empty: bool = False
    width: int = 0
    restarts: int = 0
    bare: bool = False

    def restarted(self) -> Sweep:
        """From the first page again; what the sweep has proved so far stays true."""
        return Sweep(
            path=self.path,
            resume=self.resume,
            began=self.began,
            seen=self.seen,
            at=self.at,
            width=self.width,
            restarts=self.restarts + 1,
            bare=self.bare,
        )

    def polling(self) -> Poll:
        """What follows the end of the list.

        Without `resume` the position is the earlier of `began` and the greatest change time shown: a `Date` ahead of
        the change times must not skip any. With neither, polling begins in 1970.
        """
        if self.resume is not None:
            return Poll(position=self.resume, seen=self.seen, at=self.at, width=self.width)
        position = 0 if self.began is None or self.seen is None else min(self.began, self.seen)
        return Poll(position=position, seen=self.seen, at=self.at, width=self.width)


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """The next page of changes.

    since: inside a run, where the next page begins.
    behind: the server's `Date` when it was before `position`: its clock was set back, and what changes now is dated
        accordingly.
    width: rows of a full page as the sweep has seen them (a server may give fewer than it is asked for), 0 when it
        never saw one.
    quiet: nothing has changed for `QUIET_S`, and a run ended after that.
    empty: the page before was empty where rows had to be; believed when it comes twice.
    """

    position: int = 0
    seen: int | None = None
    at: float = 0.0
    since: int | None = None
    behind: int | None = None
    width: int = 0
    quiet: bool = False
    empty: bool = False

    def start(self, overlap: int) -> int:
        """Where a run, or its next page, begins."""
        if self.since is not None:
            return self.since
        if self.behind is not None:
            return max(0, min(self.position, self.behind) - overlap)
        return self.position if self.quiet else max(0, self.position - overlap)

    def server_clock(self, now: float) -> int:
        """A moment that the server's clock has certainly reached."""
        return 0 if self.seen is None else self.seen + max(0, int((now - self.at) * SECOND))

    def is_quiet(self, now: float) -> bool:
        """True when the last change was so long ago that no older one can still appear."""
        return self.seen is not None and self.server_clock(now) >= self.position + QUIET_S * SECOND

    def can_pass(self, since: int, overlap: int, now: float) -> bool:
        """True when a sweep that begins now is certain to read every row that can still get the instant `since`.

        Where that is close to the last known change, a little more patience lets the same sweep pass that one too.
        """
        target = since if self.seen is None or self.seen > since + overlap else max(since, self.seen)
        return self.server_clock(now) - overlap >= target + TIE_STEP

    def sweep_past(self, since: int, overlap: int, now: float, date: int | None) -> Sweep:
        """A sweep instead of polling on from `since`; `Date`, if given, keeps a jump of our own clock from counting."""
        resume = self.server_clock(now)
        if date is not None:
            resume = min(resume, max(date, since + TIE_STEP + overlap))
        return Sweep(path=Path.SWEEP, resume=resume, seen=self.seen, at=self.at, width=self.width)

    def sweep(self, *, bare: bool) -> Sweep:
        """A complete reading; polling goes on from where it stands now."""
        return Sweep(path=Path.SWEEP, resume=self.position, seen=self.seen, at=self.at, width=self.width, bare=bare)


def dump(state: Sweep | Poll) -> dict[str, Any]:
    """The state as JSON; `Any` as in `Cursor`. Defaults are left out."""
    mode = "sweep" if isinstance(state, Sweep) else "poll"
    fields = {name: value for name, value in asdict(state).items() if value not in (None, False, 0)}
    return {"mode": mode, **fields}


def load(cursor: dict[str, Any]) -> Sweep | Poll:
    """The reverse; UnknownCursor when it was not written by `dump`."""
    fields = dict(cursor)
    mode = fields.pop("mode", None)
    try:
        if mode == "sweep":
            return Sweep(**{**fields, "path": Path(fields["path"])})
        if mode == "poll":
            return Poll(**fields)
    except (TypeError, KeyError, ValueError) as error:
        raise UnknownCursor("not a cursor of the customer list") from error
    raise UnknownCursor("not a cursor of the customer list")
