"""TagWork: a tag for many customers, or no more, slice by slice; and what is not seen at once is looked at again.

Repeating a slice is harmless: the commander writes only what is not so yet, or the provider passes over it. Which
slices are done is noted. Only what is *seen* afterwards counts as done: another writer may have been faster, or the
provider may take its time. Who looks may see edges that somebody else has moved; the cause of those is not the command.

Customers who are named by a value are looked up some at a time (`targets`), and noted before anything is done to them,
so that a crash repeats the slice with the same ones. However many they are, what is noted of them stays small.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bridge.clock import WAIT_S_MIN
from bridge.commands.command import Kind, Tagging
from bridge.commands.outcome import Result, Tally, Why
from bridge.detect.edges import EdgeMove
from bridge.errors import RetryLater, SourceError
from bridge.model import Cause, Collection, Document, Path
from bridge.runtime.commands.targets import Targets
from bridge.runtime.commands.work import Ended, Site
from bridge.runtime.schedule import Backoff
from bridge.source.commanding import Refused, TagAnswer, Tagged, TagsSeen
from bridge.source.memberships import Untold

CONFIRM_PAUSE_S_MAX = 15.0
"""Between two looks at what is not seen yet."""

PENDING_MAX = 8_000
"""Customers who are not seen yet before more are looked up: with `UIDS_MAX` of the longest uids a record has room."""

_SEEN = Cause(Path.POLL)

_WHY: Mapping[Untold, Why] = {Untold.GONE: Why.GONE, Untold.NEVER: Why.REFUSED, Untold.NOT_NOW: Why.FAILED}


class TagWork:
    """Implements `Work`."""

    def __init__(self, command: Tagging, site: Site) -> None:
        self._command = command
        self._site = site
        self._present = command.kind is Kind.TAG
        stored = site.queue.progress(command.id)
        fields = stored or {}
        self._begun = stored is not None
        self._tag: str = fields.get("tag") or command.tag or ""
        self._targets = Targets(command, fields)
        self._count: int = fields.get("count", 0)
        self._tally = Tally(fields.get("others"))
        self._said: str | None = fields.get("said")
        # Until when it has to be seen, wall clock.
        self._pending: dict[str, float] = {uid: until for until, uids in fields.get("pending", ()) for uid in uids}
        self._answers: dict[str, TagAnswer] = {}  # of the present slice
        self._pauses = Backoff()

    def await_again(self) -> None:
        """Some of it may be done already, by a life that could not look any more."""
        if self._begun:
            self._expect([*self._targets.slice(self._size), *self._pending])

    async def go_on(self, urgent: bool) -> Ended | None:
        """See `Work.go_on`."""
        if not self._begun:
            if (refused := self._find_tag()) is not None:
                return Ended(Result.REJECTED, refused)
            self._begun = True
            self._note()
            return None
        if self._targets.unknown and len(self._pending) < PENDING_MAX:
            await self._match()
        elif self._targets.left and not self._targets.unknown:
            await self._slice(urgent)
        elif self._pending:
            await self._confirm(urgent)
        return self._end()

    def give_up(self, said: str) -> Ended | None:
        """See `Work.give_up`. Where the provider has answered for nobody, it is not asked for those that follow."""
        self._said = self._said or said
        if not self._targets.left:
            self._leave(list(self._pending), Why.UNCONFIRMED)
            return self._end()
        if any(_settled(answer) for answer in self._answers.values()):
            uids = self._targets.slice(self._size)
            self._conclude([uid for uid in uids if uid in self._answers], {})
            self._tally.miss(Why.FAILED, [uid for uid in uids if uid not in self._answers])
            self._done(len(uids))
        else:
            self._abandon(Why.FAILED)
        return self._end()

    # Who is meant.

    async def _match(self) -> None:
        """Who has the next values."""
        field, values = self._targets.next_values(self._size)
        nobody, crowded = self._targets.matched(await self._site.matching(field, values, self._size))
        self._tally.miss(Why.UNMATCHED, nobody)
        self._tally.miss(Why.AMBIGUOUS, crowded)
        self._note()

    def _abandon(self, why: Why) -> None:
        """Nobody is done to any more."""
        self._tally.miss(why, self._targets.abandon())
        self._answers.clear()

    def _done(self, count: int) -> None:
        """With so many of the present slice, which are all."""
        self._targets.done(count)
        self._answers.clear()

    @property
    def _size(self) -> int:
        return self._site.commander.ways.customers_max

    # A slice.

    async def _slice(self, urgent: bool) -> None:
        if self._tag_is_missing():
            self._said = self._said or "the tag is gone"
            self._abandon(Why.REFUSED)
            self._note()
            return
        uids = self._targets.slice(self._size)
        known = self._site.known(Collection.CUSTOMERS, uids)
        todo = [document for uid, document in known.items() if not _settled(self._answers.get(uid))]
        if todo:
            self._expect(document.uid for document in todo)
            self._answers |= await self._set(todo, urgent)
        for answer in self._answers.values():
            if isinstance(answer, SourceError):
                raise answer
            if answer is Untold.NOT_NOW:
                raise RetryLater("the provider does not say which name a customer has")
        seen = await self._see([known[uid] for uid in known if isinstance(self._answers[uid], Tagged)], urgent)
        self._tally.miss(Why.UNKNOWN, [uid for uid in uids if uid not in known])
        self._conclude(list(known), seen)
        self._done(len(uids))
        self._note()

    def _conclude(self, uids: Sequence[str], seen: TagsSeen) -> None:
        """What became of customers that have an answer; what was not seen yet is waited for."""
        until = self._site.clock.wall() + self._command.confirm_within
        for uid in uids:
            answer = self._answers[uid]
            if isinstance(answer, Tagged):
                if self._shows(seen.get(uid)):
                    self._seen([uid])
                elif seen.get(uid) is Untold.GONE:
                    self._tally.miss(Why.GONE, [uid])
                else:
                    self._pending[uid] = until
            elif isinstance(answer, Untold):
                self._tally.miss(_WHY[answer], [uid])
                if answer is not Untold.NOT_NOW:
                    self._forget([uid])
            elif isinstance(answer, Refused):
                self._said = self._said or answer.said
                self._tally.miss(Why.REFUSED, [uid])
                self._forget([uid])
            else:
                self._tally.miss(Why.FAILED, [uid])

    # What was not seen.

    async def _confirm(self, urgent: bool) -> None:
        """Look once more at everything that is not seen yet, after a pause; what is late even then is given up."""
        self._pauses = self._pauses.failed()
        left_s = max(WAIT_S_MIN, min(self._pending.values()) - self._site.clock.wall())
        await self._site.clock.sleep(min(self._pauses.delay_s(0.0), CONFIRM_PAUSE_S_MAX, left_s))
        pending = list(self._pending)
        for at in range(0, len(pending), self._size):
            uids = pending[at : at + self._size]
            known = self._site.known(Collection.CUSTOMERS, uids)
            customers = list(known.values())
            if self._site.commander.ways.immediate and customers:
                # Somebody has written over it. Who is refused by now will not show it, so that is found as well.
                self._expect(known)
                await self._set(customers, urgent)
            seen = await self._see(customers, urgent)
            shown = [uid for uid in known if self._shows(seen.get(uid))]
            self._seen(shown)
            self._leave(shown, None)
            self._leave([uid for uid in uids if uid not in known or seen.get(uid) is Untold.GONE], Why.GONE)
        now = self._site.clock.wall()
        self._leave([uid for uid, until in self._pending.items() if until <= now], Why.UNCONFIRMED)
        self._note()

    def _leave(self, uids: Sequence[str], why: Why | None) -> None:
        for uid in uids:
            del self._pending[uid]
        if why is not None:
            self._tally.miss(why, uids)

    # Small things.

    async def _set(self, customers: Sequence[Document], urgent: bool) -> Mapping[str, TagAnswer]:
        return await self._site.commander.set_tag(customers, self._tag, self._present, urgent=urgent)

    async def _see(self, customers: Sequence[Document], urgent: bool) -> TagsSeen:
        return await self._site.tags(customers, _SEEN, urgent=urgent) if customers else {}

    def _shows(self, tags: frozenset[str] | Untold | SourceError | None) -> bool:
        return isinstance(tags, frozenset) and (self._tag in tags) is self._present

    def _seen(self, uids: Sequence[str]) -> None:
        """They are as they shall be; whoever does it again is somebody else."""
        self._count += len(uids)
        self._forget(uids)

    def _forget(self, uids: Iterable[str]) -> None:
        self._site.step.awaited.forget(self._moves(uids))

    def _expect(self, uids: Iterable[str]) -> None:
        self._site.step.awaited.expect(self._command.id, self._moves(uids))

    def _moves(self, uids: Iterable[str]) -> list[EdgeMove]:
        return [EdgeMove(uid, self._tag, self._present) for uid in uids]

    def _find_tag(self) -> str | None:
        """Why there is no such tag; None when there is. Raises `NotYet` before tags have been read."""
        name = self._command.tag_name
        if name is None:
            return "the bridge knows no such tag" if self._tag_is_missing() else None
        # Where tags are not read nobody knows their names.
        found = self._site.tags_named(name) if Collection.TAGS in self._site.readings else [name]
        if len(found) != 1:
            return "several tags have this name" if found else "the bridge knows no tag of this name"
        [self._tag] = found
        return None

    def _tag_is_missing(self) -> bool:
        """Where tags are read. Raises `NotYet` before they are."""
        if Collection.TAGS not in self._site.readings:
            return False
        return not self._site.known(Collection.TAGS, [self._tag])

    def _note(self) -> None:
        pending: dict[float, list[str]] = {}
        for uid, until in self._pending.items():
            pending.setdefault(until, []).append(uid)
        progress = {
            "tag": self._tag,
            **self._targets.stored,
            "count": self._count,
            "others": self._tally.stored,
            "pending": list(pending.items()),
            "said": self._said,
        }
        self._site.note(self._command.id, progress)

    def _end(self) -> Ended | None:
        if self._targets.left or self._pending:
            return None
        have = "have the tag" if self._present else "do not have the tag"
        detail = f"{self._count} of {self._targets.total} customers {have}" + (f"; {self._said}" if self._said else "")
        return Ended(self._tally.result(self._count), detail, self._count, self._tally.others)


def _settled(answer: TagAnswer | None) -> bool:
    """Whether asking again would bring nothing new."""
    return answer is not None and answer is not Untold.NOT_NOW and not isinstance(answer, SourceError)
