"""Step: one page of one feed, or some moves of edges → events, state, dead letters and cursor, in the ledger.

Synchronous from the first look-up to the last record, so a step is in one batch as a whole and two feeds of a source
never take the same sequence number. Nothing here talks to Kafka or to a provider.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial

import orjson

from bridge.clock import Clock
from bridge.detect import edges
from bridge.detect.diff import Change, detect
from bridge.detect.edges import EdgeMove
from bridge.event.catalog import MERGED, TAGGED, UNTAGGED, EventType, classify
from bridge.event.envelope import EventBuilder, Position, TagName
from bridge.model import Body, Cause, Collection, Document, Fate, Gone, Merged, Path, Told, key_of
from bridge.publish.topics import TopicPlan
from bridge.publish.transaction import Record, record_bytes
from bridge.runtime.awaited import Awaited
from bridge.runtime.control import control_key
from bridge.runtime.joins import Joins
from bridge.runtime.ledger import Ledger, Published
from bridge.runtime.mirrors import MirrorRule, Mirrors
from bridge.runtime.rebase import Window, unpublished
from bridge.runtime.refusals import Refusals
from bridge.runtime.sweep import AT_ONCE, joined, owes, parted
from bridge.runtime.told import ToldTags
from bridge.source.feed import Cursor, Page, without_etag
from bridge.store.record import (
    ESSENCE_FIRST,
    Counters,
    StateRecord,
    counters_key,
    cursor_key,
    decode_counters,
    decode_json,
    decode_record,
    encode_counters,
    encode_json,
    encode_record,
    essence_key,
    rounds_key,
)

HEADERS_BYTES_MAX = 1024
"""Of an event on the wire without value and key; the key is in it four times at most. Spares the exact sum."""

_UNKNOWN = StateRecord(None, 0, 0)


class _Fate(Enum):
    """What a copy of a document came to. TOUCHED: nothing that counts is new but its time. IGNORED: it is older than
    what is known, or cannot be published."""

    CHANGED = auto()
    TOUCHED = auto()
    UNCHANGED = auto()
    IGNORED = auto()


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step did: documents that were looked at, those without a change, events written.

    rebased: of those without a change, how many differ because this release makes something else of the same row.
    touched: uids of those that came, changed, or have a new change time.
    """

    read: int
    unchanged: int
    events: int
    rebased: int = 0
    touched: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class StepLimits:
    """record_bytes_max: the largest record that every topic takes, in bytes on the wire."""

    record_bytes_max: int
    silent_snapshot: bool = False


class SourceStep:
    """Writes the steps of one source during one opening of its shard."""

    def __init__(
        self,
        builder: EventBuilder,
        ledger: Ledger,
        topics: TopicPlan,
        limits: StepLimits,
        clock: Clock,
        mirrors: Sequence[MirrorRule] = (),
    ) -> None:
        """mirrors: those that follow this source."""
        self._builder = builder
        self._source = builder.account.source
        self._ledger = ledger
        self._topics = topics
        self._limits = limits
        self._clock = clock
        self._refusals = Refusals(self._source, ledger, topics, limits.record_bytes_max)
        self._counters = decode_counters(ledger.get(counters_key(self._source)))
        self._events: dict[EventType, list[int]] = {}
        self._windows: dict[Collection, Window] = {}
        self._sequence = self._deletions = self._added = self._at = self._rebased = 0
        self._prefix = self._topic = ""
        self._doomed: set[str] = set()
        self._edges_moved = 0
        self._mirrors = Mirrors(mirrors, ledger, topics, clock)
        self.told = ToldTags()
        """Tags that customers said they have, and that wait to be known."""
        self.awaited = Awaited(clock)
        """Edges that commands are bringing about."""
        self.joins = Joins(partial(self.known, Collection.CUSTOMERS), partial(self.uids_after, Collection.CUSTOMERS))
        """Which customers have a value."""

    @property
    def edges_moved(self) -> int:
        """Edges that came less those that went, since the shard was opened."""
        return self._edges_moved

    @property
    def source(self) -> str:
        """Whose steps these are."""
        return self._source

    @property
    def sequence(self) -> int:
        """Of the last event that was written, committed or not."""
        return self._counters.sequence

    def documents(self, collection: Collection) -> int:
        """How many documents of the collection are known, pending ones included."""
        return self._counters.documents.get(collection.value, 0)

    def cursor(self, collection: Collection) -> Cursor | None:
        """Where the feed goes on; None before its first step."""
        stored = self._ledger.get(cursor_key(self._source, collection))
        return decode_json(stored) if stored else None

    def begin_again(self, collection: Collection) -> None:
        """A complete reading is due at once; behind the first one, when that is not over.

        The first one itself goes on: its beginning is where the polls will take over, and who was told and has left
        since is shown by those alone.
        """
        if collection is Collection.MEMBERSHIPS:
            for read in list(self._ledger.keys(rounds_key(self._source, ""))):
                self._ledger.put(read, None)
            return
        cursor, sweep = parted(self.cursor(collection))
        if cursor is not None:
            due = AT_ONCE._replace(owed=sweep is not None and sweep.owed)
            self._ledger.put(cursor_key(self._source, collection), encode_json(joined(cursor, due)))

    def known(self, collection: Collection, uids: Sequence[str]) -> list[Document]:
        """The documents of these uids as they were last published."""
        records = self._records(collection, uids)
        return [
            Document(uid, record.document, record.version, record.revision)
            for uid, record in records.items()
            if record.document is not None
        ]

    def refused_only(self, collection: Collection, uids: Sequence[str]) -> list[str]:
        """Those of which only copies were seen that could not be published, so nothing is to be taken back."""
        return [uid for uid, record in self._records(collection, uids).items() if record.document is None]

    def familiar(self, collection: Collection, fingerprints: Mapping[str, bytes]) -> set[str]:
        """See `source.feed.Familiar`."""
        prefix = key_of(self._source, collection, "")
        known = self._ledger.fingerprints([prefix + uid for uid in fingerprints])
        return {uid for uid, fingerprint in fingerprints.items() if known.get(prefix + uid) == fingerprint}

    def known_uids(self, collection: Collection) -> list[str]:
        """Every uid of the collection."""
        prefix = key_of(self._source, collection, "")
        return [key[len(prefix) :] for key in self._ledger.keys(prefix)]

    def uids_after(self, collection: Collection, after: int, limit: int) -> tuple[list[str], int | None]:
        """The same in pieces, between which others go on; see `Store.keys_after`."""
        prefix = key_of(self._source, collection, "")
        keys, following = self._ledger.keys_after(prefix, after, limit)
        return [key[len(prefix) :] for key in keys], following

    def missed_by(self, collection: Collection, began_at: float) -> bool:
        """True when documents wait to be looked at as this release does, and a sweep from this moment did not."""
        return self._window(collection).missed_by(began_at)

    def absorb(self, collection: Collection, page: Page) -> StepResult:
        """Write everything that the rows of `page` mean, and its cursor. What it shows as gone is left to `settle`."""
        before = self._begin(collection)
        window = self._window(collection)
        newest: dict[str, Document] = {}
        ambiguous: set[str] = set()
        for document in page.documents:
            seen = newest.setdefault(document.uid, document)
            if seen is not document:
                ambiguous.add(document.uid)
                if (document.revision, document.version) >= (seen.revision, seen.version):
                    newest[document.uid] = document
        self._doomed.difference_update(newest)
        records = self._records(collection, list(newest))
        cause = Cause(page.path)
        unchanged = len(page.familiar)
        touched: list[str] = []
        ignored: set[str] = set()
        for uid, document in newest.items():
            fate = self._document(collection, document, records.get(uid), cause, window)
            unchanged += fate is not _Fate.CHANGED
            if fate in (_Fate.CHANGED, _Fate.TOUCHED):
                touched.append(uid)
            elif fate is _Fate.IGNORED:
                ignored.add(uid)
        for reject in page.rejects:
            self._refusals.malformed(collection, reject)
        events = self._end(collection, before, page.path, patient=page.path is Path.SNAPSHOT and page.more)
        rebased = self._rebased
        events += self._edges_of(collection, page)
        # A row whose tags were passed over is to be looked into again.
        left = ignored | ambiguous | (page.tags.keys() if page.tags and self._memberships_paused else set())
        prefix = key_of(self._source, collection, "")
        for uid, fingerprint in page.fingerprints.items():
            if uid in newest and uid not in left and not self.told.waits(uid):
                self._ledger.recognise(prefix + uid, fingerprint)
        self._keep_cursor(collection, page.cursor)
        self._windows[collection] = self._noted(collection, window.after(page))
        return StepResult(len(page.documents) + len(page.familiar), unchanged, events, rebased, touched)

    def absorb_edges(self, moves: Sequence[EdgeMove], cause: Cause) -> int:
        """Write what moved of these edges; how many did.

        A move that is in the state already is none. One to a customer that is not in the state is dropped, and one to
        a tag that is not, or is about to go: the customer's or the tag's own events come before those of its edges.
        """
        before = self._begin(Collection.CUSTOMERS)
        records = self._records(Collection.CUSTOMERS, list({move.customer for move in moves}))
        names = self._tag_names({move.tag for move in moves})
        path = cause.path
        moved = 0
        for move in moves:
            record = records.get(move.customer)
            if record is None or record.document is None:
                continue
            if move.joined and (move.tag not in names or move.tag in self._doomed):
                continue
            change = edges.change(record.document, move)
            if change is None:
                continue
            tag = TagName(move.tag, names.get(move.tag, move.tag))
            why = self.awaited.cause(move, cause)
            if self._edge(move, change, record, why, tag) is _Fate.CHANGED:
                moved += 1
                self._edges_moved += 1 if move.joined else -1
                self._mirrors.moved(move, record.document, tag, why, self._sequence)
                records |= self._records(Collection.CUSTOMERS, [move.customer])
        self._mirrors.send()
        self._end(Collection.CUSTOMERS, before, path, patient=path is Path.SNAPSHOT)
        if moved:
            self._ledger.wake(patient=path is Path.SNAPSHOT)
        return moved

    def _edges_of(self, collection: Collection, page: Page) -> int:
        """What the customers of a page say of their tags, or what the tags of a page make of what was said before; how
        many edges moved. None while memberships are paused: what is passed over is said again by the next glance."""
        if not page.tags and not self.told.tags:
            return 0
        if self._memberships_paused:
            self.told.lose()
            return 0
        if collection is Collection.TAGS:
            known = self._tag_names(self.told.tags)
            settled = self.told.settled(known)
            return sum(self.absorb_edges(moves, cause) for cause, moves in settled.items())
        # Where everything is read again who is known is no first sight.
        return self.absorb_told(page.tags, Cause(Path.SWEEP if owes(page.cursor) else page.path))

    @property
    def _memberships_paused(self) -> bool:
        return self._ledger.get(control_key(self._source, Collection.MEMBERSHIPS)) is not None

    def absorb_told(self, said: Mapping[str, Told], cause: Cause) -> int:
        """Write what customers say of their tags; how many edges moved. One to a tag that is not known yet waits."""
        if not said:
            return 0
        known = self._tag_names({tag for told in said.values() for tag in told.tags})
        moves: list[EdgeMove] = []
        for uid, record in self._records(Collection.CUSTOMERS, list(said)).items():
            told = said[uid]
            if record.document is not None and not outdated(told, record):
                self.told.note(uid, told.tags.keys() - known.keys() - self._doomed, cause)
                moves += edges.moved(uid, edges.tags_of(record.document), told.tags)
        return self.absorb_edges(moves, cause) if moves else 0

    def look(self, collection: Collection, documents: Sequence[Document], cause: Cause) -> int:
        """Write what these documents, read by themselves, mean; how many events.

        What the feed's last page showed may not be what is known any more, so the next one has to show everything.
        """
        before = self._begin(collection)
        window = self._window(collection)
        records = self._records(collection, [document.uid for document in documents])
        for document in documents:
            self._doomed.discard(document.uid)
            self._document(collection, document, records.get(document.uid), cause, window)
        cursor = self.cursor(collection)
        if cursor is not None:
            self._keep_cursor(collection, without_etag(cursor))
        return self._end(collection, before, cause.path, patient=False)

    def disputed(self, collection: Collection, documents: Sequence[Document]) -> list[Document]:
        """What is known of those that nothing dates before or behind what is known, and that would be told as a
        change."""
        window = self._window(collection)
        records = self._records(collection, [document.uid for document in documents])
        found: dict[str, Document] = {}
        for document in documents:
            record = records.get(document.uid)
            if record is None or record.document is None or not _abreast(document, record):
                continue
            copy = document._replace(body=edges.with_tags(document.body, edges.tags_of(record.document)))
            if unpublished(record, copy, detect(record.document, copy.body), window) is None:
                found[document.uid] = Document(document.uid, record.document, record.version, record.revision)
        return list(found.values())

    def doom(self, tag: str) -> None:
        """The tag is surely gone and will be absorbed as such: nobody joins it any more."""
        self._doomed.add(tag)

    def _edge(self, move: EdgeMove, change: Change, record: StateRecord, cause: Cause, tag: TagName) -> _Fate:
        assert change.after is not None, "an edge is a change of a customer that stays"
        after_json = _canonical(change.after)
        if record.sequence == 0 and cause.path is Path.SNAPSHOT and self._limits.silent_snapshot:
            return self._store(Collection.CUSTOMERS, move.customer, record._replace(document=change.after), after_json)
        following = record._replace(document=change.after)  # nothing else of the customer was looked at
        return self._publish(Collection.CUSTOMERS, move.customer, change, record, cause, 0, after_json, following, tag)

    def _tag_names(self, tags: set[str]) -> dict[str, str]:
        """Of those that are in the state."""
        records = self._records(Collection.TAGS, sorted(tags))
        found = {uid: record.document for uid, record in records.items() if record.document is not None}
        return {uid: body.get("name", uid) for uid, body in found.items()}

    def settle(self, collection: Collection, found: Mapping[str, Fate], path: Path) -> int:
        """Write what a second read said of documents that seemed to be gone; how many events that made."""
        before = self._begin(collection)
        window = self._window(collection)
        records = self._records(collection, list(found))
        cause = Cause(path)
        for uid, fate in found.items():
            record = records.get(uid)
            if isinstance(fate, Document):
                self._doomed.discard(uid)
                self._document(collection, fate, record, cause, window)
            elif record is not None:
                self._delete(collection, uid, record, cause, fate)
        return self._end(collection, before, path, patient=False)

    def _begin(self, collection: Collection) -> Counters:
        """The counters before the step."""
        self._at = self._now()
        self._prefix = key_of(self._source, collection, "")
        self._topic = self._topics.events(collection)
        before = self._counters
        self._sequence, self._deletions, self._added, self._events = before.sequence, before.deletions, 0, {}
        self._rebased = 0
        return before

    def _end(self, collection: Collection, before: Counters, path: Path, *, patient: bool) -> int:
        """Keep the counters, if the step has moved them, and ask for a commit; how many events there were."""
        if self._sequence != before.sequence or self._added:
            documents = before.documents.get(collection.value, 0) + self._added
            for kind, moments in self._events.items():
                self._ledger.tell(Published(self._source, collection, kind, path), moments)
            self._counters = Counters(
                self._sequence, self._deletions, {**before.documents, collection.value: documents}
            )
            self._ledger.put(counters_key(self._source), encode_counters(self._counters))
            self._ledger.open.documents[self._source, collection] = documents
            self._ledger.wake(patient=patient)
        return self._sequence - before.sequence

    def _document(
        self, collection: Collection, document: Document, record: StateRecord | None, cause: Cause, window: Window
    ) -> _Fate:
        """Publish what changed."""
        if record is None:
            record = _UNKNOWN
        elif outdated(document, record):
            return _Fate.IGNORED
        if tags := edges.tags_of(record.document):
            # Each tag that comes or goes is a change of its own; who is known keeps those that are known.
            document = document._replace(body=edges.with_tags(document.body, tags))
        change = detect(record.document, document.body)
        known = unpublished(record, document, change, window)
        if known is not None:
            if known is not record:
                self._put(document.uid, known, None)
                if collection is Collection.CUSTOMERS:
                    self.joins.moved(document.uid, record.document, known.document)
                self._rebased += known.base not in (None, record.base)
                return _Fate.TOUCHED if known.version > record.version else _Fate.UNCHANGED
            return _Fate.UNCHANGED
        assert change is not None
        after_json = _canonical(document.body)
        if collection is Collection.CUSTOMERS:
            self.joins.moved(document.uid, record.document, document.body)
        if record.document is None and cause.path is Path.SNAPSHOT and self._limits.silent_snapshot:
            silent = StateRecord(document.body, document.version, 0, revision=document.revision)
            fate = self._store(collection, document.uid, silent, after_json)
            self._added += fate is _Fate.CHANGED
            return fate
        # Never our own time: were our clock ahead, the provider's next change would look like an older copy.
        version, revision = max(document.version, record.version), document.revision or record.revision
        following = StateRecord(document.body, version, 0, revision=revision)
        return self._publish(collection, document.uid, change, record, cause, document.version, after_json, following)

    def _store(self, collection: Collection, uid: str, record: StateRecord, document_json: bytes) -> _Fate:
        """Without an event."""
        key = self._prefix + uid
        value = encode_record(record, document_json)
        if record_bytes(Record(self._topics.state, None, key.encode(), value)) > self._limits.record_bytes_max:
            self._refusals.too_large(collection, uid, document_json)
            return _Fate.IGNORED
        self._ledger.put(key, value)
        return _Fate.CHANGED

    def _publish(
        self,
        collection: Collection,
        uid: str,
        change: Change,
        record: StateRecord,
        cause: Cause,
        changed_at: int,
        after_json: bytes | None,
        following: StateRecord | None,
        detail: TagName | Merged | None = None,
    ) -> _Fate:
        """`changed_at`: as the provider says; 0 when it does not, then the event says when it was seen.

        following: the record from now on but for its sequence; None when the document is gone.
        detail: of an edge, which is all that moved; of a document that is gone, what it went into.
        """
        changed_at = changed_at or self._at
        kind = _kind(collection, change, cause.path, detail)
        sequence = self._sequence + 1
        event = self._builder.build(
            kind,
            uid,
            change,
            Position(sequence, record.sequence, self._deletions),
            cause=cause,
            changed_at=changed_at,
            detected_at=self._at,
            before_json=None if change.before is None else _canonical(change.before),
            after_json=after_json,
            tag=detail if isinstance(detail, TagName) else None,
            into=detail.into if isinstance(detail, Merged) else None,
        )
        written = Record(self._topic, None, event.key, event.value, event.headers)
        bound = len(event.value) + HEADERS_BYTES_MAX + 4 * len(event.key)
        if bound > self._limits.record_bytes_max and record_bytes(written) > self._limits.record_bytes_max:
            self._refusals.too_large(collection, uid, after_json or b"")
            return _Fate.IGNORED
        self._ledger.write(written)
        if following is None:
            self._ledger.put(self._prefix + uid, None)
        else:
            self._put(uid, following._replace(sequence=sequence), after_json)
        self._sequence = sequence
        self._added += (change.before is None) - (change.after is None)
        self._deletions += change.after is None
        if kind in self._events:
            self._events[kind].append(changed_at)
        else:
            self._events[kind] = [changed_at]
        return _Fate.CHANGED

    def _delete(self, collection: Collection, uid: str, record: StateRecord, cause: Cause, fate: Gone | Merged) -> None:
        if record.document is None:
            # Only refused copies were ever seen: nothing was published, so nothing is taken back.
            self._ledger.put(self._prefix + uid, None)
            return
        change = Change(record.document, None, ())
        self._doomed.discard(uid)
        if collection is Collection.CUSTOMERS:
            self.told.forget(uid)
            self.joins.moved(uid, record.document, None)
        self._edges_moved -= len(edges.tags_of(record.document))
        at, into = (fate.at, None) if isinstance(fate, Gone) else (0, fate)
        self._publish(collection, uid, change, record, cause, at, None, None, into)

    def _keep_cursor(self, collection: Collection, cursor: Cursor) -> None:
        key = cursor_key(self._source, collection)
        encoded = encode_json(cursor)
        if self._ledger.get(key) != encoded:
            self._ledger.put(key, encoded)

    def _window(self, collection: Collection) -> Window:
        found = self._windows.get(collection)
        if found is None:
            stored = self._ledger.get(essence_key(self._source, collection))
            found = Window.read(stored, self.documents(collection), self._clock.wall())
            self._windows[collection] = found
        return found

    def _noted(self, collection: Collection, window: Window) -> Window:
        """Remember what is not what everybody takes for granted."""
        key = essence_key(self._source, collection)
        stored = self._ledger.get(key)
        if (stored is not None or window.essence != ESSENCE_FIRST) and stored != window.encoded():
            self._ledger.put(key, window.encoded())
        return window

    def _put(self, uid: str, record: StateRecord, document_json: bytes | None) -> None:
        self._ledger.put(self._prefix + uid, encode_record(record, document_json))

    def _records(self, collection: Collection, uids: Sequence[str]) -> dict[str, StateRecord]:
        prefix = key_of(self._source, collection, "")
        found = self._ledger.get_many([prefix + uid for uid in uids])
        return {key[len(prefix) :]: decode_record(value) for key, value in found.items()}

    def _now(self) -> int:
        return int(self._clock.wall() * 1_000_000)


def outdated(document: Document | Told, record: StateRecord) -> bool:
    """True for a copy that is older than what is known. Revisions tell more exactly than times, which are shared by all
    that changes in a second; but one that is lower and later is the first of a new life, whose count begins anew."""
    if document.revision > record.revision > 0:
        return False
    if 0 < document.revision < record.revision:
        return document.version <= record.version
    return 0 < document.version < record.version


def _abreast(document: Document, record: StateRecord) -> bool:
    """True for a copy of which nothing says whether it is older or newer than what is known."""
    counted = document.revision > 0 and record.revision > 0
    return document.version in (0, record.version) and not (counted and document.revision != record.revision)


def _kind(collection: Collection, change: Change, path: Path, detail: TagName | Merged | None) -> EventType:
    if isinstance(detail, TagName):
        return TAGGED if detail.uid in edges.tags_of(change.after) else UNTAGGED
    return classify(collection, change, path) if detail is None else MERGED


def _canonical(body: Body) -> bytes:
    return orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
