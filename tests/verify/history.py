"""A bridge's output without a bridge: true events, state and counters of any number of steps, in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from bridge.detect.diff import Change
from bridge.event.catalog import classify
from bridge.event.envelope import ContentMode, EventBuilder, Position
from bridge.model import Account, Body, Cause, Collection, Path, key_of
from bridge.publish.partitioner import partition_of
from bridge.store.record import (
    Counters,
    StateRecord,
    counters_key,
    cursor_key,
    encode_counters,
    encode_json,
    encode_record,
    marker_key,
)
from bridge.verify.checker import Checker, Place
from bridge.verify.verdict import Verdict

PARTITIONS = 3
START_MS = 1_700_000_000_000


class Written(NamedTuple):
    """A record in an event topic."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]

    def changed(self, **data: Any) -> Written:
        """The same with other data, header included where it says the same. `Any`: JSON."""
        value = {**orjson.loads(self.value or b""), **data}
        headers = dict(self.headers)
        headers["ce_sequence"] = str(value["sequence"]).encode()
        return self._replace(value=orjson.dumps(value), headers=tuple(headers.items()))

    @property
    def data(self) -> dict[str, Any]:
        """`Any`: JSON."""
        data: dict[str, Any] = orjson.loads(self.value or b"")
        return data


@dataclass
class History:
    """Builds itself by `put` and `remove`; each of them is a transaction unless `commit=False`."""

    mode: ContentMode = ContentMode.BINARY
    events: list[Written] = field(default_factory=list)
    state: dict[str, bytes] = field(default_factory=lambda: {marker_key(0): encode_json({"shards": 1})})
    records: dict[str, StateRecord] = field(default_factory=dict)
    counters: dict[str, Counters] = field(default_factory=dict)
    offsets: dict[tuple[str, int], int] = field(default_factory=dict)
    touched: set[tuple[str, int]] = field(default_factory=set)
    now_ms: int = START_MS

    def put(
        self,
        uid: str,
        body: Body,
        *,
        source: str = "acme",
        collection: Collection = Collection.CUSTOMERS,
        silent: bool = False,
        commit: bool = True,
    ) -> None:
        """The document is there, with this body."""
        key = key_of(source, collection, uid)
        record = self.records.get(key, StateRecord(None, 0, 0))
        body = {"uid": uid, **body}
        if silent:
            self._store(key, StateRecord(body, 0, 0))
            self._count(source, collection, 1, 0)
        else:
            change = Change(record.document, body, ("/x",) if record.document else ())
            sequence = self._event(source, collection, uid, change, record)
            self._store(key, StateRecord(body, 0, sequence))
            self._count(source, collection, int(record.document is None), 1)
        if commit:
            self.commit()

    def remove(
        self, uid: str, *, source: str = "acme", collection: Collection = Collection.CUSTOMERS, commit: bool = True
    ) -> None:
        """The document is gone."""
        key = key_of(source, collection, uid)
        record = self.records.pop(key)
        self._event(source, collection, uid, Change(record.document, None, ()), record)
        del self.state[key]
        self._count(source, collection, -1, 1)
        if commit:
            self.commit()

    def refuse(self, uid: str, *, source: str = "acme") -> None:
        """A copy came that cannot be published."""
        key = key_of(source, Collection.CUSTOMERS, uid)
        self._store(key, self.records.get(key, StateRecord(None, 0, 0))._replace(refused="0" * 32))

    def commit(self) -> None:
        """A marker takes an offset of every partition that was written to."""
        for at in self.touched:
            self.offsets[at] += 1
        self.touched.clear()
        self.now_ms += 1000

    def _event(self, source: str, collection: Collection, uid: str, change: Change, record: StateRecord) -> int:
        counters = self.counters.get(source, Counters(0, 0, {}))
        sequence = counters.sequence + 1
        event = EventBuilder(Account(source, "dintero", "T12345678"), self.mode).build(
            classify(collection, change, Path.POLL),
            uid,
            change,
            Position(sequence, record.sequence, counters.deletions),
            cause=Cause(Path.POLL),
            changed_at=self.now_ms * 1000,
            detected_at=self.now_ms * 1000,
            before_json=None if change.before is None else orjson.dumps(change.before, option=orjson.OPT_SORT_KEYS),
            after_json=None if change.after is None else orjson.dumps(change.after, option=orjson.OPT_SORT_KEYS),
        )
        at = (f"t.{collection}", partition_of(event.key, PARTITIONS))
        offset = self.offsets.get(at, 0)
        self.offsets[at] = offset + 1
        self.touched.add(at)
        self.events.append(Written(*at, offset, self.now_ms, event.key, event.value, tuple(event.headers)))
        return sequence

    def _store(self, key: str, record: StateRecord) -> None:
        self.records[key] = record
        self.state[key] = encode_record(record)

    def _count(self, source: str, collection: Collection, documents: int, events: int) -> None:
        old = self.counters.get(source, Counters(0, 0, {}))
        counted = {**old.documents, collection.value: old.documents.get(collection, 0) + documents}
        new = Counters(old.sequence + events, old.deletions + (documents < 0), counted)
        self.counters[source] = new
        self.state[counters_key(source)] = encode_counters(new)
        self.state[cursor_key(source, collection)] = encode_json({"since": new.sequence})


def check(
    events: list[Written],
    state: dict[str, bytes],
    *,
    restored: dict[str, bytes] | None = None,
    truncated: bool = False,
    old_ms: int | None = 0,
    source: str | None = None,
) -> Verdict:
    """Feed all of it as the reader does, partition by partition."""
    checker = Checker(source, old_ms)
    for key, value in (state if restored is None else restored).items():
        checker.restored(key, value)
    for key, value in state.items():
        checker.state(key, value)
    if truncated:
        checker.truncated()
    # Stable: in the order of the list within each partition.
    for event in sorted(events, key=lambda event: event[:2]):
        checker.event(Place(event.topic, event.partition, event.offset, event.timestamp_ms), event)
    return checker.verdict()


def kinds(verdict: Verdict) -> set[str]:
    """`2 missing` and so on."""
    return {f"{invariant} {kind}" for invariant, kind in verdict.counts}
