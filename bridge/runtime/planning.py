"""Planning: what a source would publish if it were read now, for `bridge plan`. Publishes nothing.

The real feeds are read completely, and the real step compares them with a scratch copy of the state; what comes out of
it is counted and thrown away. The scratch copy moves on like the state would, so a document that comes twice counts
once. There is no producer and no group in sight: nothing here could write, and a running bridge does not notice more
than requests to its provider.

Deletions are only guessed: who is missing, or shown as deleted, would be asked for again before anybody is told.
Memberships, which are no documents of their own, are planned with the customers, where those say which tags they have;
else they are not planned.

Memory is bounded by a page. Which documents were seen is noted in the scratch store, in the place of fingerprints.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import orjson

from bridge.errors import CursorRejected, EnvironmentUnavailable, RetryLater, SourceError
from bridge.model import Collection, key_of
from bridge.publish.topics import TopicPlan
from bridge.publish.transaction import Record
from bridge.runtime.ledger import Ledger
from bridge.runtime.reader import SourceReader
from bridge.runtime.schedule import Backoff
from bridge.runtime.step import SourceStep, StepLimits
from bridge.runtime.sweep import parted
from bridge.source.feed import Cursor, Feed, Page
from bridge.store.base import Store
from bridge.store.record import decode_record

RETRIES_MAX = 6
"""Of one request that the provider cannot answer now, about 15 s in all; and of readings that begin again."""

KEYS_MAX = 1_000
"""Looked up at once when everything was read."""

SEEN = b"seen"
"""In the place of a fingerprint."""

Progress = Callable[[str, int, int], None]
"""Told what is read, documents done, and of how many as far as it is known; must be quick."""


class Sample(NamedTuple):
    """One event. changed: JSON Pointers, never a value."""

    type: str
    key: str
    changed: tuple[str, ...]


@dataclass(slots=True)
class Planned:
    """What one collection would come to.

    read: documents that the provider shows. events: by type. rebased: would be taken over without an event. stored:
    first sights that would be stored without an event. refused: dead letters by reason. missing: would be asked for
    again, and deleted if that confirms it; held: so many that a person would have to approve them. note: why nothing
    was planned.
    """

    source: str
    collection: Collection
    read: int = 0
    events: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)
    rebased: int = 0
    stored: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    missing: int = 0
    missing_keys: list[str] = field(default_factory=list)
    held: bool = False
    note: str | None = None


async def plan_source(
    reader: SourceReader, store: Store, topics: TopicPlan, samples_max: int, progress: Progress
) -> list[Planned]:
    """Everything that is configured of one source, against `store`, which changes.

    samples_max: of each type of event, and of missing keys. Raises `EnvironmentUnavailable` when the provider cannot be
    read, or what the store raises. Cancellation leaves nothing behind.
    """
    planning = _Planning(reader, store, topics, samples_max, progress)
    feeds = {feed.collection: feed for feed in reader.feeds}
    planned: dict[Collection, Planned] = {}
    told = reader.glances is not None
    # Edges wait for their tags, so those are first.
    order = sorted(reader.plans, key=lambda name: name is not Collection.TAGS) if told else reader.plans
    for collection in order:
        feed = feeds.get(collection)
        if feed is None:
            note = "planned with the customers" if told else "not planned yet: it is not read as documents of its own"
            planned[collection] = Planned(reader.account.source, collection, note=note)
        else:
            planned[collection] = await planning.collection(feed)
    return [planned[collection] for collection in reader.plans]


class _Planning:
    def __init__(
        self, reader: SourceReader, store: Store, topics: TopicPlan, samples_max: int, progress: Progress
    ) -> None:
        self._reader = reader
        self._source = reader.account.source
        self._store = store
        self._ledger = Ledger(store)
        self._samples_max = samples_max
        self._progress = progress
        limits = StepLimits(topics.record_bytes_max, reader.silent_snapshot)
        self._step = SourceStep(reader.builder, self._ledger, topics, limits, reader.clock)

    async def collection(self, feed: Feed) -> Planned:
        planned = Planned(self._source, feed.collection)
        before = self._step.documents(feed.collection)
        async with aclosing(self._pages(feed)) as pages:
            async for page in pages:
                self._absorb(planned, page)
                self._progress(f"{self._source}/{feed.collection}", planned.read, max(planned.read, before))
        first_sights = sum(count for name, count in planned.events.items() if name.split(".")[2] in _FIRST_SIGHTS)
        planned.stored = self._step.documents(feed.collection) - before - first_sights
        for key in self._missing(feed.collection):
            planned.missing += 1
            if len(planned.missing_keys) < self._samples_max:
                planned.missing_keys.append(f"{self._source}/{key}")
        planned.held = self._reader.plans[feed.collection].delete_limit.holds(planned.missing, before)
        return planned

    def _absorb(self, planned: Planned, page: Page) -> None:
        """Let the step write the page, count what it wrote, keep only the state."""
        result = self._step.absorb(planned.collection, page)
        planned.read += result.read
        planned.rebased += result.rebased
        prefix = key_of(self._source, planned.collection, "")
        shown = [document.uid for document in page.documents]
        for uid in (*shown, *(reject.uid for reject in page.rejects if reject.uid is not None)):
            self._ledger.recognise(prefix + uid, SEEN)
        batch = self._ledger.take()
        for event, moments in batch.events.items():
            planned.events[event.type.type] += len(moments)
        planned.refused.update(batch.deadletters)
        self._sample(planned, batch.records)
        self._ledger.settle(self._store.position)

    def _sample(self, planned: Planned, records: Sequence[Record]) -> None:
        for record in records:
            name = dict(record.headers).get("ce_type", b"").decode()
            if not name or sum(sample.type == name for sample in planned.samples) >= self._samples_max:
                continue
            data = orjson.loads(record.value or b"{}")
            planned.samples.append(Sample(name, data["key"], tuple(data["changed"])))

    def _missing(self, collection: Collection) -> Iterator[str]:
        """Uids of published documents that no page showed."""
        prefix = key_of(self._source, collection, "")
        rows = self._store.scan(prefix)
        while chunk := list(islice(rows, KEYS_MAX)):
            seen = self._store.fingerprints([key for key, _ in chunk])
            for key, value in chunk:
                if key not in seen and decode_record(value).document is not None:
                    yield key[len(prefix) :]

    async def _pages(self, feed: Feed) -> AsyncGenerator[Page, None]:
        """Everything from the beginning, as a sweep where the first reading is over."""
        cursor = self._beginning(feed)
        begun = 1
        while True:
            try:
                page = await self._patiently(feed, cursor)
            except CursorRejected as error:
                begun += 1
                if begun > RETRIES_MAX:
                    raise self._unreadable(feed, error) from error
                cursor = None
                continue
            yield page
            if page.complete or page.whole or not page.more:
                return
            cursor = page.cursor

    def _beginning(self, feed: Feed) -> Cursor | None:
        own, sweep = parted(self._step.cursor(feed.collection))
        if own is None or sweep is None:
            return None
        try:
            begin = feed.sweep(own)
        except ValueError:  # of another release; it would begin anew, too
            return None
        # A position in the middle of a list is where a sweep of that feed would go on.
        return own if begin is None else None if begin == own else begin

    async def _patiently(self, feed: Feed, cursor: Cursor | None) -> Page:
        backoff = Backoff()
        while True:
            try:
                return await feed.page(cursor)
            except CursorRejected:
                raise
            except RetryLater as error:
                backoff = backoff.failed()
                if backoff.attempts > RETRIES_MAX:
                    raise self._unreadable(feed, error) from error
                await self._reader.clock.sleep(backoff.delay_s(self._reader.spread(), error.delay_s))
            except SourceError as error:
                raise self._unreadable(feed, error) from error

    def _unreadable(self, feed: Feed, error: SourceError) -> EnvironmentUnavailable:
        return EnvironmentUnavailable(f"source {self._source}: {feed.collection} cannot be read: {error}")


_FIRST_SIGHTS = frozenset({"snapshot", "created"})
"""Third part of an event's type."""
