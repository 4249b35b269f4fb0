"""Memberships: the loop that finds which customers got or lost a tag, beside the readings of one source's feeds.

It is for providers whose customers do not say which tags they have. `rounds` says what to ask next, `roll` what a
reading of a tag amounts to. All that is seen of a source's edges is seen and written here, one after the other, so no
answer ever overtakes a newer one; only a tag that is gone loses its members elsewhere (`strip`), and then its edges are
dropped here.

Nothing is read before customers and tags have been read themselves: what is told of an edge comes behind the `created`
of both its ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bridge.clock import Clock
from bridge.errors import RequestRefused, RetryLater, SourceError
from bridge.model import Cause, Collection, Document, Path, key_of
from bridge.observability.logs import get_logger
from bridge.observability.metrics import Metrics
from bridge.runtime.ledger import Ledger
from bridge.runtime.looks import Looks
from bridge.runtime.loop import SourceLoop
from bridge.runtime.memberships.asking import AT_ONCE, Answer, Asker
from bridge.runtime.memberships.bulletin import Bulletin
from bridge.runtime.memberships.reading import TagReadings
from bridge.runtime.memberships.rounds import WAIT_S_MAX, Count, Job, Now, Rounds, RoundsPlan, Work
from bridge.runtime.memberships.strip import strip
from bridge.runtime.parking import Parking
from bridge.runtime.schedule import Backoff
from bridge.runtime.step import SourceStep
from bridge.source.feed import Cursor
from bridge.source.memberships import PacedReader
from bridge.store.record import ROUNDS, cursor_key, decode_json, encode_json, rounds_key

FIRST: Cursor = {"mode": "first"}
ROUND: Cursor = {"mode": "rounds"}

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class MembershipSource:
    """What outlives the shard's openings: who is asked, and how often."""

    reader: PacedReader
    plan: RoundsPlan


class Memberships(SourceLoop):
    """The loop of one source during one opening of its shard."""

    def __init__(
        self,
        source: str,
        memberships: MembershipSource,
        step: SourceStep,
        ledger: Ledger,
        bulletin: Bulletin,
        clock: Clock,
        metrics: Metrics,
        parking: Parking,
        spread: Callable[[], float],
    ) -> None:
        """`spread`: see `SourceLoop`; it also draws samples."""
        super().__init__(source, Collection.MEMBERSHIPS, ledger, clock, metrics, parking, spread)
        self._reader = memberships.reader
        self._rounds = Rounds(memberships.plan)
        self._step = step
        self._bulletin = bulletin
        self._asker = Asker(source, memberships.reader, step, ledger, self._asked)
        self._readings = TagReadings(
            source,
            memberships.reader,
            self._asker,
            self._rounds,
            step,
            ledger,
            bulletin,
            self._asked,
            clock,
            metrics,
            spread,
        )
        self._first = step.cursor(Collection.MEMBERSHIPS) in (None, FIRST)
        self._readings.path = Path.SNAPSHOT if self._first else Path.SWEEP
        self._orphans: list[str] = []
        self._looks: Looks[Mapping[str, Answer | SourceError]] = Looks()
        self._hint_next = True
        self._claimed = float("-inf")

    @property
    def documents(self) -> int:
        """How many edges are known."""
        return self._asker.edges

    def resync(self) -> bool:
        """See `SourceLoop.resync`: no tag counts as read."""
        self._step.begin_again(self.collection)
        for tag in list(self._rounds.tags):
            self._rounds.drop(tag)
            self._readings.drop(tag)
        self._bulletin.tags_moved()
        return super().resync()

    async def look(self, customers: Sequence[Document], cause: Cause) -> Mapping[str, Answer | SourceError]:
        """Ask these customers for their tags before anything else; what each has said is in the ledger.

        Called by another task. A customer that is not in the state any more has no answer.
        """
        self._bulletin.wake()
        return await self._looks.ask(customers, cause)

    async def _live(self) -> None:
        """See `SourceLoop`. A surprise while something is made true leaves: the shard has to end."""
        if self._parking.polls.any:
            self.status.last_error, self.status.failing_since = self._parking.polls.said, self._clock.wall()
            self._tell_parked()
            await self._clock.sleep(self._parking.polls.delay_s(self._spread()))
        backoff = Backoff()
        while True:
            self._metrics.loop_progress(self._source, self.collection)
            try:
                wait_s = await self._turn()
            except SourceError as error:
                backoff = backoff.failed()
                await self._clock.sleep(self._trouble(error, backoff, self._parking.polls))
                continue
            except Exception as error:
                self._blame(error, self._parking.polls)
                raise
            if wait_s is None:
                backoff = Backoff()
                self._parking.polls.over()
                self._recovered()
            else:
                await self._bulletin.wait(wait_s)

    async def _turn(self) -> float | None:
        """Ask once, or a few times; or say for how long there is nothing to ask."""
        if not self._bulletin.read.keys() >= {Collection.CUSTOMERS, Collection.TAGS}:
            return WAIT_S_MAX
        self._refresh()
        if self._orphans:
            await strip(self._source, self._orphans, self._step, self._ledger, Path.SWEEP)
            self._orphans = []
            return None  # tags may have come meanwhile
        self._readings.wake()
        self._claim()
        if await self._look():
            return None
        hinted = self._bulletin.hinted
        job = 0.0 if hinted and self._hint_next else self._rounds.next(self._now())
        if not isinstance(job, Job):
            if not hinted:
                return job
            self._hint_next = False  # neither hints nor routine keep the other from its turn
            await self._hints()
            return None
        self._hint_next = True
        if job.work is Work.PROBE:
            await self._probe(job.tag)
        else:
            self.status.mode = self._readings.path
            await self._readings.read_on(job.tag)
            self._settle_mode()
        return None

    # What there is to read.

    def _refresh(self) -> None:
        """Take note of tags that came or went."""
        if not self._bulletin.take_tags_moved():
            return
        uids = self._step.known_uids(Collection.TAGS)
        present = {document.uid for document in self._step.known(Collection.TAGS, uids)}
        for tag in [tag for tag in self._rounds.tags if tag not in present]:
            self._rounds.drop(tag)
            self._readings.drop(tag)
        prefix = key_of(self._source, ROUNDS, "")
        for key in [key for key in self._ledger.keys(prefix) if key[len(prefix) :] not in present]:
            self._ledger.put(key, None)
        for tag in sorted(present):
            if tag not in self._rounds:
                stored = self._ledger.get(rounds_key(self._source, tag))
                swept = None if stored is None else decode_json(stored)["swept"]
                self._rounds.add(tag, swept, self._asker.members(tag))
        held = self._ledger.member_tags(self._source)
        self._asker.count(held)
        self._orphans = [tag for tag in held if tag not in present]
        self._settle_mode()

    def _claim(self) -> None:
        """Everything up to this moment is in the ledger."""
        caught_up = self._bulletin.caught_up
        if not caught_up.keys() >= {Collection.CUSTOMERS, Collection.TAGS}:
            return
        moment = min(self._rounds.proved(), caught_up[Collection.CUSTOMERS], caught_up[Collection.TAGS])
        if moment > self._claimed:
            self._claimed = moment
            self.status.caught_up = True
            self._ledger.open.caught_up[self._source, self.collection] = moment
            self._ledger.wake()

    def _settle_mode(self) -> None:
        """The first reading is over when every tag has been read."""
        if self._first and self._rounds.complete:
            self._first = False
            self._readings.path = Path.SWEEP
        key, mode = cursor_key(self._source, self.collection), encode_json(FIRST if self._first else ROUND)
        if self._ledger.get(key) != mode:
            self._ledger.put(key, mode)

    # Asking.

    async def _look(self) -> bool:
        """Look at the customers that somebody waits for, some at once; False when there are none."""
        look = self._looks.first()
        if look is None:
            return False
        self.status.mode = Path.POLL
        seen: dict[str, Answer | SourceError] = {}
        uids = [document.uid for document in look.known]
        for at in range(0, len(uids), AT_ONCE):
            said, failures = await self._asker.ask(uids[at : at + AT_ONCE], look.cause, urgent=True)
            seen |= said
            seen |= failures
        look.answer(seen)
        return True

    async def _hints(self) -> None:
        """Customers that changed are asked for their tags."""
        uids: list[str] = []
        while len(uids) < AT_ONCE and (uid := self._bulletin.take_hint()) is not None:
            uids.append(uid)
        self.status.mode = Path.POLL
        _, failures = await self._asker.ask(uids, Cause(Path.SNAPSHOT if self._first else Path.POLL), urgent=True)
        # Once more, unless the provider refuses this very customer: its tags are read anyway.
        self._bulletin.hint([uid for uid, error in failures.items() if isinstance(error, RetryLater)])
        for error in failures.values():
            raise error

    async def _probe(self, tag: str) -> None:
        self.status.mode = Path.POLL
        try:
            theirs = await self._asked(self._reader.count(tag))
        except RequestRefused:  # as for a tag that is about to go; its reading will tell
            theirs = self._asker.members(tag)
        self._spent(1)
        if tag in self._rounds:
            self._rounds.counted(tag, self._now(), Count(self._asker.members(tag), theirs))

    def _spent(self, requests: int) -> None:
        self._rounds.spent(self._now(), requests, self._reader.rate())

    def _now(self) -> Now:
        return Now(self._clock.wall(), self._clock.monotonic())
