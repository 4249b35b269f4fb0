"""RefreshWork: documents are read again at once. Repeating it is harmless: it only reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bridge.commands.command import Refresh
from bridge.commands.outcome import Tally, Why
from bridge.errors import SourceError
from bridge.model import Collection, Document
from bridge.runtime.commands.work import Ended, Site
from bridge.source.memberships import Untold

AT_ONCE = 50
"""Documents that are read in one piece; some seconds of most budgets."""


class RefreshWork:
    """Implements `Work`. After a crash it begins anew."""

    def __init__(self, command: Refresh, site: Site) -> None:
        self._command = command
        self._site = site
        self._left = list(dict.fromkeys(command.uids))
        self._total = len(self._left)
        self._tally = Tally()
        self._seen = 0

    async def go_on(self, urgent: bool) -> Ended | None:
        """See `Work.go_on`."""
        if self._left:
            uids = self._left[:AT_ONCE]
            memberships = self._command.collection is Collection.MEMBERSHIPS
            known = self._site.known(Collection.CUSTOMERS if memberships else self._command.collection, uids)
            seen = await self._read(list(known.values()), urgent)
            told = [uid for uid in known if uid in seen]
            gone = [uid for uid in told if seen[uid] is False]
            self._tally.miss(Why.UNKNOWN, [uid for uid in uids if uid not in known])
            self._tally.miss(Why.UNCONFIRMED, [uid for uid in known if uid not in seen])
            self._tally.miss(Why.GONE, gone)
            self._seen += len(told) - len(gone)
            self._left = self._left[AT_ONCE:]
        return None if self._left else self._ended("")

    def give_up(self, said: str) -> Ended:
        """See `Work.give_up`."""
        self._tally.miss(Why.FAILED, self._left)
        return self._ended(f"; {said}")

    async def _read(self, known: Sequence[Document], urgent: bool) -> Mapping[str, bool]:
        """Of those that the provider says something about, whether they are there."""
        if not known:
            return {}
        if self._command.collection is not Collection.MEMBERSHIPS:
            found = await self._site.look(self._command.collection, known, self._command.id)
            return {uid: isinstance(fate, Document) for uid, fate in found.items()}
        seen = await self._site.tags(known, self._command.id, urgent=urgent)
        for answer in seen.values():
            if isinstance(answer, SourceError):
                raise answer
        # One that has left the state meanwhile was not asked.
        here = {document.uid: document.uid in seen for document in known}
        return {
            uid: there and seen[uid] is not Untold.GONE for uid, there in here.items() if seen.get(uid) not in _SILENT
        }

    def _ended(self, said: str) -> Ended:
        detail = f"{self._seen} of {self._total} documents were read again{said}"
        return Ended(self._tally.result(self._seen), detail, self._seen, self._tally.others)


_SILENT = (Untold.NOT_NOW, Untold.NEVER)
