"""RefreshWork: documents are read again at once. Repeating it is harmless: it only reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bridge.commands.command import Refresh
from bridge.commands.outcome import Tally, Why
from bridge.errors import RetryLater, SourceError
from bridge.model import Cause, Collection, Document, Path
from bridge.runtime.commands.work import Ended, Site
from bridge.source.memberships import Untold

AT_ONCE = 50
"""Documents that are read in one piece; some seconds of most budgets."""


class RefreshWork:
    """Implements `Work`. After a crash it begins anew."""

    def __init__(self, command: Refresh, site: Site) -> None:
        self._command = command
        self._site = site
        self._begun = site.queue.progress(command.id) is not None
        self._left = list(dict.fromkeys(command.uids))
        self._total = len(self._left)
        self._piece: list[str] = []  # of those that are left, the ones being read
        self._told = False  # whether the provider has said something about one of the piece
        self._failed = False  # whether it has not, about one at least
        self._tally = Tally()
        self._seen = 0

    async def go_on(self, urgent: bool) -> Ended | None:
        """See `Work.go_on`."""
        if not self._begun:
            self._begun = True
            self._site.note(self._command.id, {})
            return None
        if not self._piece:
            self._piece, self._told, self._failed = self._left[:AT_ONCE], False, False
        collection = self._command.collection
        of = Collection.CUSTOMERS if collection is Collection.MEMBERSHIPS else collection
        known = self._site.known(of, self._piece)
        self._settle([uid for uid in self._piece if uid not in known], Why.UNKNOWN)
        if collection is Collection.MEMBERSHIPS:
            await self._read_tags(list(known.values()), urgent)
        else:
            await self._read(list(known.values()))
        if self._piece:
            raise RetryLater(f"the provider says nothing about {len(self._piece)} documents")
        return None if self._left else self._ended("")

    def give_up(self, said: str) -> Ended | None:
        """See `Work.give_up`. Where the provider has said something it may say more, about those that follow."""
        self._settle(list(self._piece) if self._told else list(self._left), Why.FAILED)
        return None if self._left else self._ended(f"; {said}")

    async def _read(self, known: Sequence[Document]) -> None:
        """All at once, or one by one where that was in vain, because one failure ends a look at many."""
        asked = [[document] for document in known] if self._failed else [known] if known else []
        for some in asked:
            self._failed = True  # until it has not; and those who are asked now come last then
            self._piece = [*(uid for uid in self._piece if uid != some[0].uid), some[0].uid]
            found = await self._site.look(self._command.collection, some, self._command.id)
            self._told = self._told or bool(found)
            for document in some:
                fate = found.get(document.uid)
                if isinstance(fate, Document):  # one that comes back as it was given was not to be read
                    self._settle([document.uid], Why.UNCONFIRMED if fate is document else None)
                elif fate is not None:
                    self._settle([document.uid], Why.GONE)
            self._failed = len(found) < len(some)

    async def _read_tags(self, known: Sequence[Document], urgent: bool) -> None:
        if not known:
            return
        seen = await self._site.tags(known, Cause(Path.COMMAND, self._command.id), urgent=urgent)
        failures = [answer for answer in seen.values() if isinstance(answer, SourceError)]
        self._told = self._told or len(failures) < len(seen)
        for document in known:
            answer = seen.get(document.uid, Untold.GONE)  # one that has left the state meanwhile was not asked
            if isinstance(answer, Untold):
                self._settle([document.uid], _WHY[answer])
            elif not isinstance(answer, SourceError):
                self._settle([document.uid], None)
        for failure in failures:
            raise failure

    def _settle(self, uids: Sequence[str], why: Why | None) -> None:
        """They are read, or why not."""
        if why is None:
            self._seen += len(uids)
        else:
            self._tally.miss(why, uids)
        gone = set(uids)
        self._piece = [uid for uid in self._piece if uid not in gone]
        self._left = [uid for uid in self._left if uid not in gone]

    def _ended(self, said: str) -> Ended:
        detail = f"{self._seen} of {self._total} documents were read again{said}"
        return Ended(self._tally.result(self._seen), detail, self._seen, self._tally.others)


_WHY: Mapping[Untold, Why] = {
    Untold.GONE: Why.GONE,
    Untold.NEVER: Why.UNCONFIRMED,
    Untold.NOT_NOW: Why.UNCONFIRMED,
}
