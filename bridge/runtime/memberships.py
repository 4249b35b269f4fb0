"""Memberships: the loop that finds which customers got or lost a tag, beside the readings of one source's feeds.

It is for providers whose customers do not say which tags they have. `rounds` says what to ask next, `roll` what a
reading of a tag amounts to. All that is seen of a source's edges is seen and written here, one after the other, so no
answer ever overtakes a newer one; only a tag that is gone loses its members elsewhere (`strip`), and then its edges are
dropped here.

Nothing is read before customers and tags have been read themselves: what is told of an edge comes behind the `created`
of both its ends.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bridge.clock import Clock
from bridge.detect import edges
from bridge.detect.edges import EdgeMove
from bridge.errors import CursorRejected, Malformed, RequestRefused, SourceError
from bridge.model import Collection, Document, Path, key_of
from bridge.observability.logs import get_logger
from bridge.observability.metrics import Metrics
from bridge.runtime.bulletin import Bulletin
from bridge.runtime.ledger import Ledger
from bridge.runtime.loop import SourceLoop, Unforeseen
from bridge.runtime.parking import PARKED_RETRY_S, Parking
from bridge.runtime.roll import OPEN_MAX, PAGE_TRIES_MAX, PASSES_MAX, WAITS_MAX, Roll
from bridge.runtime.rounds import WAIT_S_MAX, Count, Job, Now, Rounds, RoundsPlan, Work
from bridge.runtime.schedule import Backoff
from bridge.runtime.step import SourceStep
from bridge.runtime.strip import CHUNK, strip
from bridge.source.feed import Cursor
from bridge.source.memberships import MemberPage, MembershipReader, Untold
from bridge.store.record import ROUNDS, cursor_key, decode_json, encode_json, rounds_key

AT_ONCE = 8
"""Customers that are asked for their tags side by side; the budget decides about their rate."""

SAMPLE = 5
"""Customers drawn from those that a list does not show any more, and asked one by one before the list is believed."""

LATE_S = 15.0
"""How long a deletion may take to become visible: a customer that is gone is not one that lost its tags."""

FIRST: Cursor = {"mode": "first"}
ROUND: Cursor = {"mode": "rounds"}

Answer = frozenset[str] | Untold
"""What a provider says of one customer's tags."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class MembershipSource:
    """What outlives the shard's openings: who is asked, and how often."""

    reader: MembershipReader
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
        self._plan = memberships.plan
        self._rounds = Rounds(self._plan)
        self._step = step
        self._bulletin = bulletin
        self._first = step.cursor(Collection.MEMBERSHIPS) in (None, FIRST)
        self._rolls: dict[str, Roll] = {}
        self._waiting: dict[str, Roll] = {}
        self._orphans: list[str] = []
        self._edges = 0
        self._hint_next = True
        self._claimed = float("-inf")

    @property
    def documents(self) -> int:
        """How many edges are known."""
        return self._edges + self._step.edges_moved

    def resync(self) -> bool:
        """See `SourceLoop.resync`: no tag counts as read."""
        self._step.begin_again(self.collection)
        self._rounds = Rounds(self._plan)
        self._rolls.clear()
        self._waiting.clear()
        self._bulletin.tags_moved()
        return super().resync()

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
        if not self._bulletin.caught_up.keys() >= {Collection.CUSTOMERS, Collection.TAGS}:
            return WAIT_S_MAX
        self._refresh()
        if self._orphans:
            await strip(self._source, self._orphans, self._step, self._ledger, Path.SWEEP)
            self._orphans = []
        self._wake()
        self._claim()
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
            await self._read_on(job.tag)
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
            self._rolls.pop(tag, None)
            self._waiting.pop(tag, None)
        prefix = key_of(self._source, ROUNDS, "")
        for key in [key for key in self._ledger.keys(prefix) if key[len(prefix) :] not in present]:
            self._ledger.put(key, None)
        for tag in sorted(present):
            if tag not in self._rounds:
                stored = self._ledger.get(rounds_key(self._source, tag))
                swept = None if stored is None else decode_json(stored)["swept"]
                self._rounds.add(tag, swept, self._members(tag))
        held = self._ledger.member_tags(self._source)
        self._edges = sum(self._members(tag) for tag in held) - self._step.edges_moved
        self._orphans = [tag for tag in held if tag not in present]
        self._settle_mode()

    def _wake(self) -> None:
        """Readings that wait for the customers' own reading go on when that has come far enough."""
        reached = self._bulletin.caught_up[Collection.CUSTOMERS]
        for tag in [tag for tag, roll in self._waiting.items() if reached > roll.until]:
            del self._waiting[tag]
            self._rounds.go_on(tag)

    def _claim(self) -> None:
        """Everything up to this moment is in the ledger."""
        caught_up = self._bulletin.caught_up
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
        key, mode = cursor_key(self._source, self.collection), encode_json(FIRST if self._first else ROUND)
        if self._ledger.get(key) != mode:
            self._ledger.put(key, mode)

    # Asking.

    async def _hints(self) -> None:
        """Customers that changed are asked for their tags."""
        uids: list[str] = []
        while len(uids) < AT_ONCE and (uid := self._bulletin.take_hint()) is not None:
            uids.append(uid)
        self.status.mode = Path.POLL
        try:
            await self._ask(uids, Path.SNAPSHOT if self._first else Path.POLL, urgent=True)
        except SourceError:
            self._bulletin.hint(uids)
            raise

    async def _probe(self, tag: str) -> None:
        self.status.mode = Path.POLL
        theirs: int | None = None
        with contextlib.suppress(RequestRefused):  # as for a tag that is about to go; its reading will tell
            theirs = await self._asked(self._reader.count(tag))
        self._spent(1)
        if tag in self._rounds:
            self._rounds.counted(tag, self._now(), Count(self._members(tag), theirs))

    async def _read_on(self, tag: str) -> None:
        """The next piece of a reading."""
        self.status.mode = self._path
        roll = self._rolls.get(tag)
        if roll is None or self._waiting.pop(tag, None) is not None:
            # Also one that has waited too long: what else happens to its tag must not wait with it.
            roll = self._rolls[tag] = Roll(tag)
        if roll.ask:
            await self._ask_some(roll)
        elif not roll.ended:
            await self._read_page(roll)
        if self._rolls.get(tag) is roll and roll.ended and not roll.ask:
            await self._conclude(roll)

    async def _read_page(self, roll: Roll) -> None:
        await self._ledger.wait_room()
        self._spent(1)
        try:
            page = await self._asked(self._reader.members(roll.tag, roll.place))
        except Unforeseen:
            raise
        except (CursorRejected, Malformed, RequestRefused) as error:
            roll.tries += 1
            if isinstance(error, Malformed) and roll.tries < PAGE_TRIES_MAX:
                raise  # once more, after a pause
            self._void(roll, str(error))
            return
        if self._rolls.get(roll.tag) is roll:
            self._take(roll, page)

    def _take(self, roll: Roll, page: MemberPage) -> None:
        """Who is shown is a member; who may be shown for another reason is asked."""
        uids = [*page.shown, *page.doubtful]
        known = {document.uid for document in self._step.known(Collection.CUSTOMERS, uids)}
        roll.take(page)
        moved = self._absorb([EdgeMove(uid, roll.tag, True) for uid in page.shown if uid in known], self._path)
        roll.strangers |= dict.fromkeys(uid for uid in uids if uid not in known)
        roll.ask |= dict.fromkeys(uid for uid in page.doubtful if uid in known)
        self._metrics.documents_read(self._source, self.collection, len(uids))
        self._metrics.documents_unchanged(self._source, self.collection, len(uids) - moved)
        if roll.open > OPEN_MAX:
            self._void(roll, "too many customers of the tag are not known yet")

    async def _ask_some(self, roll: Roll) -> None:
        """Some of those whose own tags decide."""
        uids = list(roll.ask)[:AT_ONCE]
        self._spent(2 * len(uids))
        said = await self._ask(uids, self._path, roll.ask)
        roll.since = self._clock.wall()
        # Also those who are gone: they may have lost the tag before, and keep it until their deletion is told.
        roll.unsure |= {uid: None for uid, answer in said.items() if answer in (Untold.NOT_NOW, Untold.GONE)}

    async def _ask(
        self, uids: Sequence[str], path: Path, queue: dict[str, None] | None = None, *, urgent: bool = False
    ) -> dict[str, Answer]:
        """The customers' own tags, and what they mean is written. What was answered before a failure counts all the
        same, and leaves the queue; the failure is raised behind it."""
        await self._ledger.wait_room()
        known = self._step.known(Collection.CUSTOMERS, uids)
        said: dict[str, Answer] = {}
        failures: list[SourceError] = []

        async def ask(document: Document) -> None:
            try:
                said[document.uid] = await self._asked(self._reader.tags(document, urgent=urgent))
            except SourceError as error:
                failures.append(error)

        async with asyncio.TaskGroup() as group:
            for document in known:
                group.create_task(ask(document), name="ask for a customer's tags")
        self._learn(said, path)
        if queue is not None:
            unanswered = {document.uid for document in known} - said.keys()
            for uid in uids:
                if uid not in unanswered:
                    queue.pop(uid, None)
        if failures:
            raise failures[0]
        return said

    def _learn(self, said: Mapping[str, Answer], path: Path) -> None:
        """What customers say of themselves."""
        moves: list[EdgeMove] = []
        for document in self._step.known(Collection.CUSTOMERS, list(said)):
            tags = said[document.uid]
            if isinstance(tags, Untold):
                continue
            moves += edges.moved(document.uid, edges.tags_of(document.body), tags)
            for tag in tags:
                if (roll := self._rolls.get(tag)) is not None:
                    roll.note(document.uid)
        self._absorb(moves, path)

    def _absorb(self, moves: Sequence[EdgeMove], path: Path) -> int:
        moved = self._step.absorb_edges(moves, path) if moves else 0
        if moved:
            self._ledger.open.documents[self._source, self.collection] = self.documents
        return moved

    # What a reading amounts to.

    async def _conclude(self, roll: Roll) -> None:
        """The list is through, and everyone who was to be asked has answered."""
        members = self._members(roll.tag)
        if not roll.judged:
            roll.judge(self._ledger.members(self._source, roll.tag))
            if not roll.few(members) and not roll.proven and roll.passes < PASSES_MAX:
                roll.again()
                return
        if roll.missing:
            if not roll.few(members) and not self._customers_beyond(roll, roll.since + LATE_S):
                return
            await self._decide(roll, members)
        if roll.ask or self._rolls.get(roll.tag) is not roll:
            return
        if roll.open:
            self._look_at_open(roll)
        if not roll.ask and not roll.open and self._rolls.get(roll.tag) is roll:
            self._complete(roll)

    async def _decide(self, roll: Roll, members: int) -> None:
        """About those who are missing: by their own word, or by the list that was exact twice."""
        missing = list(roll.missing or ())
        if not roll.proven or roll.few(members):
            roll.ask, roll.missing = dict.fromkeys(missing), {}
            return
        sample = {missing[int(self._spread() * len(missing))] for _ in range(SAMPLE)}
        self._spent(2 * len(sample))
        said = await self._ask(sorted(sample), self._path)
        if any(not isinstance(answer, Untold) and roll.tag in answer for answer in said.values()):
            self._void(roll, "its list does not show customers who have the tag", PARKED_RETRY_S)
            return
        missing, roll.missing = list(roll.missing or ()), {}
        if any(isinstance(answer, Untold) for answer in said.values()):
            roll.ask = dict.fromkeys(missing)  # some may be gone rather than untagged: only their own word counts
            return
        for first in range(0, len(missing), CHUNK):
            await self._ledger.wait_room()
            self._absorb([EdgeMove(uid, roll.tag, False) for uid in missing[first : first + CHUNK]], self._path)

    def _look_at_open(self, roll: Roll) -> None:
        """Those who were not known, or could not be asked: once the customers' reading is beyond that, ask who is
        there. Who is not was refused, or is gone."""
        if not self._customers_beyond(roll, roll.since + (LATE_S if roll.unsure else 0.0)):
            return
        roll.waits += bool(roll.unsure)
        if roll.waits > WAITS_MAX:
            self._void(roll, "customers who may have lost the tag cannot be asked", PARKED_RETRY_S)
            return
        known = self._step.known(Collection.CUSTOMERS, [*roll.strangers, *roll.unsure])
        roll.ask = dict.fromkeys(document.uid for document in known)
        roll.strangers, roll.unsure = {}, {}

    def _customers_beyond(self, roll: Roll, moment: float) -> bool:
        """Whether the customers' own reading is; else the roll waits for it."""
        if self._bulletin.caught_up[Collection.CUSTOMERS] > moment:
            return True
        roll.until = moment
        self._waiting[roll.tag] = roll
        self._rounds.rest(roll.tag, self._now())
        return False

    def _complete(self, roll: Roll) -> None:
        """Every edge of the tag is as it was at some moment since the reading began."""
        assert roll.began is not None, "a list that is through was asked for"
        del self._rolls[roll.tag]
        self._rounds.read(roll.tag, self._now(), roll.began, roll.count(self._members(roll.tag)))
        self._ledger.put(rounds_key(self._source, roll.tag), encode_json({"swept": round(roll.began, 3)}))
        self._settle_mode()

    def _void(self, roll: Roll, reason: str, least_s: float = 0.0) -> None:
        """Nothing follows from who was missing; the tag is read again later."""
        self._rolls.pop(roll.tag, None)
        self._rounds.put_off(roll.tag, self._now(), self._spread(), least_s)
        if self._throttle.admit("void") is not None:
            log.warning("a tag's members cannot be read", source=self._source, tag=roll.tag, detail=reason)

    # Small things.

    @property
    def _path(self) -> Path:
        """What a reading of a tag is called."""
        return Path.SNAPSHOT if self._first else Path.SWEEP

    def _members(self, tag: str) -> int:
        return self._ledger.members_count(self._source, tag)

    def _spent(self, requests: int) -> None:
        self._rounds.spent(self._now(), requests)

    def _now(self) -> Now:
        return Now(self._clock.wall(), self._clock.monotonic())
