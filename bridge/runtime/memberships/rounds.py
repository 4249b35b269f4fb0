"""Rounds: which tag is to be asked about next, and when. Pure; the loop beside it (`loop`) does the asking.

Three kinds of work share what memberships may spend, in turns, so that none starves:

DIRTY   members of a tag that is new, or whose count at the provider is not what it should be. Twice in four turns.
PROBE   the count of a tag, each at most once per poll interval. A count is a hint about what to read, never a proof.
SWEEP   members of every tag, whatever its count says: one after the other, longest ago first, begun at even distances,
        so that all are through within the sweep interval even if they became due at once.

A reading takes many requests; at most one of each kind is open, and goes on in its turns. A turn that finds no work of
its kind passes to the next. What is asked for because of a hint is no routine and is not counted here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, NamedTuple

from bridge.runtime.schedule import Backoff

ROUTINE_SHARE: Final = 0.5
"""Of the source's request budget: polls, hints and commands always find room."""

SWEEP_SHARE: Final = 0.9
"""Of the sweep interval is planned for a sweep of all tags; the rest is for what comes in between."""

ROWS_PER_REQUEST: Final = 100
"""Members on a full page."""

ENDS: Final = 2
"""Further requests of a reading: what shows that there are no more. (Two more where contacts have the tag as well.)"""

REST_S_MAX: Final = 300.0
"""A reading that waits for longer is begun anew, so that it does not keep back what else happens to its tag."""

WAIT_S_MAX: Final = 60.0
"""Between two looks at what is due."""

WAIT_S_MIN: Final = 0.001
"""Rounding of clocks must not turn the last moment of a wait into a busy loop."""


class Work(Enum):
    """See the module."""

    DIRTY = auto()
    PROBE = auto()
    SWEEP = auto()


TURNS: Final = (Work.DIRTY, Work.PROBE, Work.DIRTY, Work.SWEEP)


class Now(NamedTuple):
    """Both clocks: what is stored is told by the wall, what is paced goes by the other. Seconds."""

    wall: float
    monotonic: float


class Job(NamedTuple):
    """One request, or a few, about a tag."""

    work: Work
    tag: str


class Count(NamedTuple):
    """How many members a tag has. ours: in the state. theirs: as the provider says, None when it does not.

    exact: as many were shown as the provider says.
    """

    ours: int
    theirs: int | None
    exact: bool = False


@dataclass(frozen=True, slots=True)
class RoundsPlan:
    """Seconds between two counts and two readings of a tag at the least; requests per second of the whole source."""

    poll_interval_s: float
    sweep_interval_s: float
    requests_per_s: float


@dataclass(slots=True)
class _Round:
    """One tag. swept: wall-clock seconds at which its last complete reading began. offset: the provider's count less
    ours, when it was last read. odd: its count less what it lists. doubted: the last reading was not exact.
    unexplained: why it is read, if because of its count. not_before: monotonic."""

    swept: float | None
    members: int
    probed: float = float("-inf")
    offset: int = 0
    odd: int = 0
    doubted: bool = False
    unexplained: Count | None = None
    not_before: float = float("-inf")
    backoff: Backoff = field(default_factory=Backoff)

    @property
    def cost(self) -> int:
        return requests_of(self.members)


def requests_of(members: int) -> int:
    """Requests of one reading of a tag."""
    return -(-members // ROWS_PER_REQUEST) + ENDS


class Rounds:
    """The tags of one source, and whose turn it is."""

    def __init__(self, plan: RoundsPlan) -> None:
        self._plan = plan
        self._rounds: dict[str, _Round] = {}
        self._dirty: dict[str, None] = {}  # longest ago first; the rest of the tags is in the next
        self._clean: dict[str, None] = {}  # those whose count was asked for longest ago first
        self._unread = 0
        self._proved: float | None = None
        self._open: dict[Work, str] = {}
        self._counted = True
        self._turn = 0
        self._not_before = self._sweep_at = float("-inf")

    def __contains__(self, tag: str) -> bool:
        return tag in self._rounds

    @property
    def tags(self) -> Iterable[str]:
        """All of them."""
        return self._rounds.keys()

    def add(self, tag: str, swept: float | None, members: int) -> None:
        """A tag, and when it was read; never, if it is new."""
        self._rounds[tag] = _Round(swept, members)
        self._proved = None
        if swept is None:
            self._unread += 1
            self._dirty[tag] = None
        else:
            self._clean[tag] = None

    def drop(self, tag: str) -> None:
        """The tag is gone, and what is under way about it."""
        self._unread -= self._rounds.pop(tag).swept is None
        self._proved = None
        self._dirty.pop(tag, None)
        self._clean.pop(tag, None)
        self._close(tag)

    @property
    def complete(self) -> bool:
        """Whether every tag has been read."""
        return self._unread == 0

    def proved(self) -> float:
        """Wall-clock seconds up to which the members of every tag are known; infinite without tags."""
        if self._unread:
            return float("-inf")
        if self._proved is None:
            self._proved = min((round_.swept or 0.0 for round_ in self._rounds.values()), default=float("inf"))
        return self._proved

    def next(self, now: Now) -> Job | float:
        """What to do now, or for how long there is nothing to do."""
        if now.monotonic < self._not_before:
            return max(WAIT_S_MIN, self._not_before - now.monotonic)
        for ahead in range(len(TURNS)):
            work = TURNS[(self._turn + ahead) % len(TURNS)]
            tag = self._open.get(work) or self._wanted(work, now)
            if tag is not None:
                self._turn = (self._turn + ahead + 1) % len(TURNS)
                if work is not Work.PROBE:
                    self._open[work] = tag
                return Job(work, tag)
        return self._idle_s(now)

    def spent(self, now: Now, requests: int, allowed_per_s: float) -> None:
        """So many requests were sent; idle time is not saved up.

        allowed_per_s: what the provider takes at present, which may be far less than the budget. Paced by that, the
        rest of it is left to polls and sweeps; otherwise each of their requests would wait behind ours.
        """
        routine_per_s = ROUTINE_SHARE * min(self._plan.requests_per_s, allowed_per_s)
        self._not_before = max(self._not_before, now.monotonic) + requests / routine_per_s

    # What became of a job.

    def counted(self, tag: str, now: Now, count: Count) -> None:
        """A probe was answered."""
        round_ = self._rounds[tag]
        self._probed(tag, now)
        self._counted = count.theirs is not None
        round_.members = max(count.ours, count.theirs or 0)
        if count.theirs is None or count.theirs - count.ours == round_.offset:
            round_.unexplained = None
        elif count == round_.unexplained:
            # A reading has moved neither of them: it counts otherwise than it lists.
            round_.odd += count.theirs - count.ours - round_.offset
            round_.offset = count.theirs - count.ours
        else:
            round_.unexplained = count
            self._soil(tag)

    def read(self, tag: str, now: Now, began: float, count: Count) -> None:
        """A reading that began then (wall-clock seconds) is complete."""
        round_ = self._rounds[tag]
        self._unread -= round_.swept is None
        self._proved = None
        round_.swept = max(began, round_.swept or began)
        round_.not_before, round_.backoff = float("-inf"), Backoff()
        round_.members = max(count.ours, count.theirs or 0)
        self._close(tag)
        self._dirty.pop(tag, None)
        self._probed(tag, now)
        if count.theirs is None:
            return
        self._counted = True
        round_.offset = count.theirs - count.ours + round_.odd
        # Members moved while the list was read, or its count means something else: once more, but not for ever.
        round_.doubted = not count.exact and not round_.doubted
        if round_.doubted:
            self._soil(tag)
            round_.not_before = now.monotonic + self._plan.poll_interval_s

    def put_off(self, tag: str, now: Now, spread: float, least_s: float = 0.0) -> None:
        """A reading came to nothing: the tag is read again, later each time. spread: see `Backoff.delay_s`."""
        round_ = self._rounds[tag]
        round_.backoff = round_.backoff.failed()
        round_.not_before = now.monotonic + round_.backoff.delay_s(spread, least_s)
        self._close(tag)
        self._soil(tag)

    def rest(self, tag: str, now: Now) -> None:
        """A reading has to wait for something else, and gives way to others; at last it is its turn again anyhow."""
        self._close(tag)
        self._soil(tag)
        self._rounds[tag].not_before = now.monotonic + REST_S_MAX

    def go_on(self, tag: str) -> None:
        """What a reading has waited for is there: it is the next."""
        self._rounds[tag].not_before = float("-inf")
        self._clean.pop(tag, None)
        self._dirty = {tag: None, **self._dirty}

    # Whose turn it is.

    def _wanted(self, work: Work, now: Now) -> str | None:
        if work is Work.DIRTY:
            return next((tag for tag in self._dirty if self._free(tag, now)), None)
        if work is Work.PROBE:
            tag = self._next_probe(now)
            due = tag is not None and now.monotonic >= self._rounds[tag].probed + self._plan.poll_interval_s
            return tag if due else None
        return self._next_sweep(now)

    def _next_probe(self, now: Now) -> str | None:
        """The one whose count was asked for longest ago; who is being read need not be asked."""
        if not self._counted:
            return None
        for _ in range(2):
            tag = next(iter(self._clean), None)
            if tag is None or tag not in self._open.values():
                return tag
            self._probed(tag, now)
        return None

    def _next_sweep(self, now: Now) -> str | None:
        if now.monotonic < self._sweep_at:
            return None
        tag = min(self._clean, key=lambda tag: self._rounds[tag].swept or 0.0, default=None)
        if tag is None:
            return None
        everything = sum(round_.cost for round_ in self._rounds.values())
        planned_s = self._plan.sweep_interval_s * SWEEP_SHARE
        self._sweep_at = now.monotonic + planned_s * self._rounds[tag].cost / everything
        return tag

    def _free(self, tag: str, now: Now) -> bool:
        return tag not in self._open.values() and now.monotonic >= self._rounds[tag].not_before

    def _idle_s(self, now: Now) -> float:
        moments = [self._rounds[tag].not_before for tag in self._dirty]
        if self._clean:
            moments.append(self._sweep_at)
            if self._counted:
                moments.append(self._rounds[next(iter(self._clean))].probed + self._plan.poll_interval_s)
        ahead = [moment - now.monotonic for moment in moments if moment > now.monotonic]
        return max(WAIT_S_MIN, min([WAIT_S_MAX, *ahead]))

    def _probed(self, tag: str, now: Now) -> None:
        self._rounds[tag].probed = now.monotonic
        self._clean.pop(tag, None)
        self._clean[tag] = None

    def _soil(self, tag: str) -> None:
        """The tag is to be read; behind those that wait already."""
        self._clean.pop(tag, None)
        self._dirty.pop(tag, None)
        self._dirty[tag] = None

    def _close(self, tag: str) -> None:
        self._open = {work: other for work, other in self._open.items() if other != tag}
