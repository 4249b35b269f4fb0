"""Ledger: what a shard is about to make true, laid over what is stored.

Steps write into the open batch and read through all layers (open batch, batch in flight, store), so the next page is
compared with what the previous one will have published. The committer takes the open batch as a whole. A ledger
belongs to one opening of a shard: when a commit fails or its outcome is unknown the ledger is dropped with
everything in it, and nothing of it was ever in the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bridge.event.catalog import EventType
from bridge.model import Collection, Path
from bridge.publish.transaction import Record
from bridge.runtime.pending import PendingEdges
from bridge.store.base import Store

BATCH_RECORDS_MAX = 8_000
"""Records in one transaction, state included, before readers wait. A step is never split, so one page may exceed it."""

BATCH_BYTES_MAX = 32 * 1024 * 1024
"""Bytes of keys and values in one transaction before readers wait: bounds memory whatever the documents are."""


class Published(NamedTuple):
    """What the metrics tell events by, counted only after their commit."""

    source: str
    collection: Collection
    type: EventType
    path: Path


class Answer(NamedTuple):
    """What the metrics tell outcomes of commands by, counted only after their commit."""

    source: str
    kind: str
    outcome: str


@dataclass(slots=True)
class Batch:
    """The content of one transaction, and what becomes true with it."""

    records: list[Record] = field(default_factory=list)
    state: dict[str, bytes | None] = field(default_factory=dict)
    fingerprints: dict[str, bytes] = field(default_factory=dict)
    inbox_offset: int | None = None
    events: dict[Published, list[int]] = field(default_factory=dict)
    deadletters: list[str] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    mirrored: dict[str, int] = field(default_factory=dict)
    unmatched: dict[str, int] = field(default_factory=dict)
    caught_up: dict[tuple[str, Collection], float] = field(default_factory=dict)
    documents: dict[tuple[str, Collection], int] = field(default_factory=dict)
    bytes: int = 0
    settled: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def empty(self) -> bool:
        """True when there is nothing to write to Kafka."""
        return not self.records and not self.state and self.inbox_offset is None

    @property
    def full(self) -> bool:
        """True when readers have to wait for the commit."""
        return len(self.records) + len(self.state) >= BATCH_RECORDS_MAX or self.bytes >= BATCH_BYTES_MAX


class Ledger:
    """See the module. Everything but the `wait_` methods is synchronous: a step is never half written."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open = Batch()
        self._flying = Batch()
        self._edges = PendingEdges(store)
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    @property
    def open(self) -> Batch:
        """The batch that steps write into; change it only through the methods below, or add to its lists."""
        return self._open

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The newest value of each key that exists, pending ones included."""
        found: dict[str, bytes] = {}
        ask: list[str] = []
        opened, flying = self._open.state, self._flying.state
        for key in keys:
            if key in opened:
                value = opened[key]
            elif key in flying:
                value = flying[key]
            else:
                ask.append(key)
                continue
            if value is not None:
                found[key] = value
        if ask:
            found.update(self._store.get_many(ask))
        return found

    def get(self, key: str) -> bytes | None:
        """The newest value of one key."""
        return self.get_many([key]).get(key)

    def keys(self, prefix: str) -> Iterator[str]:
        """Every existing key that begins with `prefix`, pending ones included; unordered."""
        pending = {**self._flying.state, **self._open.state}
        for key, _ in self._store.scan(prefix):
            if key not in pending:
                yield key
        for key, value in pending.items():
            if value is not None and key.startswith(prefix):
                yield key

    def keys_after(self, folder: str, after: int, limit: int) -> tuple[list[str], int | None]:
        """See `Store.keys_after`, pending keys included; steps and commits may go on between two pieces.

        The last piece also has the pending keys that the store lacks, so it may be longer by as many. A key that is
        removed and comes back while that is under way may come twice, where it was and where it is.
        """
        keys, following = self._store.keys_after(folder, after, limit)
        pending = {**self._flying.state, **self._open.state}
        piece = [key for key in keys if pending.get(key, b"") is not None]
        if following is None:
            new = [key for key, value in pending.items() if value is not None and key.startswith(folder)]
            stored = self._store.get_many(new)
            piece += [key for key in new if key not in stored]
        return piece, following

    def members(self, source: str, tag: str) -> Iterator[str]:
        """Uids of the customers whose newest document has the tag, pending ones included; unordered.

        Steps may write meanwhile, without effect on what is told; no batch may be settled.
        """
        return self._edges.members(source, tag, self._layers)

    def members_count(self, source: str, tag: str) -> int:
        """How many they are; quick, however many."""
        return self._edges.count(source, tag, self._layers)

    def member_tags(self, source: str) -> list[str]:
        """The tags with at least one member, pending ones included; unordered."""
        return self._edges.tags(source, self._layers)

    @property
    def _layers(self) -> tuple[dict[str, bytes | None], dict[str, bytes | None]]:
        return self._open.state, self._flying.state

    def fingerprints(self, keys: Sequence[str]) -> dict[str, bytes]:
        """See `Store.fingerprints`; of a key with a pending change only what came with the change."""
        found: dict[str, bytes] = {}
        ask: list[str] = []
        for key in keys:
            for layer in (self._open, self._flying):
                if key in layer.fingerprints:
                    found[key] = layer.fingerprints[key]
                    break
                if key in layer.state:
                    break
            else:
                ask.append(key)
        if ask:
            found.update(self._store.fingerprints(ask))
        return found

    def recognise(self, key: str, fingerprint: bytes) -> None:
        """A row with this fingerprint changes nothing about the key as it is now, pending changes included."""
        self._open.fingerprints[key] = fingerprint

    def put(self, key: str, value: bytes | None) -> None:
        """Set the state record of a key; None removes it. Rows that were recognised before are no longer."""
        self._open.state[key] = value
        self._edges.touch(key)
        self._open.fingerprints.pop(key, None)
        self._open.bytes += len(key) + len(value or b"")

    def write(self, record: Record) -> None:
        """Add a record to another topic (an event, a dead letter)."""
        self._open.records.append(record)
        self._open.bytes += len(record.key) + len(record.value or b"")

    def tell(self, event: Published, changed_at: Sequence[int]) -> None:
        """Count events once they are committed. `changed_at` of each in microseconds."""
        self._open.events.setdefault(event, []).extend(changed_at)

    def wake(self, *, patient: bool = False) -> None:
        """Ask for a commit soon. State alone (a cursor that moved) may wait for the shard's tick.

        patient: nobody waits for this, so let the batch grow first.
        """
        self._wake.set()
        if not patient:
            self._hurry.set()

    async def wait_room(self) -> None:
        """Return when a further step may be written; bounds the batch. Called before a page is asked for."""
        if self._open.full:
            self._room.clear()
            self.wake()
        await self._room.wait()

    async def wait_wake(self) -> None:
        """Return when somebody asked for a commit."""
        await self._wake.wait()
        self._wake.clear()

    async def wait_hurry(self) -> None:
        """Return when somebody waits for the commit: the batch is full, or what asked for it was not patient."""
        await self._hurry.wait()

    async def wait_committed(self) -> None:
        """Return when all that is written so far is committed, so that nobody else can own the shard unknown to us.

        Never returns when the commit fails: then the life of the shard ends. Cancellation leaves nothing behind.
        """
        batch = self._open
        self.wake()
        await batch.settled.wait()

    def take(self) -> Batch:
        """The open batch is now in flight; steps go on in a new one. One batch flies at a time."""
        assert self._flying.empty, "the previous batch was not settled"
        self._flying, self._open = self._open, Batch()
        self._room.set()
        self._hurry.clear()
        return self._flying

    def settle(self, position: int | None) -> None:
        """The batch in flight is committed: make it the store's. `position`: next offset of the state partition."""
        batch = self._flying
        if position is not None or batch.fingerprints:
            self._store.apply(batch.state.items(), position or self._store.position, batch.fingerprints)
        self._flying = Batch()
        self._edges.forget()
        batch.settled.set()
