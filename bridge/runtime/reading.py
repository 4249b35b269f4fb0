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

from bridge.clock import Clock
from bridge.detect.scan import DeleteLimit
from bridge.errors import CursorRejected, SourceError
from bridge.event.envelope import EventBuilder
from bridge.model import Account, Collection, Path
from bridge.observability.logs import get_logger
from bridge.observability.metrics import Metrics
from bridge.publish.topics import TopicPlan
from bridge.runtime.ahead import Ahead
from bridge.runtime.ledger import Ledger
from bridge.runtime.loop import SourceLoop
from bridge.runtime.memberships.bulletin import Bulletin
from bridge.runtime.memberships.loop import Memberships, MembershipSource
from bridge.runtime.parking import Parking
from bridge.runtime.removal import Removal
from bridge.runtime.schedule import Backoff, Pace, wait_s
from bridge.runtime.step import SourceStep, StepLimits, StepResult
from bridge.runtime.sweep import AT_ONCE, Sweep, joined, owes, parted, settled
from bridge.source.feed import Cursor, Feed, Page, without_etag

SWEEP_INTERVAL_S = 6 * 3600.0
"""What polling cannot see is found within a quarter of a day; a million customers take 10,000 requests each time."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ReadingPlan:
    """How a feed is read: seconds between the starts of two polls or sweeps, and what needs a person's word.

    poll_interval_s_max: how far the time between two polls grows while nothing changes; not at all by default.
    """

    poll_interval_s: float
    sweep_interval_s: float = SWEEP_INTERVAL_S
    delete_limit: DeleteLimit = field(default_factory=DeleteLimit)
    poll_interval_s_max: float = 0.0


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
                self._idle = True
                try:
                    await self._clock.sleep(wait_s(started, self._pace.interval_s, self._clock.monotonic()))
                finally:
                    self._idle = False

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
            cursor, sweep = parted(self._step.cursor(self._feed.collection))
            if cursor is None or sweep is None:
                return
            missed = sweep.cursor is None and self._step.missed_by(self._feed.collection, sweep.began_at)
            if not missed and not sweep.due(self._plan.sweep_interval_s, self._clock.wall()):
                return
            if sweep.cursor is None:
                begin = self._feed.sweep(cursor)
                if begin is None:
                    return
                sweep = sweep._replace(began_at=self._clock.wall(), cursor=begin)
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

    async def _sweep_page(self, cursor: Cursor, sweep: Sweep) -> bool:
        """The next one; a sweep whose position is refused begins again. True when it was the last."""
        try:
            page = await self._page(sweep.cursor)
        except CursorRejected:
            sweep = sweep._replace(cursor=self._feed.sweep(cursor))
            page = await self._page(sweep.cursor)
        following = sweep._replace(cursor=None if page.complete else page.cursor)
        # What is known is now what the sweep has shown, no longer what the poll before it did.
        await self._take(replace(page, cursor=joined(without_etag(cursor), following)), Path.SWEEP)
        return page.complete

    async def _page(self, cursor: Cursor | None) -> Page:
        # Before the page and not after it: who waits holds none.
        await self._ledger.wait_room()
        self._asked_at = self._clock.wall()
        return await self._asked(self._feed.page(cursor, partial(self._step.familiar, self._feed.collection)))

    async def _take(self, page: Page, by: Path) -> None:
        """Make the page true. by: POLL for polls and the first complete reading, SWEEP for what is read beside them."""
        collection = self._feed.collection
        self.status.mode = page.path
        page = self._removal.living(page)
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
        if page.caught_up_to is not None and not owes(page.cursor):
            self._reached = page.caught_up_to
        elif not page.more and any(reject.uid is None for reject in page.rejects):
            # Nothing is proved while a row could be anybody's, but all others are known.
            self._bulletin.ended(collection, self._asked_at)

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


@dataclass(frozen=True, slots=True)
class SourceReader:
    """Everything about one source that outlives its shard's openings: what to read and how to publish it.

    memberships: for a provider whose customers do not say which tags they have, if they are wanted.
    """

    account: Account
    builder: EventBuilder
    feeds: Sequence[Feed]
    plans: Mapping[Collection, ReadingPlan]
    silent_snapshot: bool
    clock: Clock
    metrics: Metrics
    spread: Callable[[], float] = random.random
    parking: Mapping[Collection, Parking] = field(default_factory=lambda: {name: Parking() for name in Collection})
    memberships: MembershipSource | None = None

    @property
    def collections(self) -> Sequence[Collection]:
        """What is read."""
        extra = [] if self.memberships is None else [Collection.MEMBERSHIPS]
        return [*(feed.collection for feed in self.feeds), *extra]

    def readings(self, ledger: Ledger, topics: TopicPlan) -> Sequence[SourceLoop]:
        """The loops of one opening; they share the step, so that the source counts its events once."""
        limits = StepLimits(topics.record_bytes_max, self.silent_snapshot)
        step = SourceStep(self.builder, ledger, topics, limits, self.clock)
        source = self.account.source
        bulletin = Bulletin()
        loops: list[SourceLoop] = [
            Reading(
                source,
                feed,
                step,
                ledger,
                self.plans[feed.collection],
                self.clock,
                self.metrics,
                self.parking[feed.collection],
                self.spread,
                bulletin,
            )
            for feed in self.feeds
        ]
        if self.memberships is not None:
            parking = self.parking[Collection.MEMBERSHIPS]
            loop = Memberships(
                source, self.memberships, step, ledger, bulletin, self.clock, self.metrics, parking, self.spread
            )
            loops.append(loop)
        return loops
