"""Removal: from signs that documents of one feed are gone to their deletion, or to the finding that they are there.

Called by the feed's `Reading`: with each page before it is absorbed (`look`, `note`), and between pages (`settle`).
A deletion leaves only when three things have come together: the reading that gave the sign has come to its end without
an error; there are not too many of them, or a person has said so (`Suspects`); and a second read, made after both,
shows the document as gone (`Feed.fetch`).

Absence counts as a sign only at the end of a reading that shows everything: a whole list, or a sweep that was read from
its first page to its last by this very life. When a great many are absent, a few of them are looked up at once, and if
any of those is there, the reading was no complete one, whatever it looked like: nothing is concluded from it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

from bridge.clock import Clock
from bridge.detect.scan import DeleteLimit, Uids
from bridge.model import Collection, Document, Fate, Gone, Path
from bridge.observability.logs import get_logger
from bridge.observability.metrics import Metrics
from bridge.runtime.ledger import Ledger
from bridge.runtime.memberships.strip import strip
from bridge.runtime.step import SourceStep
from bridge.runtime.suspects import Suspect, Suspects
from bridge.source.feed import Feed, Page

AT_ONCE = 100
"""Documents that are confirmed and deleted in one step; a tenth of a second of most budgets."""

KEYS_AT_ONCE = 2_000
"""Keys that are looked at before others of the event loop get their turn; some milliseconds."""

SAMPLE = 5
"""Of a great many that are absent, how many are looked up before the absence is believed at all."""

SHOWN_MAX = 100
"""Uids of held deletions on the status page; `bridge state list --held` has all."""

Found = Mapping[str, Fate]

Ask = Callable[[Awaitable[Found]], Awaitable[Found]]

log = get_logger(__name__)


class Removal:
    """See the module. Belongs to one opening of a shard and to one task."""

    def __init__(
        self,
        feed: Feed,
        step: SourceStep,
        ledger: Ledger,
        limit: DeleteLimit,
        clock: Clock,
        metrics: Metrics,
        ask: Ask,
        spread: Callable[[], float] = random.random,
    ) -> None:
        """ask: awaits a call of the feed and turns its surprises into errors. spread: a number in [0, 1)."""
        self._feed = feed
        self._collection = feed.collection
        self._step = step
        self._ledger = ledger
        self._limit = limit
        self._clock = clock
        self._metrics = metrics
        self._ask = ask
        self._spread = spread
        self._suspects = Suspects(step.source, feed.collection, ledger, limit)
        self._shown: Uids | None = None
        self._tombstones: set[str] = set()
        self._refused: Sequence[str] = ()  # absent, and never published
        self._refuted = False
        self._concluded = False
        self._tell()

    @property
    def open(self) -> bool:
        """Whether a deletion may have to be told that is not; then nothing is proved to be complete."""
        return self._suspects.any

    @property
    def concluded(self) -> bool:
        """Whether the page that was looked at last ended a reading of everything, and so said who is absent."""
        return self._concluded

    @property
    def due(self) -> bool:
        """Whether `settle` has something to do."""
        return bool(self._suspects.free(1))

    @property
    def held(self) -> int:
        """How many deletions wait for a person."""
        return self._suspects.held

    @property
    def held_uids(self) -> list[str]:
        """The first of them, `SHOWN_MAX` at most."""
        return self._suspects.held_uids(SHOWN_MAX)

    def approve(self) -> int:
        """A person lets go what is held; how many. They are read once more before they are deleted."""
        count = self._suspects.approve()
        self._tell()
        self._ledger.wake()
        return count

    # A sweep.

    def sweep_begins(self) -> None:
        """From its first page on everything that is shown, by polls too, is remembered until its end."""
        self._shown = Uids()
        self._tombstones = set()

    def sweep_is_void(self) -> None:
        """Nothing is concluded from what this sweep does not show."""
        self._shown = None

    # A page.

    def living(self, page: Page) -> Page:
        """Without old copies of those whose tombstone was read meanwhile: a list may lag behind single reads."""
        old = self._suspects.older_than_tombstone(page.documents)
        if not old:
            return page
        return replace(page, documents=[document for document in page.documents if document.uid not in old])

    async def look(self, page: Page, by: Path) -> Sequence[str]:
        """Before a page is absorbed: who is absent, when it ends a reading that shows everything.

        May ask the provider, and raise what it raises; then the page has to be read again.
        """
        if self._shown is not None:
            self._shown.add(_alive(page))
            self._shown.add(gone.uid for gone in page.gone)
            self._tombstones.update(gone.uid for gone in page.gone)
            if any(reject.uid is None for reject in page.rejects):
                self.sweep_is_void()
        self._refuted = self._concluded = False
        if page.whole:
            shown = Uids(_alive(page))
            shown.add(gone.uid for gone in page.gone)
            return await self._absent(shown)
        if by is Path.SWEEP and page.complete and self._shown is not None:
            return await self._absent(self._shown)
        return ()

    def note(self, page: Page, by: Path, absent: Sequence[str]) -> None:
        """The signs of a page, in the step that absorbs it."""
        now = self._clock.wall()
        suspects = self._suspects
        if suspects.any:
            for document in page.documents:
                suspects.seen(document.uid, document.version)
        at = {gone.uid: gone.at for gone in page.gone}
        for document in self._step.known(self._collection, list(at)):
            suspects.note(document.uid, by, at[document.uid], absent=False, now=now)
        for uid in absent:
            suspects.note(uid, by, 0, absent=True, now=now)
        refused = self._step.refused_only(self._collection, [*at, *self._refused])
        if refused:
            # Only copies of them were seen that could not be published, so nothing is to be taken back.
            self._step.settle(self._collection, {uid: Gone(uid, 0) for uid in refused}, by)
        self._refused = ()
        if page.whole:
            self._forget_found(Uids(_alive(page)), {gone.uid for gone in page.gone})
        if by is Path.SWEEP and page.complete and self._shown is not None:
            self._forget_found(self._shown, self._tombstones)
            self.sweep_is_void()
        ended = page.whole or page.complete if by is Path.SWEEP else page.caught_up_to is not None
        if ended:
            self._decide(by)
        self._tell()

    def _decide(self, by: Path) -> None:
        before = self._suspects.held
        held = self._suspects.decide(by, self._step.documents(self._collection), self._clock.wall())
        if held > before:
            log.warning(
                "too many documents are gone at once, their deletions are held; see them with bridge state list "
                "--held, let them go with bridge approve",
                source=self._step.source,
                collection=self._collection,
                missing=held,
                known=self._step.documents(self._collection),
            )

    def _forget_found(self, shown: Uids, tombstones: set[str]) -> None:
        """Who was shown alive by a complete reading, and not as deleted, is there."""
        for some in shown.having(self._suspects.uids):
            self._suspects.forget(some - tombstones)

    # Deleting.

    async def settle(self) -> int:
        """Confirm and delete what may go, some at a time; how many events that made.

        Raises any `SourceError`; the rest is left for later.
        """
        events = 0
        while free := self._suspects.free(AT_ONCE):
            await self._ledger.wait_room()
            known = self._step.known(self._collection, list(free))
            found = await self._ask(self._feed.fetch(known)) if known else {}
            if self._collection is Collection.TAGS:
                gone = [uid for uid, fate in found.items() if not isinstance(fate, Document)]
                await strip(self._step.source, gone, self._step, self._ledger, Path.POLL)
            self._refuted |= any(free[uid].absent for uid, fate in found.items() if isinstance(fate, Document))
            for by in {suspect.by for suspect in free.values()}:
                some = {uid: _dated(fate, free[uid].at) for uid, fate in found.items() if free[uid].by is by}
                events += self._step.settle(self._collection, some, by)
            # Who is in the state no more is nobody's suspect; who was not answered for lets the others go first.
            unanswered = [document.uid for document in known if document.uid not in found]
            self._suspects.forget(free.keys() - set(unanswered))
            self._bury(found, free)
            self._suspects.postpone(unanswered)
            self._tell()
        return events

    def _bury(self, found: Found, free: Mapping[str, Suspect]) -> None:
        """Whose tombstone was found where no list has shown it yet: lists may go on showing them alive for a while."""
        now = self._clock.wall()
        for uid, fate in found.items():
            if isinstance(fate, Gone) and fate.at and free[uid].absent:
                self._suspects.bury(fate, free[uid].by, now)

    @property
    def refuted(self) -> bool:
        """Whether what a whole list lacked was there: then it may have lacked what nobody knows yet, too."""
        return self._refuted

    async def _absent(self, shown: Uids) -> Sequence[str]:
        """Known documents that were not shown. Nothing changes them meanwhile but this task."""
        known = Uids()
        async for uids in self._pieces():
            known.add(uids)
        missing: set[int] = set().union(*known.minus(shown))
        if not missing:
            self._concluded = True
            return ()
        absent: list[str] = []
        refused: list[str] = []
        async for uids in self._pieces():
            some = [uid for uid in uids if hash(uid) in missing]
            refused += self._step.refused_only(self._collection, some)
            absent += some
        absent = sorted(set(absent).difference(refused))
        if not await self._believed(absent):
            return ()
        self._concluded = True
        self._refused = refused
        return absent

    async def _believed(self, absent: Sequence[str]) -> bool:
        """A look at some of them, when there are so many that it would be held."""
        if not self._limit.holds(len(absent), self._step.documents(self._collection)):
            return True
        drawn = sorted({absent[int(self._spread() * len(absent))] for _ in range(SAMPLE)})
        sample = self._step.known(self._collection, drawn)
        found = await self._ask(self._feed.fetch(sample))
        there = sum(isinstance(fate, Document) for fate in found.values())
        if there:
            log.warning(
                "a complete reading lacked documents that are there; nothing is concluded from it",
                source=self._step.source,
                collection=self._collection,
                missing=len(absent),
                looked_up=len(sample),
                there=there,
            )
            self._refuted = True
        return not there

    async def _pieces(self) -> AsyncIterator[Sequence[str]]:
        """Every known uid."""
        following: int | None = 0
        while following is not None:
            uids, following = self._step.uids_after(self._collection, following, KEYS_AT_ONCE)
            yield uids
            await asyncio.sleep(0)

    def _tell(self) -> None:
        self._metrics.deletions_held(self._step.source, self._collection, self._suspects.held)


def _dated(fate: Fate, at: int) -> Fate:
    """With the time of the tombstone that gave the sign, where the second read does not tell one."""
    return Gone(fate.uid, at) if isinstance(fate, Gone) and at else fate


def _alive(page: Page) -> list[str]:
    """Whom a page shows; a row that its model refuses is there all the same."""
    uids = [document.uid for document in page.documents]
    uids += page.familiar
    uids += [reject.uid for reject in page.rejects if reject.uid is not None]
    return uids
