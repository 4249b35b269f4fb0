"""Roll: one reading of the members of one tag, from its first page to its end. No I/O; `reading` does the asking.

    pages ──► missing? ──► few: each of them is asked ──────────────────────┐
      ▲          │                                                          ├──► open? ──► complete
      └── again ─┴──► many: missing in two exact readings, sample asked ────┘      └──► wait for the customers' reading

Who is shown is a member. Who is not shown is a suspect: a list may leave rows out while it moves, and a provider may
show an empty page by mistake. A customer that is shown and not known, or that cannot be asked about now, stays *open*
until the customers' own reading is beyond that moment.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from bridge.runtime.memberships.rounds import Count, requests_of
from bridge.source.memberships import MemberPage, Place

PASSES_MAX = 3
"""Readings of the list for one answer; then each customer that is missing is asked, however many."""

FEW = 20
"""So many missing customers are asked one by one, however short the list is."""

PAGE_TRIES_MAX = 3
"""Of a page that is not what it should be."""

OPEN_MAX = 10_000
"""Customers of one tag that are waited for; with more of them the reading is void."""

ASK_TRIES_MAX = 5
"""Failures in asking one customer; then it counts as one that the provider does not speak of now."""

WAITS_MAX = 5
"""Attempts to ask customers that the provider does not speak of now; then the reading is void."""


@dataclass(slots=True)
class Roll:
    """began: wall-clock seconds of its first request. since: of its last one.

    Of a pass: place, ended; seen: hashes of the uids that were shown (64 bits each, because a million texts would be
    several times as large); whole: every row could be identified; total: the provider's count. tries: of this page.

    missing: known members that no pass has shown, None while the list is being read for the first time. proven: the
    last two passes were exact. accused: of the missing, those who are asked themselves. ask: customers whose own tags
    decide, now. strangers: shown, and not known. unsure: could not be asked. failed: how often asking a customer has
    failed. until: what the customers' reading has to be beyond, wall-clock seconds.
    """

    tag: str
    began: float | None = None
    since: float = 0.0
    place: Place | None = None
    ended: bool = False
    seen: set[int] = field(default_factory=set)
    whole: bool = True
    total: int | None = None
    tries: int = 0
    passes: int = 0
    judged: bool = False
    exact: bool = False
    proven: bool = False
    missing: dict[str, None] | None = None
    accused: set[str] = field(default_factory=set)
    ask: dict[str, None] = field(default_factory=dict)
    strangers: dict[str, None] = field(default_factory=dict)
    unsure: dict[str, None] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    until: float = 0.0
    waits: int = 0

    @property
    def open(self) -> int:
        """How many customers are waited for."""
        return len(self.strangers) + len(self.unsure)

    def take(self, page: MemberPage) -> None:
        """A page has come. One with a row that cannot be identified is asked for again, a few times."""
        self.began = page.asked_at if self.began is None else self.began
        self.since = page.asked_at
        for uid in page.shown:
            self.note(uid)
        self.tries = 0 if page.whole else self.tries + 1
        if 0 < self.tries < PAGE_TRIES_MAX:
            return
        self.tries = 0
        self.whole = self.whole and page.whole
        self.place, self.ended, self.total = page.following, page.following is None, page.total

    def note(self, uid: str) -> None:
        """The customer has the tag, at some moment of this reading."""
        self.seen.add(hash(uid))
        if self.missing:
            self.missing.pop(uid, None)

    def judge(self, members: Iterable[str]) -> None:
        """The list is through. members: all that are known."""
        missing = [uid for uid in members if hash(uid) not in self.seen]
        if self.missing is not None:
            missing = [uid for uid in missing if uid in self.missing]
        self.missing = dict.fromkeys(missing)
        exact = self.whole and self.total == len(self.seen)
        self.proven, self.exact = exact and self.exact, exact
        self.passes += 1
        self.judged = True
        self.seen = set()

    def again(self) -> None:
        """Another pass, from the first page."""
        self.place, self.ended, self.whole, self.total, self.judged = None, False, True, None, False

    def few(self, members: int) -> bool:
        """Whether asking each of the missing costs less than reading the list again. Two requests tell one's tags."""
        missing = len(self.missing or ())
        return missing <= FEW or 2 * missing <= requests_of(members)

    def count(self, ours: int) -> Count:
        """How the list and what is known compare in the end."""
        return Count(ours, self.total, self.exact)
