"""Online: the state of a source against its provider, while both live on.

The whole collection is read through the source's own feed, as the bridge reads it the first time, and compared with
the state by essence, or by what a record says that the provider shows (see `StateRecord.base`). What differs is no
break yet: the provider has moved since the state was read, or the bridge has not caught up, or a page dropped a row
while rows changed. So each difference is looked at again, in the state and at the provider, until the state holds what
the provider showed at some moment since, or the time is up. The requests count against the account's own limits,
beside those of a running bridge.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

from bridge.clock import Clock
from bridge.detect.diff import detect
from bridge.detect.essence import essence, essence_digest
from bridge.errors import CursorRejected, EnvironmentUnavailable, RetryLater, SourceError
from bridge.model import Body, Collection, Document, key_of
from bridge.publish.partitioner import partition_of
from bridge.publish.reading import Message, PartitionReader
from bridge.publish.settings import KafkaSettings
from bridge.publish.topics import TopicPlan
from bridge.source.feed import Cursor, Feed, Page
from bridge.store.record import StateRecord, decode_record
from bridge.verify.reading import Progress, Tail
from bridge.verify.tables import document_digest
from bridge.verify.verdict import Invariant, Verdict, printable

WAIT_S = 60.0
"""For differences to settle: several polls of the default interval."""

PAUSE_S = 2.0
"""Between two looks at what differs."""

FETCHED_MAX = 200
"""Differences that are read again one by one; with more of them the state alone is looked at until it catches up."""

SUSPECTS_MAX = 20_000
"""Documents kept in memory because they differ; beyond it they are counted, and the state is broken anyway."""

RETRIES_MAX = 5
"""Of one request that the provider cannot answer now, and of readings that begin again."""

RETRY_S = 2.0
"""When the provider does not say how long to wait; the hint is followed up to RETRY_S_MAX."""

RETRY_S_MAX = 60.0

T = TypeVar("T")

TakeState = Callable[[str, StateRecord | None], None]
"""Told uid and record, None for a removed one."""


class StateView(Protocol):
    """One collection of one source in the state topic."""

    async def read(self, take: TakeState) -> None:
        """Every record since the last call, from the beginning at the first; the last of a uid counts."""
        ...


@dataclass(slots=True)
class _Suspect:
    """A uid that differs. shown: by the provider since, None for "gone". state, base: what the state has now."""

    shown: list[Body | None] = field(default_factory=list)
    state: Body | None = None
    base: str | None = None

    def agrees(self) -> bool:
        return any(detect(self.state, shown) is None or self._is_base(shown) for shown in self.shown)

    def _is_base(self, shown: Body | None) -> bool:
        return self.base is not None and shown is not None and essence_digest(shown) == self.base


class KafkaStateView:
    """See `StateView`. Holds nothing but offsets."""

    def __init__(
        self, settings: KafkaSettings, plan: TopicPlan, source: str, collection: Collection, clock: Clock
    ) -> None:
        self._settings = settings
        self._topic = plan.state
        self._source = source
        self._prefix = key_of(source, collection, "").encode()
        self._clock = clock
        self._next: int | None = None

    async def read(self, take: TakeState) -> None:
        """See `StateView.read`. Raises `EnvironmentUnavailable`."""

        def pass_on(message: Message) -> None:
            key = message.key or b""
            if key.startswith(self._prefix):
                record = None if message.value is None else decode_record(message.value)
                take(key[len(self._prefix) :].decode(), record)

        async with PartitionReader(self._settings, self._clock) as reader:
            partitions = await reader.partitions([self._topic])
            at = partitions[partition_of(self._source.encode(), len(partitions))]
            start = (await reader.begins([at]))[at] if self._next is None else self._next
            tail = Tail(reader, {at: start})
            await tail.read(pass_on, lambda _done, _total: None)
            self._next = tail.starts[at]


async def compare(
    source: str,
    feed: Feed,
    view: Callable[[], StateView],
    clock: Clock,
    progress: Progress,
    *,
    wait_s: float = WAIT_S,
) -> Verdict:
    """Compare one collection. view: a new look at its state, from the beginning.

    Raises `EnvironmentUnavailable` when the provider or Kafka cannot be read. Cancellation leaves nothing behind.
    """
    return await _Comparison(source, feed, view, clock, progress).verdict(wait_s)


async def patiently(
    call: Callable[[], Awaitable[T]], clock: Clock, unreadable: Callable[[SourceError], EnvironmentUnavailable]
) -> T:
    """Wait as the provider asks, a bounded number of times. Raises `CursorRejected`, `EnvironmentUnavailable`."""
    for _ in range(RETRIES_MAX):
        try:
            return await call()
        except RetryLater as error:
            await clock.sleep(min(RETRY_S_MAX, error.delay_s or RETRY_S))
        except CursorRejected:
            raise
        except SourceError as error:
            raise unreadable(error) from error
    try:
        return await call()
    except SourceError as error:
        raise unreadable(error) from error


class _Comparison:
    def __init__(
        self, source: str, feed: Feed, view: Callable[[], StateView], clock: Clock, progress: Progress
    ) -> None:
        self._source = source
        self._feed = feed
        self._view = view
        self._clock = clock
        self._progress = progress
        self._known: dict[str, int | str] = {}
        self._refused: set[str] = set()
        self._suspects: dict[str, _Suspect] = {}
        self._uncounted = 0
        self._verdict = Verdict([Invariant.PROVIDER])

    async def verdict(self, wait_s: float) -> Verdict:
        await self._view().read(self._learn)
        await self._read_provider()
        await self._settle(wait_s)
        for uid, suspect in sorted(self._suspects.items()):
            self._tell(uid, suspect)
        if self._uncounted:
            text = (
                f"{self._source}/{self._feed.collection}: {self._uncounted:,} more differ and were not looked at again"
            )
            self._verdict.add(Invariant.PROVIDER, "unsettled", text, self._uncounted)
        if self._refused:
            name = f"{self._source}/{self._feed.collection}"
            self._verdict.notes.append(
                f"{name}: {len(self._refused)} documents were refused (see the dead letters) and are not compared"
            )
        return self._verdict

    def _learn(self, uid: str, record: StateRecord | None) -> None:
        self._known.pop(uid, None)
        self._refused.discard(uid)
        if record is None:
            return
        if record.refused is not None:
            # The provider shows a copy that the state cannot have.
            self._refused.add(uid)
        elif record.document is not None:
            self._known[uid] = record.base or document_digest(essence(record.document))

    async def _read_provider(self) -> None:
        missing = set(self._known)
        read = 0
        async for page in self._pages():
            for document in page.documents:
                missing.discard(document.uid)
                if document.uid not in self._refused:
                    self._look_at(document)
            for reject in page.rejects:
                if reject.uid is not None:
                    missing.discard(reject.uid)
                    self._refused.add(reject.uid)
                    self._suspects.pop(reject.uid, None)
            read += len(page.documents)
            self._progress("provider", read, max(read, len(self._known)))
        for uid in missing - self._refused:
            self._suspect(uid, None)
        self._verdict.figures["provider rows"] = read

    async def _pages(self) -> AsyncIterator[Page]:
        """The first complete reading; begins again when the provider has forgotten the cursor."""
        cursor: Cursor | None = None
        begun = 0
        while True:
            try:
                page = await self._patiently(partial(self._feed.page, cursor))
            except CursorRejected as error:
                begun += 1
                if begun > RETRIES_MAX:
                    raise self._unreadable(error) from error
                cursor = None
                continue
            yield page
            if not page.more:
                return
            cursor = page.cursor

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        return await patiently(call, self._clock, self._unreadable)

    def _unreadable(self, error: SourceError) -> EnvironmentUnavailable:
        return EnvironmentUnavailable(f"source {self._source}: {self._feed.collection} cannot be read: {error}")

    def _look_at(self, document: Document) -> None:
        known = self._known.get(document.uid)
        based = isinstance(known, str)
        if known != (essence_digest(document.body) if based else document_digest(essence(document.body))):
            self._suspect(document.uid, document.body)

    def _suspect(self, uid: str, shown: Body | None) -> None:
        suspect = self._suspects.get(uid)
        if suspect is None:
            if len(self._suspects) >= SUSPECTS_MAX:
                self._uncounted += 1
                return
            suspect = self._suspects[uid] = _Suspect()
        suspect.shown.append(shown)

    async def _settle(self, wait_s: float) -> None:
        """Drop every suspect that agrees, until none is left or the time is up."""
        deadline = self._clock.monotonic() + wait_s
        view = self._view()
        while self._suspects:
            await view.read(self._update)
            self._drop_agreeing()
            if 0 < len(self._suspects) <= FETCHED_MAX:
                await self._fetch()
                self._drop_agreeing()
            self._progress("differences", len(self._suspects), len(self._suspects))
            if not self._suspects or self._clock.monotonic() >= deadline:
                return
            await self._clock.sleep(PAUSE_S)

    def _update(self, uid: str, record: StateRecord | None) -> None:
        suspect = self._suspects.get(uid)
        if suspect is not None:
            suspect.state, suspect.base = (None, None) if record is None else (record.document, record.base)

    def _drop_agreeing(self) -> None:
        for uid in [uid for uid, suspect in self._suspects.items() if suspect.agrees()]:
            del self._suspects[uid]

    async def _fetch(self) -> None:
        wanted = []
        for uid, suspect in self._suspects.items():
            body = suspect.state or next((shown for shown in suspect.shown if shown is not None), None)
            if body is not None:
                wanted.append(Document(uid, body, 0))
        if not wanted:
            return
        found = await self._patiently(partial(self._feed.fetch, wanted))
        for uid, answer in found.items():
            if uid in self._suspects:
                self._suspects[uid].shown.append(answer.body if isinstance(answer, Document) else None)

    def _tell(self, uid: str, suspect: _Suspect) -> None:
        key = printable(key_of(self._source, self._feed.collection, uid))
        shown = suspect.shown[-1]
        if suspect.state is None:
            self._verdict.add(Invariant.PROVIDER, "provider_more", f"{key}: the provider has it, the state does not")
        elif shown is None:
            self._verdict.add(Invariant.PROVIDER, "provider_less", f"{key}: the state has it, the provider does not")
        else:
            change = detect(suspect.state, shown)
            fields = ", ".join(printable(pointer) for pointer in change.changed) if change else ""
            self._verdict.add(Invariant.PROVIDER, "provider_differs", f"{key}: differs in {fields}")
