"""Reading: the loop of one feed: page → step → what is gone → a sweep's pages → wait until it is due again.

One task per feed, owned by its shard's task group and ended by cancellation, which is safe at every await: a page
that was not written into the ledger is simply read again. Provider trouble stays in here as back-off and status;
what Kafka does to the shard ends the task from outside.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

from bridge.clock import Clock
from bridge.detect.scan import DeleteLimit
from bridge.errors import CursorRejected, SourceError
from bridge.model import Cause, Document, Fate, Gone, Path, Told
from bridge.observability.logs import get_logger
from bridge.observability.metrics import Metrics
from bridge.runtime.ahead import Ahead
from bridge.runtime.glances import GlancePlan, Glancing
from bridge.runtime.ledger import Ledger
from bridge.runtime.looks import LATE_S, Doubts, Look, Looks
from bridge.runtime.loop import SourceLoop
from bridge.runtime.memberships.bulletin import Bulletin
from bridge.runtime.parking import Parking
from bridge.runtime.removal import Removal
from bridge.runtime.schedule import Backoff, Pace, wait_s
from bridge.runtime.step import SourceStep, StepResult
from bridge.runtime.sweep import AT_ONCE, Sweep, joined, owes, parted, settled
from bridge.source.feed import Cursor, Feed, Page, without_etag
from bridge.source.memberships import Untold

SWEEP_INTERVAL_S = 6 * 3600.0
"""What polling cannot see is found within a quarter of a day; a million customers take 10,000 requests each time."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ReadingPlan:
    """How a feed is read: seconds between the starts of two polls or sweeps, and what needs a person's word.

    poll_interval_s_max: how far the time between two polls grows while nothing changes; not at all by default.
    glances: of customers who say which tags they have, if that is wanted.
    """

    poll_interval_s: float
    sweep_interval_s: float = SWEEP_INTERVAL_S
    delete_limit: DeleteLimit = field(default_factory=DeleteLimit)
    poll_interval_s_max: float = 0.0
    glances: GlancePlan | None = None


class _Seen(NamedTuple):
    """What a look has seen, by uid: documents, or tags."""

    fates: Mapping[str, Fate] = MappingProxyType({})
    tags: Mapping[str, frozenset[str] | Untold] = MappingProxyType({})


class Reading(SourceLoop):
    """The loop of one feed during one opening of its shard."""

    def __init__(
        self,
        source: str,
        feed: Feed,
        step: SourceStep,
        ledger: Ledger,
        plan: ReadingPlan,
        clock: Clock,
        metrics: Metrics,
        parking: Parking,
        spread: Callable[[], float] = random.random,
        bulletin: Bulletin | None = None,
    ) -> None:
        """`spread`: a number in [0, 1) that keeps feeds from coming back in step. bulletin: who else is told."""
        super().__init__(source, feed.collection, ledger, clock, metrics, parking, spread)
        self._feed = feed
        self._step = step
        self._plan = plan
        self._begin_again = False
        self._stood_back = False
        self._pace = Pace.between(plan.poll_interval_s, plan.poll_interval_s_max)
        self._changed = False
        self._sweep_backoff = Backoff()
        self._sweep_not_before = float("-inf")
        self._removal_backoff = Backoff()
        self._removal_not_before = float("-inf")
        self._removal = Removal(feed, step, ledger, plan.delete_limit, clock, metrics, self._asked, spread)
        self._idle = False
        self._reached: float | None = None  # what can be claimed as soon as nothing is open
        self._asked_at = 0.0
        self._ahead = Ahead()
        self._bulletin = bulletin or Bulletin()
        self._looks: Looks[_Seen] = Looks()
        self._doubts = Doubts(clock)
        self._claims_not_before = 0.0
        self._glancing = None if plan.glances is None else Glancing(plan.glances, step.told, self._bulletin)
        self._tell_held()

    @property
    def documents(self) -> int:
        """How many documents are known."""
        return self._step.documents(self._feed.collection)

    # What signals ask for, beside what every loop does about them.

    def resync(self) -> bool:
        """See `SourceLoop.resync`."""
        self._step.begin_again(self.collection)
        self._sweep_not_before = float("-inf")
        return super().resync()

    def approve(self) -> int:
        """See `SourceLoop.approve`. They are read once more before they leave; at once, or behind what is under way.

        That is not broken off: where requests have to wait for long, it would never come to its end.
        """
        count = self._removal.approve()
        self._tell_held()
        if self._idle:
            self._control.call()
        return count

    async def look(self, known: Sequence[Document], cause: Cause) -> Mapping[str, Fate]:
        """Read these documents at once, between two pages; what is new about them is in the ledger then.

        Called by another task. An answer by uid; of one that is not there, what became of it: whether it is deleted,
        sweeps decide. One whose row cannot be read is answered as it was given, one about which the provider says
        nothing not at all. Raises any `SourceError`.
        """
        return (await self._looks.ask(known, cause)).fates

    @property
    def tells_tags(self) -> bool:
        """Whether the documents are customers that say which tags they have, and it is read."""
        return self._plan.glances is not None

    async def look_at_tags(self, known: Sequence[Document], cause: Cause) -> Mapping[str, frozenset[str] | Untold]:
        """As `look`, of nothing but which tags these customers say they have; see `tells_tags`."""
        return (await self._looks.ask(known, cause, tags=True)).tags

    async def _break_off(self) -> None:
        await self._ahead.stop()
        await self._feed.break_off()

    async def _live(self) -> None:
        """See `SourceLoop`. A surprise while a page is made true leaves: the ledger may hold half a page then."""
        await self._read_for_ever()

    async def _read_for_ever(self) -> None:
        if not self._stood_back:
            self._stood_back = True  # also when a person breaks it off
            await self._stand_back()
        backoff = positions = Backoff()
        while True:
            await self._look()
            started = self._clock.monotonic()
            try:
                more = await self._once()
            except SourceError as error:
                backoff = backoff.failed()
                if isinstance(error, CursorRejected):
                    # A position that the feed cannot use is given up: everything is read again, and falls out in the
                    # diff. More and more slowly, because each time the first page is good.
                    self._begin_again = True
                    positions = positions.failed()
                    backoff = max(backoff, positions)
                await self._clock.sleep(self._trouble(error, backoff, self._parking.polls))
                continue
            except Exception as error:
                self._blame(error, self._parking.polls)
                raise
            backoff = Backoff()
            if not more:  # a page may be good each time, and be lost each time with the life that the next one ends
                positions = Backoff()
                self._parking.polls.over()
            self._recovered()
            self._metrics.loop_progress(self._source, self._feed.collection)
            if not more:
                self._pace, self._changed = self._pace.changed() if self._changed else self._pace.quiet(), False
                await self._remove()
                await self._sweep_until(started + self._pace.interval_s)
                await self._remove()
                await self._look_until_due(started)

    async def _stand_back(self) -> None:
        """After a life that this feed has ended, let its siblings go on for a while."""
        for surprises in (self._parking.polls, self._parking.sweeps):
            if surprises.any:
                self.status.last_error = surprises.said
                self.status.failing_since = self._clock.wall()
        self._tell_parked()
        if self._parking.sweeps.any:
            self._sweep_not_before = self._clock.monotonic() + self._parking.sweeps.delay_s(self._spread())
        if self._parking.polls.any:
            await self._clock.sleep(self._parking.polls.delay_s(self._spread()))

    async def _once(self) -> bool:
        """A page of the polls, or of the first complete reading; True when the next one is there already."""
        cursor, sweep = parted(self._step.cursor(self._feed.collection))
        if self._begin_again:
            cursor, sweep = None, AT_ONCE._replace(owed=True)
        page = await self._ahead.take(cursor) or await self._page(cursor)
        self._begin_again = False
        if sweep is None and page.caught_up_to is not None:
            sweep = Sweep(page.caught_up_to)
        await self._take(replace(page, cursor=joined(page.cursor, sweep)), Path.POLL)
        return page.more

    async def _look_until_due(self, started: float) -> None:
        """Nothing else is to be read before; who is late lets the others go on all the same."""
        await self._clock.sleep(0.0)
        while (left_s := wait_s(started, self._pace.interval_s, self._clock.monotonic())) > 0.0:
            self._idle = True
            try:
                await self._looks.wait(left_s)
            finally:
                self._idle = False
            await self._look()

    async def _look(self) -> None:
        """What somebody waits for. What is wrong with it is trouble of whoever waits."""
        while (look := self._looks.first()) is not None:
            await self._ledger.wait_room()
            await self._ahead.stop()  # that page may be older than what is seen now
            try:
                look.answer(await (self._tags_seen(look) if look.tags else self._documents_seen(look)))
            except SourceError as error:
                look.fail(error)

    async def _documents_seen(self, look: Look[_Seen]) -> _Seen:
        found = await self._asked(self._feed.fetch(look.known))
        self._control.check()
        given = {document.uid: document for document in look.known}
        told = {uid: fate for uid, fate in found.items() if fate is not given.get(uid)}
        documents = [fate for fate in told.values() if isinstance(fate, Document)]
        try:
            events = self._step.look(self.collection, documents, look.cause)
        except Exception as error:
            self._blame(error, self._parking.polls)
            raise
        self._doubts.note(document.uid for document in documents)
        if events:
            touched = [document.uid for document in documents]
            self._bulletin.absorbed(self.collection, look.cause.path, StepResult(len(told), 0, events, 0, touched))
        return _Seen(fates=found)

    async def _tags_seen(self, look: Look[_Seen]) -> _Seen:
        assert self._plan.glances is not None, "asked only where customers say their tags"
        found = await self._asked(self._plan.glances.glances.told(look.known))
        self._control.check()
        said = {uid: told for uid, told in found.items() if isinstance(told, Told)}
        try:
            self._step.absorb_told(said, look.cause)
        except Exception as error:
            self._blame(error, self._parking.polls)
            raise
        return _Seen(
            tags={uid: frozenset(told.tags) if isinstance(told, Told) else told for uid, told in found.items()}
        )

    async def _remove(self) -> None:
        """Delete what is gone for sure, and claim what is proved by now."""
        if self._removal.due and self._clock.monotonic() >= self._removal_not_before:
            try:
                events = await self._removal.settle()
            except SourceError as error:
                # Polls go on as if nothing had happened; only nothing is claimed meanwhile.
                self._removal_backoff = self._removal_backoff.failed()
                delay = self._trouble(error, self._removal_backoff, self._parking.sweeps)
                self._removal_not_before = self._clock.monotonic() + delay
                return
            except Exception as error:
                self._blame(error, self._parking.sweeps)
                raise
            self._removal_backoff = Backoff()
            self._bulletin.absorbed(self.collection, Path.POLL, StepResult(0, 0, events))
        self._tell_held()
        if self._reached is not None:
            self._bulletin.ended(self.collection, self._reached)
        if self._reached is not None and not self._removal.open and not self._removal.refuted:
            self.status.caught_up = True
            self._ledger.open.caught_up[self._source, self._feed.collection] = self._reached
            self._bulletin.proved(self.collection, self._reached)
            self._ledger.wake()
        self._reached = None

    def _tell_held(self) -> None:
        self.status.held, self.status.held_uids = self._removal.held, self._removal.held_uids

    async def _sweep_until(self, deadline: float) -> None:
        """Pages of a sweep in the time between two polls; at least one, so that a busy feed is swept too."""
        while self._clock.monotonic() >= self._sweep_not_before:
            await self._look()
            cursor, sweep = parted(self._step.cursor(self._feed.collection))
            if cursor is None or sweep is None:
                return
            if sweep.cursor is None:
                begun = self._begun(cursor, sweep)
                if begun is None:
                    return
                sweep = begun
                self._removal.sweep_begins()
            try:
                complete = await self._sweep_page(cursor, sweep)
            except SourceError as error:
                # Polls go on as if nothing had happened; they tell more about the provider's health.
                self._sweep_backoff = self._sweep_backoff.failed()
                delay = self._trouble(error, self._sweep_backoff, self._parking.sweeps)
                self._sweep_not_before = self._clock.monotonic() + delay
                return
            except Exception as error:
                self._blame(error, self._parking.sweeps)
                raise
            self._sweep_backoff = Backoff()
            if complete:
                self._parking.sweeps.over()
            if self._clock.monotonic() >= deadline:
                return

    def _begun(self, cursor: Cursor, sweep: Sweep) -> Sweep | None:
        """The sweep that is due, or the glance; None when neither is."""
        now = self._clock.wall()
        missed = self._step.missed_by(self._feed.collection, sweep.began_at)
        if missed or sweep.due(self._plan.sweep_interval_s, now):
            begin = self._feed.sweep(cursor)
            begun = None if begin is None else sweep.swept(begin, now)
        elif self._glancing is not None and self._glancing.due(sweep, now):
            begun = sweep.glanced(self._glancing.cursor(cursor), now)
        else:
            return None
        if begun is not None and self._glancing is not None:
            self._glancing.begins(now)
        return begun

    async def _sweep_page(self, cursor: Cursor, sweep: Sweep) -> bool:
        """The next one; a sweep whose position is refused begins again. True when it was the last."""
        try:
            page = await self._page(sweep.cursor)
        except CursorRejected:
            sweep = sweep._replace(cursor=self._feed.sweep(cursor), glancing=False)
            page = await self._page(sweep.cursor)
        following = sweep.after(None if page.complete else page.cursor)
        # What is known is now what the sweep has shown, no longer what the poll before it did.
        taken = await self._take(replace(page, cursor=joined(without_etag(cursor), following)), Path.SWEEP)
        if self._glancing is not None:
            self._glancing.note(taken, glancing=sweep.glancing, now=self._clock.wall())
        return page.complete

    async def _page(self, cursor: Cursor | None) -> Page:
        # Before the page and not after it: who waits holds none.
        await self._ledger.wait_room()
        self._asked_at = self._clock.wall()
        return await self._asked(self._feed.page(cursor, partial(self._step.familiar, self._feed.collection)))

    async def _take(self, page: Page, by: Path) -> Page:
        """Make the page true; as it was taken. by: POLL for polls and the first complete reading, SWEEP for what is
        read beside them."""
        collection = self._feed.collection
        self.status.mode = page.path
        page = self._removal.living(await self._undisputed(page))
        absent = await self._removal.look(page, by)
        if self._removal.concluded:
            page = replace(page, cursor=settled(page.cursor))
        if absent or page.gone or self._removal.open or self._removal.refuted:
            page = replace(page, cursor=without_etag(page.cursor))  # not all that it shows becomes true
        if page.more and page.path is Path.SNAPSHOT and not page.complete:
            # Only these: other pages are compared with what is known, which this page is about to change.
            following, _ = parted(page.cursor)
            if following is not None:
                await self._ahead.start(following, self._page(following))
        self._control.check()
        self._removal.note(page, by, absent)
        result = self._step.absorb(collection, page)
        self._changed = self._changed or result.events > 0
        self._metrics.documents_read(self._source, collection, result.read)
        self._metrics.documents_unchanged(self._source, collection, result.unchanged)
        self._tell_progress(page)
        if result.rebased and self._throttle.admit("rebased") is not None:
            log.info(
                "this release reads documents otherwise, taken over without events",
                source=self._source,
                collection=collection,
                documents=result.rebased,
            )
        self._bulletin.absorbed(collection, page.path, result)
        unsettled = self._clock.monotonic() < self._claims_not_before
        if page.caught_up_to is not None and not owes(page.cursor) and not unsettled:
            self._reached = page.caught_up_to
        elif not page.more and (unsettled or any(reject.uid is None for reject in page.rejects)):
            # Nothing is proved while a row could be anybody's, or older than what is known; but all others are known.
            self._bulletin.ended(collection, self._asked_at)
        return page

    async def _undisputed(self, page: Page) -> Page:
        """The page with those rows read once more that may be older than what was looked at by itself."""
        doubted = self._doubts.of(document.uid for document in page.documents)
        if not doubted or page.path is Path.SNAPSHOT:
            return page
        rows = [document for document in page.documents if document.uid in doubted]
        disputed = {document.uid: document for document in self._step.disputed(self.collection, rows)}
        if not disputed:
            return page
        found = dict(await self._asked(self._feed.fetch(list(disputed.values()))))
        # Nobody has the name that is known: then perhaps it is the row that is true, and has the name of today.
        renamed = {row.uid: row for row in rows if isinstance(found.get(row.uid), Gone)}
        if renamed:
            again = await self._asked(self._feed.fetch(list(renamed.values())))
            found |= {uid: fate for uid, fate in again.items() if fate is not renamed[uid]}
        # Who seems to be gone, or cannot be told about, stays as it is known; then the page proves nothing.
        settled = dict(disputed)
        settled |= {uid: fate for uid, fate in found.items() if isinstance(fate, Document)}
        if any(settled[uid] is known for uid, known in disputed.items()):
            page = replace(page, caught_up_to=None)
            self._claims_not_before = self._clock.monotonic() + LATE_S  # by then every list shows what they are now
        documents = [settled.get(document.uid, document) for document in page.documents]
        fingerprints = {uid: mark for uid, mark in page.fingerprints.items() if uid not in settled}
        tags = {uid: told for uid, told in page.tags.items() if uid not in settled}  # as old as the rest of the row
        cursor = without_etag(page.cursor)
        return replace(page, documents=documents, fingerprints=fingerprints, tags=tags, cursor=cursor)

    def _tell_progress(self, page: Page) -> None:
        """A complete reading may take hours; say now and then how far it is."""
        if page.path is Path.POLL or not page.more:
            return
        if self._throttle.admit("progress") is not None:
            log.info(
                "reading everything",
                source=self._source,
                collection=self._feed.collection,
                path=page.path,
                documents=self.documents,
            )
