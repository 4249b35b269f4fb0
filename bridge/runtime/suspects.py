"""Suspects: the documents of one feed that seem to be gone, from the first sign of it until they are deleted or found.

A sign is a tombstone, or the absence from a complete reading. What follows is the same for both:

    noted ──(its reading has come to its end: few of them)──► free ──(a second read says so too)──► deleted
      │                                                        ▲  └───(it is there)──► forgotten
      └────(too many of them at once)──► held ──(a person)─────┘
                                           └───(shown again)──► forgotten

How many there are is known only at the end of a reading, so nothing is decided before. Each of them is a record of the
state topic, written with the page that showed it: a process that dies in the middle of a reading, or while a person
thinks, forgets none. While some are held, new ones are held with them.

Where a list lags behind single reads, it goes on showing as alive who is deleted already. Whose tombstone was found by
such a read is remembered as `buried` for some time: a copy from before the tombstone brings nobody back.

Belongs to one opening of a shard, like the ledger it writes into. Everything here is synchronous.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from itertools import islice
from typing import NamedTuple

from bridge.detect.scan import DeleteLimit
from bridge.model import Collection, Document, Gone, Path
from bridge.runtime.ledger import Ledger
from bridge.store.record import decode_json, encode_json, suspect_key


class Stage(StrEnum):
    """See the diagram in the module's docstring."""

    NOTED = "noted"
    HELD = "held"
    FREE = "free"
    BURIED = "buried"


BURIED_S = 600.0
"""Seconds for which a list may go on showing who is deleted; Dintero's may lag by some seconds."""

BURIED_MAX = 10_000
"""Of more than that the oldest are forgotten: a hundred bytes of state each."""


class Suspect(NamedTuple):
    """by: the reading that gave the sign, POLL or SWEEP; also the cause of the deletion.

    at: when the provider says that it was deleted, microseconds since 1970; 0 for one that is merely absent, or when
    the provider does not say. absent: no tombstone was shown. since: wall-clock seconds of the first sign, or of the
    deletion once it is buried.
    """

    stage: Stage
    by: Path
    at: int
    absent: bool
    since: float


class Suspects:
    """See the module."""

    def __init__(self, source: str, collection: Collection, ledger: Ledger, limit: DeleteLimit) -> None:
        self._source = source
        self._collection = collection
        self._ledger = ledger
        self._limit = limit
        self._by_uid: dict[str, Suspect] = {}
        self._buried: dict[str, Suspect] = {}  # the oldest first, but for those of an earlier life
        self._held = 0
        prefix = suspect_key(source, collection, "")
        keys = list(ledger.keys(prefix))
        for key, value in ledger.get_many(keys).items():
            self._keep(key[len(prefix) :], decode_suspect(value))

    @property
    def any(self) -> bool:
        """Whether something is not decided yet, so that not everything is published."""
        return bool(self._by_uid)

    @property
    def held(self) -> int:
        """How many wait for a person."""
        return self._held

    @property
    def uids(self) -> list[str]:
        """All of them."""
        return list(self._by_uid)

    def held_uids(self, most: int) -> list[str]:
        """Some of those that are held, the first in order."""
        return sorted(uid for uid, suspect in self._by_uid.items() if suspect.stage is Stage.HELD)[:most]

    def bury(self, gone: Gone, by: Path, now: float) -> None:
        """It is deleted, as its tombstone says; now: wall-clock seconds."""
        self._put(gone.uid, Suspect(Stage.BURIED, by, gone.at, absent=False, since=now))
        while len(self._buried) > BURIED_MAX:
            self.forget([next(iter(self._buried))])

    def older_than_tombstone(self, documents: Iterable[Document]) -> set[str]:
        """Uids of copies from before the tombstone of one that is buried; no news of it."""
        buried = self._buried
        if not buried:
            return set()
        return {one.uid for one in documents if one.uid in buried and one.version <= buried[one.uid].at}

    def note(self, uid: str, by: Path, at: int, *, absent: bool, now: float) -> None:
        """A sign. A tombstone says more than an absence; apart from that the first sign counts."""
        known = self._by_uid.get(uid)
        if known is None:
            self._put(uid, Suspect(Stage.NOTED, by, at, absent, now))
        elif known.absent and not absent:
            self._put(uid, known._replace(at=at, absent=False))

    def seen(self, uid: str, version: int) -> None:
        """The document was shown. A copy from before the tombstone says nothing."""
        suspect = self._by_uid.get(uid)
        if suspect is not None and (suspect.absent or version > suspect.at):
            self.forget([uid])

    def decide(self, by: Path, known: int, now: float) -> int:
        """A reading has come to its end: let go or hold what it noted; how many are held.

        known: documents of the collection, those that seem to be gone included. now: wall-clock seconds.
        """
        self.forget([uid for uid, suspect in self._buried.items() if suspect.since + BURIED_S < now])
        noted = [
            (uid, suspect) for uid, suspect in self._by_uid.items() if suspect.stage is Stage.NOTED and suspect.by is by
        ]
        if not noted:
            return self._held
        stage = Stage.HELD if self._held or self._limit.holds(len(noted), known) else Stage.FREE
        for uid, suspect in noted:
            self._put(uid, suspect._replace(stage=stage))
        return self._held

    def approve(self) -> int:
        """A person lets go what is held; how many."""
        held = [(uid, suspect) for uid, suspect in self._by_uid.items() if suspect.stage is Stage.HELD]
        for uid, suspect in held:
            self._put(uid, suspect._replace(stage=Stage.FREE))
        return len(held)

    def free(self, most: int) -> dict[str, Suspect]:
        """Some of those that may be deleted once a second read confirms it."""
        return dict(
            islice(((uid, suspect) for uid, suspect in self._by_uid.items() if suspect.stage is Stage.FREE), most)
        )

    def postpone(self, uids: Iterable[str]) -> None:
        """They are the last to be asked about again."""
        for uid in uids:
            self._by_uid[uid] = self._by_uid.pop(uid)

    def forget(self, uids: Iterable[str]) -> None:
        """They are deleted, or there after all, or buried for long enough."""
        for uid in uids:
            suspect = self._by_uid.pop(uid, None) or self._buried.pop(uid, None)
            if suspect is not None:
                self._held -= suspect.stage is Stage.HELD
                self._ledger.put(suspect_key(self._source, self._collection, uid), None)

    def _put(self, uid: str, suspect: Suspect) -> None:
        self._keep(uid, suspect)
        fields = {**suspect._asdict(), "stage": suspect.stage.value, "by": suspect.by.value}
        self._ledger.put(suspect_key(self._source, self._collection, uid), encode_json(fields))

    def _keep(self, uid: str, suspect: Suspect) -> None:
        known = self._by_uid.pop(uid, None)
        self._buried.pop(uid, None)
        self._held += (suspect.stage is Stage.HELD) - (known is not None and known.stage is Stage.HELD)
        (self._buried if suspect.stage is Stage.BURIED else self._by_uid)[uid] = suspect


def decode_suspect(value: bytes) -> Suspect:
    """A record of the state topic, as the key says."""
    fields = decode_json(value)
    return Suspect(Stage(fields["stage"]), Path(fields["by"]), fields["at"], fields["absent"], fields["since"])
