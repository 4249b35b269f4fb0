"""Reading: the loop of one feed: page → confirm suspects → step → a sweep's pages → wait until it is due again.

One task per feed, owned by its shard's task group and ended by cancellation, which is safe at every await: a page
that was not written into the ledger is simply read again. Provider trouble stays in here as back-off and status;
what Kafka does to the shard ends the task from outside.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from bridge.clock import Clock
from bridge.detect.scan import DeleteLimit, suspects
from bridge.errors import AccessDenied, CursorRejected, Malformed, RequestRefused, SourceError
from bridge.event.envelope import EventBuilder
from bridge.model import Account, Collection, Document, Path
from bridge.observability.logs import Throttle, get_logger
from bridge.observability.metrics import Metrics
from bridge.publish.topics import TopicPlan
from bridge.runtime.ahead import Ahead
from bridge.runtime.ledger import Ledger
from bridge.runtime.parking import FORESEEN, Parking, Surprises
from bridge.runtime.schedule import ACCESS_PROBE_S, Backoff, wait_s
from bridge.runtime.step import SourceStep, StepLimits
from bridge.runtime.sweep import Sweep, joined, parted
from bridge.source.feed import Cursor, Feed, Page

SWEEP_INTERVAL_S = 6 * 3600.0
"""What polling cannot see is found within a quarter of a day; a million customers take 10,000 requests each time."""

SAY_AGAIN_S = 30.0
"""Between two log lines about the same thing of the same feed."""

Answer = TypeVar("Answer")

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ReadingPlan:
    """How a feed is read: seconds between the starts of two polls or sweeps, and what needs a person's word."""

    poll_interval_s: float
    sweep_interval_s: float = SWEEP_INTERVAL_S
    delete_limit: DeleteLimit = field(default_factory=DeleteLimit)


@dataclass(slots=True)
class ReadingStatus:
    """What the status page and `/ready` show of one feed; written by the loop, read by anybody."""

    mode: str = "waiting"
    caught_up: bool = False
    last_error: str | None = None
    failing_since: float | None = None
    held: frozenset[str] = field(default_factory=frozenset)


class Unforeseen(Malformed):
    """Something that no code was written for."""


class Reading:
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
    ) -> None:
        """`spread`: a number in [0, 1) that keeps feeds from coming back in step."""
        self._source = source
        self._feed = feed
        self._step = step
        self._ledger = ledger
        self._plan = plan
        self._clock = clock
        self._metrics = metrics
        self._parking = parking
        self._spread = spread
        self._throttle = Throttle(SAY_AGAIN_S, clock)
        self._begin_again = False
        self._sweep_backoff = Backoff()
        self._sweep_not_before = float("-inf")
        self._ahead = Ahead()
        self.status = ReadingStatus()

    @property
    def collection(self) -> Collection:
        """What is read."""
        return self._feed.collection

    @property
    def documents(self) -> int:
        """How many documents are known."""
        return self._step.documents(self._feed.collection)

    async def run(self) -> None:
        """Read for ever; ends by cancellation only. Errors of the provider never leave.

        A surprise while a page is made true does: the ledger may hold half a page then, so the shard has to end.
        """
        try:
            await self._stand_back()
            await self._read_for_ever()
        finally:
            await self._ahead.stop()

    async def _read_for_ever(self) -> None:
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
                await self._sweep_until(started + self._plan.poll_interval_s)
                await self._clock.sleep(wait_s(started, self._plan.poll_interval_s, self._clock.monotonic()))

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
        cursor, sweep = parted(None if self._begin_again else self._step.cursor(self._feed.collection))
        page = await self._ahead.take(cursor) or await self._page(cursor)
        self._begin_again = False
        if sweep is None and page.caught_up_to is not None:
            sweep = Sweep(page.caught_up_to)
        await self._take(replace(page, cursor=joined(page.cursor, sweep)))
        return page.more

    async def _sweep_until(self, deadline: float) -> None:
        """Pages of a sweep in the time between two polls; at least one, so that a busy feed is swept too."""
        while self._clock.monotonic() >= self._sweep_not_before:
            cursor, sweep = parted(self._step.cursor(self._feed.collection))
            if cursor is None or sweep is None or not sweep.due(self._plan.sweep_interval_s, self._clock.wall()):
                return
            if sweep.cursor is None:
                begin = self._feed.sweep(cursor)
                if begin is None:
                    return
                sweep = Sweep(self._clock.wall(), begin)
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
            sweep = Sweep(sweep.began_at, self._feed.sweep(cursor))
            page = await self._page(sweep.cursor)
        following = sweep._replace(cursor=None if page.complete else page.cursor)
        await self._take(replace(page, cursor=joined(cursor, following)))
        return page.complete

    async def _page(self, cursor: Cursor | None) -> Page:
        # Before the page and not after it: who waits holds none.
        await self._ledger.wait_room()
        return await self._asked(self._feed.page(cursor, partial(self._step.familiar, self._feed.collection)))

    async def _take(self, page: Page) -> None:
        """Make the page true."""
        collection = self._feed.collection
        self.status.mode = page.path
        confirmed = await self._confirm(page)
        gone_at = {gone.uid: gone.at for gone in page.gone}
        if page.more and page.path is Path.SNAPSHOT and not page.complete:
            # Only these: other pages are compared with what is known, which this page is about to change.
            following, _ = parted(page.cursor)
            if following is not None:
                await self._ahead.start(following, self._page(following))
        result = self._step.absorb(collection, page, confirmed, gone_at)
        self._metrics.documents_read(self._source, collection, result.read)
        self._metrics.documents_unchanged(self._source, collection, result.unchanged)
        self._tell_progress(page)
        # A whole reading that lacked what is there after all may have lacked what nobody knows yet, too.
        refuted = page.whole and any(confirmed[uid] is not None for uid in confirmed.keys() - gone_at.keys())
        if page.caught_up_to is not None and not self.status.held and not refuted:
            self.status.caught_up = True
            self._ledger.open.caught_up[self._source, collection] = page.caught_up_to
            self._ledger.wake()

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

    async def _confirm(self, page: Page) -> Mapping[str, Document | None]:
        """Second look at every known document that seems to be gone."""
        collection = self._feed.collection
        uids = [gone.uid for gone in page.gone]
        if page.whole:
            uids += self._missing(page)
        known = self._step.known(collection, uids)
        confirmed = dict(await self._asked(self._feed.fetch(known))) if known else {}
        shown = {document.uid for document in page.documents}
        refused = self._step.refused_only(collection, uids)
        return confirmed | {uid: None for uid in refused if uid not in shown}

    async def _asked(self, call: Awaitable[Answer]) -> Answer:
        """A surprise in one feed is trouble of that feed; it must not stop its siblings."""
        try:
            return await call
        except (SourceError, *FORESEEN):  # also the store's: a feed asks it which rows it knows
            raise
        except Exception as error:
            name = type(error).__name__
            if self._throttle.admit("unforeseen") is not None:
                log.error("unforeseen", source=self._source, collection=self._feed.collection, exc_info=error)
            raise Unforeseen(f"unforeseen {name}; nothing of the answer was used. Please report it") from error

    def _blame(self, error: Exception, surprises: Surprises) -> None:
        """The life ends; if it is because of this feed, the next one shall know."""
        if not isinstance(error, FORESEEN):
            surprises.happened(f"unforeseen {type(error).__name__} ended the shard. Please report it")
            self._tell_parked()

    def _tell_parked(self) -> None:
        parked = self._parking.parked
        self._metrics.feed_parked(self._source, self._feed.collection, parked)
        if parked:
            self.status.mode = "parked"
            if self._throttle.admit("parked") is not None:
                said = self._parking.polls.said or self._parking.sweeps.said
                log.error("the feed is parked", source=self._source, collection=self._feed.collection, detail=said)

    def _missing(self, page: Page) -> list[str]:
        """Known uids that a whole reading does not show; none when there are suspiciously many."""
        collection = self._feed.collection
        known = self._step.known_uids(collection)
        seen = [document.uid for document in page.documents] + [gone.uid for gone in page.gone]
        seen += page.familiar
        seen += [reject.uid for reject in page.rejects if reject.uid is not None]
        missing = suspects(known, seen)
        published = frozenset(document.uid for document in self._step.known(collection, missing))
        held = self._plan.delete_limit.holds(len(published), len(known))
        self.status.held = published if held else frozenset()
        self._metrics.deletions_held(self._source, collection, len(self.status.held))
        if held and self._throttle.admit("held") is not None:
            log.warning(
                "too many documents missing at once, deletions held",
                source=self._source,
                collection=collection,
                missing=len(published),
                known=len(known),
            )
        return [] if held else missing

    @property
    def ready(self) -> bool:
        """True when the last request was answered."""
        return self.status.mode != "waiting" and self.status.last_error is None

    def _trouble(self, error: SourceError, backoff: Backoff, surprises: Surprises) -> float:
        """Note what happened; seconds to wait."""
        if self.status.failing_since is None:
            self.status.failing_since = self._clock.wall()
        self.status.last_error = str(error)
        if isinstance(error, AccessDenied):
            delay = ACCESS_PROBE_S
        else:
            hint = getattr(error, "delay_s", None)
            delay = backoff.delay_s(self._spread(), hint)
        if isinstance(error, Unforeseen):
            surprises.happened(str(error))
            delay = max(delay, surprises.delay_s(self._spread()))
            self._tell_parked()
        if self._throttle.admit("trouble", delay) is not None:
            serious = isinstance(error, AccessDenied | RequestRefused | Malformed)
            log.log(
                40 if serious else 30,
                "the provider cannot be read",
                source=self._source,
                collection=self._feed.collection,
                cause=type(error).__name__,
                detail=str(error),
                attempt=backoff.attempts,
                next_try_s=round(delay, 1),
            )
        return delay

    def _recovered(self) -> None:
        self._metrics.feed_parked(self._source, self._feed.collection, self._parking.parked)
        if self.status.failing_since is not None and self._throttle.over("trouble"):
            log.info(
                "the provider is read again",
                source=self._source,
                collection=self._feed.collection,
                after_s=round(self._clock.wall() - self.status.failing_since, 1),
            )
        self.status.failing_since = None
        self.status.last_error = None


@dataclass(frozen=True, slots=True)
class SourceReader:
    """Everything about one source that outlives its shard's openings: what to read and how to publish it."""

    account: Account
    builder: EventBuilder
    feeds: Sequence[Feed]
    plans: Mapping[Collection, ReadingPlan]
    silent_snapshot: bool
    clock: Clock
    metrics: Metrics
    spread: Callable[[], float] = random.random
    parking: Mapping[Collection, Parking] = field(default_factory=lambda: {name: Parking() for name in Collection})

    def readings(self, ledger: Ledger, topics: TopicPlan) -> Sequence[Reading]:
        """The loops of one opening; they share the step, so that the source counts its events once."""
        limits = StepLimits(topics.record_bytes_max, self.silent_snapshot)
        step = SourceStep(self.builder, ledger, topics, limits, self.clock)
        source = self.account.source
        return [
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
            )
            for feed in self.feeds
        ]
