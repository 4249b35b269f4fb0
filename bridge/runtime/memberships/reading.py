"""TagReadings: the readings of tags' members that are under way, and what each amounts to.

`roll` says where a reading stands, `rounds` when it is its turn; here the pages are asked for, and what they show is
written. Called by the loop of memberships, one piece at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bridge.clock import Clock
from bridge.detect.edges import EdgeMove
from bridge.errors import CursorRejected, Malformed, RequestRefused, SourceError
from bridge.model import Cause, Collection, Path
from bridge.observability.logs import Throttle, get_logger
from bridge.observability.metrics import Metrics
from bridge.runtime.ledger import Ledger
from bridge.runtime.loop import SAY_AGAIN_S, Unforeseen
from bridge.runtime.memberships.asking import AT_ONCE, Answer, Asked, Asker
from bridge.runtime.memberships.bulletin import Bulletin
from bridge.runtime.memberships.roll import ASK_TRIES_MAX, OPEN_MAX, PAGE_TRIES_MAX, PASSES_MAX, WAITS_MAX, Roll
from bridge.runtime.memberships.rounds import Now, Rounds
from bridge.runtime.memberships.strip import CHUNK
from bridge.runtime.parking import PARKED_RETRY_S
from bridge.runtime.step import SourceStep
from bridge.source.memberships import MemberPage, PacedReader, Untold
from bridge.store.record import encode_json, rounds_key

SAMPLE = 5
"""Customers drawn from those that a list does not show any more, and asked one by one before the list is believed."""

LATE_S = 15.0
"""How long a deletion may take to become visible: a customer that is gone is not one that lost its tags."""

PROOF_S = 60.0
"""How far deletions that are being confirmed may lag behind the polls; those that are held for a person do for ever."""

log = get_logger(__name__)


class TagReadings:
    """Of one source during one opening of its shard."""

    def __init__(
        self,
        source: str,
        reader: PacedReader,
        asker: Asker,
        rounds: Rounds,
        step: SourceStep,
        ledger: Ledger,
        bulletin: Bulletin,
        asked: Asked,
        clock: Clock,
        metrics: Metrics,
        spread: Callable[[], float],
    ) -> None:
        """`spread`: a number in [0, 1); spaces attempts and draws samples."""
        self.path = Path.SNAPSHOT
        """What a reading is called."""
        self._source = source
        self._reader = reader
        self._asker = asker
        self._rounds = rounds
        self._step = step
        self._ledger = ledger
        self._bulletin = bulletin
        self._asked = asked
        self._clock = clock
        self._metrics = metrics
        self._spread = spread
        self._throttle = Throttle(SAY_AGAIN_S, clock)
        self._rolls: dict[str, Roll] = {}
        self._waiting: dict[str, Roll] = {}
        asker.noted = self._note

    def drop(self, tag: str) -> None:
        """The tag is gone."""
        self._rolls.pop(tag, None)
        self._waiting.pop(tag, None)

    def wake(self) -> None:
        """Readings that wait for the customers' own reading go on when that has come far enough."""
        for tag in [tag for tag, roll in self._waiting.items() if self._reached(roll) > roll.until]:
            del self._waiting[tag]
            self._rounds.go_on(tag)

    async def read_on(self, tag: str) -> None:
        """The next piece of a reading."""
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
        moved = self._asker.absorb(
            [EdgeMove(uid, roll.tag, True) for uid in page.shown if uid in known], Cause(self.path)
        )
        roll.strangers |= dict.fromkeys(uid for uid in uids if uid not in known)
        roll.ask |= dict.fromkeys(uid for uid in page.doubtful if uid in known)
        self._metrics.documents_read(self._source, Collection.MEMBERSHIPS, len(uids))
        self._metrics.documents_unchanged(self._source, Collection.MEMBERSHIPS, len(uids) - moved)
        if roll.open > OPEN_MAX:
            self._void(roll, "too many customers of the tag are not known yet")

    async def _ask_some(self, roll: Roll) -> None:
        """Some of those whose own tags decide."""
        uids = list(roll.ask)[:AT_ONCE]
        self._spent(2 * len(uids))
        said, failures = await self._asker.ask(uids, Cause(self.path), roll.ask)
        if self._rolls.get(roll.tag) is not roll:
            return
        roll.since = self._clock.wall()
        if any(_has(answer, roll.tag) for uid, answer in said.items() if uid in roll.accused):
            # A list that lacked one who has the tag may have lacked what nobody knows yet, too.
            self._void(roll, _LACKS)
            return
        # Also those who are gone: they may have lost the tag before, and keep it until their deletion is told.
        roll.unsure |= {uid: None for uid, answer in said.items() if answer in (Untold.NOT_NOW, Untold.GONE)}
        self._count_failures(roll, failures)

    def _count_failures(self, roll: Roll, failures: Mapping[str, SourceError]) -> None:
        """Raises one of them, unless each has failed so often that the customer counts as one who cannot be asked now:
        one odd customer must not keep its tag, and all tags behind it, from being read."""
        for uid in failures:
            roll.failed[uid] = roll.failed.get(uid, 0) + 1
        patient = {uid: error for uid, error in failures.items() if roll.failed[uid] < ASK_TRIES_MAX}
        for uid in failures.keys() - patient.keys():
            roll.ask.pop(uid, None)
            roll.unsure[uid] = None
        for error in patient.values():
            raise error

    # What a reading amounts to.

    async def _conclude(self, roll: Roll) -> None:
        """The list is through, and everyone who was to be asked has answered."""
        members = self._asker.members(roll.tag)
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
            roll.accused |= set(missing)
            roll.ask, roll.missing = dict.fromkeys(missing), {}
            return
        sample = {missing[int(self._spread() * len(missing))] for _ in range(SAMPLE)}
        self._spent(2 * len(sample))
        said, failures = await self._asker.ask(sorted(sample), Cause(self.path))
        if self._rolls.get(roll.tag) is not roll:
            return
        if any(_has(answer, roll.tag) for answer in said.values()):
            self._void(roll, _LACKS, PARKED_RETRY_S)
            return
        for error in failures.values():
            raise error
        missing = list(roll.missing or ())
        if any(isinstance(answer, Untold) for answer in said.values()):
            roll.accused |= set(missing)
            roll.ask, roll.missing = (
                dict.fromkeys(missing),
                {},
            )  # some may be gone rather than untagged: only their own word counts
            return
        for first in range(0, len(missing), CHUNK):
            await self._ledger.wait_room()
            chunk = missing[first : first + CHUNK]
            self._asker.absorb([EdgeMove(uid, roll.tag, False) for uid in chunk], Cause(self.path))
            for uid in chunk:  # a signal may end this between two chunks; what is left is then still missing
                (roll.missing or {}).pop(uid, None)

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
        if self._reached(roll) > moment:
            return True
        roll.until = moment
        self._waiting[roll.tag] = roll
        self._rounds.rest(roll.tag, self._now())
        return False

    def _reached(self, roll: Roll) -> float:
        """How far the customers' own reading is. For who cannot be asked, that is where its deletions are told too:
        he may be one of them."""
        read = self._bulletin.read[Collection.CUSTOMERS]
        if not roll.unsure:
            return read
        late = read - PROOF_S
        return max(self._bulletin.caught_up.get(Collection.CUSTOMERS, late), late)

    def _complete(self, roll: Roll) -> None:
        """Every edge of the tag is as it was at some moment since the reading began."""
        if not roll.whole:
            self._void(roll, "its list has rows that could be any customer", PARKED_RETRY_S)
            return
        assert roll.began is not None, "a list that is through was asked for"
        del self._rolls[roll.tag]
        self._rounds.read(roll.tag, self._now(), roll.began, roll.count(self._asker.members(roll.tag)))
        self._ledger.put(rounds_key(self._source, roll.tag), encode_json({"swept": round(roll.began, 3)}))

    def _void(self, roll: Roll, reason: str, least_s: float = 0.0) -> None:
        """Nothing follows from who was missing; the tag is read again later."""
        if self._rolls.get(roll.tag) is not roll:
            return  # forgotten meanwhile
        del self._rolls[roll.tag]
        self._rounds.put_off(roll.tag, self._now(), self._spread(), least_s)
        if self._throttle.admit("void") is not None:
            log.warning("a tag's members cannot be read", source=self._source, tag=roll.tag, detail=reason)

    def _note(self, customer: str, tags: frozenset[str]) -> None:
        """What a customer says of itself is newer than any page of a reading that is under way."""
        for tag in tags:
            if (roll := self._rolls.get(tag)) is not None:
                roll.note(customer)

    def _spent(self, requests: int) -> None:
        self._rounds.spent(self._now(), requests, self._reader.rate())

    def _now(self) -> Now:
        return Now(self._clock.wall(), self._clock.monotonic())


_LACKS = "its list does not show customers who have the tag"


def _has(answer: Answer, tag: str) -> bool:
    return not isinstance(answer, Untold) and tag in answer
