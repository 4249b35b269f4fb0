"""Deliberate defects: the code with one safeguard taken out. The simulator has to notice each of them.

A defect is a context manager that patches production code while it is entered. Each says in one line what is taken
out; what breaks then is for the simulator to find.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

from bridge.commands.outcome import Outcome
from bridge.errors import CommitUnknown
from bridge.model import Collection, Document, Gone, Path, key_of
from bridge.publish.transaction import Producer, Receipt, Record
from bridge.runtime.inbox import DONE, InboxDesk
from bridge.runtime.ledger import Batch, Ledger
from bridge.runtime.progress import ProgressBook
from bridge.runtime.removal import Removal
from bridge.runtime.shard import Shard, ShardState
from bridge.runtime.step import SourceStep
from bridge.sandbox.broker.inbox import FakeInbox
from bridge.sandbox.broker.producer import FakeProducer
from bridge.sandbox.simulate import Defect
from bridge.sandbox.simulation.story import teller
from bridge.source.dintero.cursor import STEP_BACK, Poll, Sweep
from bridge.source.dintero.customers import CustomersFeed
from bridge.source.dintero.rows import Rows
from bridge.source.feed import Cursor, Page
from bridge.store.base import Store
from bridge.store.record import Counters, counters_key, cursor_key, decode_json, encode_counters, encode_json

DEFECTS: dict[str, Defect] = {}


def defect(make: Callable[[], Iterator[None]]) -> Callable[[], AbstractContextManager[None]]:
    """List a defect under the name of its function."""
    manager = contextmanager(make)
    DEFECTS[make.__name__.replace("_", " ")] = manager
    return manager


@defect
def events_outside_the_transaction() -> Iterator[None]:
    """Events are sent at once, by themselves; state, cursor and offset follow in a transaction."""
    publish = FakeProducer.publish

    async def torn(self: FakeProducer, records: Sequence[Record], inbox_offset: int | None) -> Receipt:
        broker = self._link.broker
        for at, batch in self._packed([record for record in records if record.partition is None]).items():
            for record in batch:
                broker.log(at).append_plain(record, int(broker.clock.wall() * 1000))
        return await publish(self, [record for record in records if record.partition is not None], inbox_offset)

    with patch.object(FakeProducer, "publish", torn):
        yield


@defect
def confirming_read_skipped() -> Iterator[None]:
    """What a reading misses is gone."""

    init = Removal.__init__

    def trusting(self: Removal, *args: Any) -> None:
        init(self, *args)

        async def nothing(known: Sequence[Document]) -> Mapping[str, Gone]:
            return {document.uid: Gone(document.uid, 0) for document in known}

        self._feed = cast(Any, SimpleNamespace(fetch=nothing, collection=self._feed.collection))

    with patch.object(Removal, "__init__", trusting):
        yield


@defect
def step_past_a_tie() -> Iterator[None]:
    """A full page of one instant is followed by the next instant."""
    after = CustomersFeed._after_full_page

    def past(
        self: CustomersFeed, state: Poll, since: int, mapped: Rows, answer: Any
    ) -> tuple[Poll | Sweep, bool, bool]:
        own = [moment for moment in mapped.times if moment >= since]
        if own and own[-1] - STEP_BACK <= since:
            return replace(state, position=max(state.position, own[-1]), since=own[-1] + STEP_BACK), True, False
        return after(self, state, since, mapped, answer)

    with patch.object(CustomersFeed, "_after_full_page", past):
        yield


@defect
def overlap_dropped() -> Iterator[None]:
    """A poll begins exactly where the one before has ended."""

    def start(self: Poll, overlap: int) -> int:
        return self.position if self.since is None else self.since

    with patch.object(Poll, "start", start):
        yield


@defect
def stale_page_published() -> Iterator[None]:
    """The copy that arrives last wins, however old it is."""
    absorb = SourceStep.absorb

    def by_arrival(self: SourceStep, collection: Collection, page: Page) -> Any:
        last = {document.uid: document._replace(version=0) for document in page.documents}
        return absorb(self, collection, replace(page, documents=list(last.values())))

    with patch.object(SourceStep, "absorb", by_arrival):
        yield


@defect
def sequence_reused_after_a_failed_commit() -> Iterator[None]:
    """The counters are stored one step late, so a new life begins with numbers that are taken."""
    end = SourceStep._end

    def late(self: SourceStep, collection: Collection, before: Counters, *args: Any, **options: Any) -> int:
        events = end(self, collection, before, *args, **options)
        if self._counters is not before:
            self._ledger.put(counters_key(self._source), encode_counters(before))
        return events

    with patch.object(SourceStep, "_end", late):
        yield


@defect
def sequence_counted_in_memory() -> Iterator[None]:
    """A failed commit does not give its numbers back."""
    kept: dict[tuple[str, str], Counters] = {}
    init, end = SourceStep.__init__, SourceStep._end

    def remember(self: SourceStep, *args: Any) -> None:
        init(self, *args)
        known = kept.get((teller.get(), self._source))
        if known is not None and known.sequence > self._counters.sequence:
            self._counters = self._counters._replace(sequence=known.sequence)

    def keep(self: SourceStep, *args: Any, **options: Any) -> int:
        events = end(self, *args, **options)
        kept[teller.get(), self._source] = self._counters
        return events

    with patch.object(SourceStep, "__init__", remember), patch.object(SourceStep, "_end", keep):
        yield


@defect
def store_applied_before_the_commit() -> Iterator[None]:
    """The cache is told what is about to be committed."""
    take = Ledger.take

    def early(self: Ledger) -> Batch:
        batch = take(self)
        if batch.state:
            self._store.apply(batch.state.items(), self._store.position)
        return batch

    with patch.object(Ledger, "take", early):
        yield


@defect
def watermark_too_early() -> Iterator[None]:
    """A page that is not the last one counts as everything."""
    page = CustomersFeed.page

    async def boast(self: CustomersFeed, cursor: Cursor | None, *args: Any) -> Page:
        found = await page(self, cursor, *args)
        return replace(found, caught_up_to=found.caught_up_to or self._client._clock.wall())

    with patch.object(CustomersFeed, "page", boast):
        yield


@defect
def cursor_not_in_the_transaction() -> Iterator[None]:
    """The cursor is kept as soon as the page is read."""
    kept: dict[tuple[str, Collection], bytes] = {}
    keep_cursor = SourceStep._keep_cursor

    def keep(self: SourceStep, collection: Collection, cursor: Cursor) -> None:
        keep_cursor(self, collection, cursor)
        self._ledger.open.state.pop(cursor_key(self._source, collection), None)
        kept[self._source, collection] = encode_json(cursor)

    def recall(self: SourceStep, collection: Collection) -> Cursor | None:
        stored = kept.get((self._source, collection))
        return decode_json(stored) if stored else None

    with patch.object(SourceStep, "_keep_cursor", keep), patch.object(SourceStep, "cursor", recall):
        yield


@defect
def inbox_offset_not_committed() -> Iterator[None]:
    """The offset of the inbox is left out of the transactions."""
    publish = FakeProducer.publish

    async def forgetful(self: FakeProducer, records: Sequence[Record], inbox_offset: int | None) -> Receipt:
        return await publish(self, records, None if records else inbox_offset)

    with patch.object(FakeProducer, "publish", forgetful):
        yield


@defect
def fence_after_the_restore() -> Iterator[None]:
    """Position and state are read first, the producer is opened last."""

    async def wrong(self: Shard, producer: Producer, stack: AsyncExitStack) -> Ledger:
        self._enter(ShardState.OPENING)
        committed = await self._ports.inbox.committed()
        self._enter(ShardState.RESTORING)
        store = await self._restored_store()
        stack.callback(store.close)
        await producer.open()
        ledger = Ledger(store)
        self._next_offset = await self._ports.inbox.beginning() if committed is None else committed
        self._check_marker(ledger, committed)
        self._ports.inbox.seek(self._next_offset)
        return ledger

    with patch.object(Shard, "_open", wrong):
        yield


@defect
def unknown_commit_assumed_failed() -> Iterator[None]:
    """After a commit without an answer the cache is believed as it is."""
    unknown: set[tuple[str, int]] = set()
    publish, restored = FakeProducer.publish, Shard._restored

    async def note(self: FakeProducer, records: Sequence[Record], inbox_offset: int | None) -> Receipt:
        try:
            return await publish(self, records, inbox_offset)
        except CommitUnknown:
            unknown.add((teller.get(), self._inbox[1]))
            raise

    async def believe(self: Shard, store: Store) -> Store:
        if (teller.get(), self.number) in unknown and store.position > 0:
            unknown.discard((teller.get(), self.number))
            return store
        return await restored(self, store)

    with patch.object(FakeProducer, "publish", note), patch.object(Shard, "_restored", believe):
        yield


@defect
def unknown_commit_assumed_done() -> Iterator[None]:
    """A commit without an answer counts."""
    commit = FakeProducer._commit

    async def hopeful(self: FakeProducer) -> None:
        try:
            await commit(self)
        except CommitUnknown:
            self._tainted = True

    with patch.object(FakeProducer, "_commit", hopeful):
        yield


@defect
def membership_confirmation_skipped() -> Iterator[None]:
    """A fenced owner opens again without asking the group."""

    async def sure(self: FakeInbox, partition: int, after: float) -> bool:
        return True

    with patch.object(FakeInbox, "wait_membership_confirmed", sure):
        yield


@defect
def marker_check_removed() -> Iterator[None]:
    """An empty state partition is an empty world."""
    check = Shard._check_marker

    def trusting(self: Shard, ledger: Ledger, committed: int | None) -> None:
        check(self, ledger, None)

    with patch.object(Shard, "_check_marker", trusting):
        yield


@defect
def taint_ignored() -> Iterator[None]:
    """A producer goes on although a copy of its commit may still be on its way."""
    publish = FakeProducer.publish

    async def careless(self: FakeProducer, records: Sequence[Record], inbox_offset: int | None) -> Receipt:
        receipt = await publish(self, records, inbox_offset)
        self._tainted, self._usable = False, True
        return receipt._replace(tainted=False)

    with patch.object(FakeProducer, "publish", careless):
        yield


@defect
def restore_skipped_when_there_is_a_cache() -> Iterator[None]:
    """A cache that is there counts as up to date."""
    restored: Callable[[Shard, Store], Awaitable[Store]] = Shard._restored

    async def believe(self: Shard, store: Store) -> Store:
        return store if store.position > 0 else await restored(self, store)

    with patch.object(Shard, "_restored", believe):
        yield


@defect
def inbox_read_from_where_the_client_was() -> Iterator[None]:
    """The position of the inbox is not placed anew when a shard is opened."""
    open_ = Shard._open

    async def lazy(self: Shard, producer: Producer, stack: AsyncExitStack) -> Ledger:
        ledger = await open_(self, producer, stack)
        self._next_offset = 0
        self._ports.inbox.seek(0)
        return ledger

    with patch.object(Shard, "_open", lazy):
        yield


@defect
def sweep_over_at_its_first_page() -> Iterator[None]:
    """The beginning of the list counts as all of it."""
    page = CustomersFeed.page

    async def hasty(self: CustomersFeed, cursor: Cursor | None, *rest: Any) -> Page:
        found = await page(self, cursor, *rest)
        sweeping = cursor is not None and cursor.get("mode") == "sweep" and found.path is Path.SWEEP
        return replace(found, complete=True) if sweeping else found

    with patch.object(CustomersFeed, "page", hasty):
        yield


@defect
def every_known_row_is_familiar() -> Iterator[None]:
    """A row is not looked into when its document is known, whatever its fingerprint is."""

    def sure(self: SourceStep, collection: Collection, fingerprints: Mapping[str, bytes]) -> set[str]:
        return {document.uid for document in self.known(collection, list(fingerprints))}

    with patch.object(SourceStep, "familiar", sure):
        yield


@defect
def fingerprint_kept_of_what_was_not_committed() -> Iterator[None]:
    """A row is recognised as soon as it was read, although its change may never be published."""
    kept: dict[tuple[str, str], bytes] = {}
    absorb = SourceStep.absorb

    def note(self: SourceStep, collection: Collection, page: Page, *rest: Any) -> Any:
        kept.update({(collection.value, uid): found for uid, found in page.fingerprints.items()})
        return absorb(self, collection, page, *rest)

    def recall(self: SourceStep, collection: Collection, fingerprints: Mapping[str, bytes]) -> set[str]:
        return {uid for uid, found in fingerprints.items() if kept.get((collection.value, uid)) == found}

    with patch.object(SourceStep, "absorb", note), patch.object(SourceStep, "familiar", recall):
        yield


@defect
def done_command_not_remembered() -> Iterator[None]:
    """A command that comes again is done again."""
    answer = InboxDesk._answer

    def forget(self: InboxDesk, source: str, digest: str, outcome: Outcome) -> None:
        answer(self, source, digest, outcome)
        del self._ledger.open.state[key_of(source, DONE, outcome.id)]

    with patch.object(InboxDesk, "_answer", forget):
        yield


@defect
def progress_written_for_what_is_not_read() -> Iterator[None]:
    """The progress topic says "until now" where it should say "until that reading began"."""
    note = ProgressBook.note

    def boast(self: ProgressBook, batch: Batch) -> None:
        note(self, batch)
        self._moved.update(dict.fromkeys(batch.caught_up, self._clock.wall()))

    with patch.object(ProgressBook, "note", boast):
        yield
