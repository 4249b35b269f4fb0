"""Checker: state records and events in, verdict out. Pure: no Kafka, no clock, no waiting.

It is fed in this order, each step as often as there are records:

    restored(key, value)     what a restore brings, up to a cut per state partition
    state(key, value)        the state topic read plainly, up to the same cut
    moved(key, value)        state records behind the cut
    truncated()              retention has cut off the beginning of some event partition
    event(…)                 events, per partition in order of offset; more `moved` may come in between
    pending, verdict

**Why the state comes first.** Events, state and the source's counters are in one transaction, so a state partition
read up to its last stable offset is what it was after some transaction T, and its counters say N, the number of T's
last event. T is decided when its state can be seen, but each partition learns of the commit by a marker of its own:
T's events may become visible a little later, never not at all. So the events 1…N are waited for, those beyond N
belong to later transactions and are left out, and what the events 1…N add up to must be exactly the state at the cut,
however much the bridge has published meanwhile. The other way round, an event that can be seen belongs to a decided
transaction, so counters that never arrive at its number are behind: `pending` says what is still to be waited for.

**Retention.** Events leave their topics after a time. Where a partition no longer begins at offset 0, numbers that
are missing before the first event younger than the retention are history, not a break, and are counted in a note.
"""

from __future__ import annotations

from typing import NamedTuple

from bridge.errors import StateLost
from bridge.model import Collection, split_key
from bridge.store.record import Counters, counters_key, decode_counters, decode_record
from bridge.verify.event import NotAnEvent, Recorded, SeenEvent, decode
from bridge.verify.judge import Evidence, judge
from bridge.verify.tables import KeyTable, Mark, SourceTable, WaitingPrior, digest, document_digest
from bridge.verify.verdict import Invariant, Verdict, printable

_DOCUMENTS = frozenset(Collection)


class Place(NamedTuple):
    """Where and when an event was read."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


class Pending(NamedTuple):
    """missing: numbers up to N that were not seen. lagging: sources with events beyond the newest counters."""

    missing: int
    lagging: int


class Checker:
    """See the module. Used once.

    source: look at this source only. old_ms: retention may have removed events up to this record time; None when it
    is not known, so that any event may be gone where a partition is truncated.
    """

    def __init__(self, source: str | None = None, old_ms: int | None = None) -> None:
        self._only = None if source is None else f"{source}/"
        self._old_ms = old_ms
        self._keys = KeyTable()
        self._sources: dict[str, SourceTable] = {}
        self._priors: list[WaitingPrior] = []
        self._evidence = Evidence(self._keys, self._sources, self._priors)
        self._verdict = Verdict([Invariant.EXACT, Invariant.SEQUENCE, Invariant.ATOMIC])
        self._places: dict[tuple[str, int], int] = {}
        self._runs: dict[int, tuple[int, int]] = {}  # partition → first and last offset of a run without holes

    def restored(self, key: str, value: bytes | None) -> None:
        """What the restore set (bytes) or removed (None)."""
        self._evidence.restored = True
        if not self._concerned(key):
            return
        keys, row = self._keys, self._keys.row(key)
        if value is None:
            keys.marks[row] &= ~Mark.RESTORED
            return
        keys.marks[row] |= Mark.RESTORED
        keys.restored_raw[row] = digest(value)
        counted = self._counted(key, value)
        if counted is not None:
            counted[0].restored = counted[1]
        keys.restored_sequence[row], keys.restored_document[row] = self._document(key, row, value, silent=True)

    def state(self, key: str, value: bytes | None) -> None:
        """A record of the state topic before the cut."""
        if not self._concerned(key):
            return
        keys, row = self._keys, self._keys.row(key)
        if value is None:
            keys.marks[row] &= ~Mark.STATE
            return
        keys.marks[row] |= Mark.STATE
        keys.state_raw[row] = digest(value)
        counted = self._counted(key, value)
        if counted is not None:
            counted[0].counters = counted[1]
        keys.state_sequence[row], keys.state_document[row] = self._document(key, row, value)

    def moved(self, key: str, value: bytes | None) -> None:
        """A record of the state topic behind the cut: only the counters' progress is of interest."""
        if not self._concerned(key):
            return
        row = self._keys.row(key)
        first = not self._keys.marks[row] & Mark.MOVED
        self._keys.marks[row] |= Mark.MOVED
        counted = self._counted(key, value)
        if counted is not None:
            source, counters = counted
            source.later = max(source.later, counters.sequence)
            if first and source.restored is not None and not source.log.count:
                source.counters = source.restored

    def truncated(self) -> None:
        """Some event partition no longer has its beginning."""
        self._evidence.truncated = True

    def event(self, place: Place, record: Recorded) -> None:
        """The next event of a partition."""
        if self._only is not None and not (record.key or b"").startswith(self._only.encode()):
            return
        number, run_start = self._run(place)
        try:
            event = decode(record)
            if not place.topic.endswith(f".{_topic_of(event.collection)}"):
                raise NotAnEvent("its collection does not belong to this topic")
        except NotAnEvent as error:
            where = f"{place.topic}-{place.partition}@{place.offset}"
            self._verdict.add(Invariant.SEQUENCE, "malformed", f"the record at {where} is no event: {error}")
            return
        source = self._source(event.source)
        source.highest = max(source.highest, event.sequence)
        if event.sequence <= source.last:
            self._within(event, source, place, number, run_start)

    def pending(self) -> Pending:
        """What a reader of a living bridge has to wait for before the verdict is fair."""
        missing = sum(
            last - first + 1
            for source in self._sources.values()
            if source.log.count < source.last
            for first, last in source.log.gaps(source.last)
            if not self._evidence.excused(source, first)
        )
        return Pending(missing, sum(source.lags() for source in self._sources.values()))

    def verdict(self) -> Verdict:
        """Judge what is only known at the end. Called once."""
        judge(self._evidence, self._verdict)
        return self._verdict

    def _concerned(self, key: str) -> bool:
        return self._only is None or key.startswith(self._only)

    def _source(self, name: str) -> SourceTable:
        source = self._sources.get(name)
        if source is None:
            source = self._sources[name] = SourceTable()
        return source

    def _counted(self, key: str, value: bytes | None) -> tuple[SourceTable, Counters] | None:
        """Source and counters, when this is the record of the counters."""
        name = key.partition("/")[0]
        if key != counters_key(name):
            return None
        try:
            return self._source(name), decode_counters(value)
        except StateLost as error:
            self._verdict.add(Invariant.ATOMIC, "unreadable", f"the counters of {printable(name)}: {error}")
            return None

    def _document(self, key: str, row: int, value: bytes, *, silent: bool = False) -> tuple[int, int]:
        """Number and document of a state record; zeros when it is not a document's. silent: of a restored copy."""
        if not _is_document(key):
            return 0, 0
        self._keys.marks[row] |= Mark.DOCUMENT
        try:
            record = decode_record(value)
        except StateLost as error:
            if not silent:
                self._verdict.add(Invariant.EXACT, "unreadable", f"the state of {printable(key)}: {error}")
            return 0, 0
        return record.sequence, document_digest(record.document)

    def _run(self, place: Place) -> tuple[int, int]:
        """Number of the partition, and the offset since which no offset was left out."""
        number = self._places.setdefault((place.topic, place.partition), len(self._places) + 1)
        start, end = self._runs.get(number, (place.offset, place.offset - 1))
        if place.offset != end + 1:
            start = place.offset
        self._runs[number] = (start, place.offset)
        return number, start

    def _within(self, event: SeenEvent, source: SourceTable, place: Place, number: int, run_start: int) -> None:
        keys = self._keys
        row = keys.row(event.state_key)
        keys.marks[row] |= Mark.DOCUMENT
        if not source.log.put(event.sequence, digest(event.id.encode()), row):
            self._say(Invariant.SEQUENCE, "doubled", event, "its number was used before")
            return
        if self._old_ms is None or place.timestamp_ms <= self._old_ms:
            source.old = max(source.old, event.sequence)
        source.deleted += event.after is None
        if keys.place[row] not in (0, number):
            self._say(Invariant.SEQUENCE, "partition", event, "its key was in another partition before")
        elif event.sequence < keys.fold_sequence[row]:
            self._say(Invariant.SEQUENCE, "order", event, f"it comes after number {keys.fold_sequence[row]} of its key")
        keys.place[row] = number
        if event.sequence > keys.fold_sequence[row]:
            self._chain(event, row, run_start)
            self._fold(event, row, place.offset)

    def _chain(self, event: SeenEvent, row: int, run_start: int) -> None:
        """The event against what its key's events added up to so far."""
        keys = self._keys
        last = keys.fold_sequence[row]
        alive = keys.marks[row] & Mark.ALIVE
        wanted = last if alive else 0
        if event.prior == wanted:
            if alive and event.verb != "snapshot" and document_digest(event.before) != keys.fold_document[row]:
                text = f"its `before` is not the `after` of number {last}"
                self._say(Invariant.EXACT, "before", event, text)
            elif last and not alive and keys.fold_document[row] >= run_start:
                # Between two transactions there is a commit marker, which takes an offset.
                self._say(Invariant.ATOMIC, "after_deleted", event, f"same transaction as the deletion, number {last}")
        elif last < event.prior < event.sequence:
            self._priors.append(WaitingPrior(event.source, event.sequence, event.prior, row))
        else:
            self._say(Invariant.SEQUENCE, "prior", event, f"`prior` is {event.prior} instead of {wanted}")

    def _fold(self, event: SeenEvent, row: int, offset: int) -> None:
        keys = self._keys
        keys.fold_sequence[row] = event.sequence
        if event.after is None:
            keys.marks[row] &= ~Mark.ALIVE
            keys.fold_document[row] = offset
        else:
            keys.marks[row] |= Mark.ALIVE
            keys.fold_document[row] = document_digest(event.after)

    def _say(self, invariant: Invariant, kind: str, event: SeenEvent, text: str) -> None:
        key = printable(event.state_key)
        self._verdict.add(invariant, kind, f"event {event.sequence} of {key} ({printable(event.type)}): {text}")


def _is_document(key: str) -> bool:
    try:
        _, collection, _ = split_key(key)
    except ValueError:
        return False
    return collection in _DOCUMENTS


def _topic_of(collection: str) -> str:
    """Last part of the topic's name; memberships travel with customers."""
    return Collection.CUSTOMERS if collection == Collection.MEMBERSHIPS else collection
