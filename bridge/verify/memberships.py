"""Memberships, online: the edges of a source's state against its provider, while both live on.

The members of every tag of the state are read by list. An edge that is only on one side is no break yet: like a
document that differs (`online`) it is looked at again, in the state and by the customer's own tags, until the state
holds what the provider showed at some moment since, or the time is up.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from bridge.clock import Clock
from bridge.detect.edges import tags_of
from bridge.errors import CursorRejected, EnvironmentUnavailable, SourceError
from bridge.model import Collection, Document
from bridge.source.memberships import MemberPage, MembershipReader, Place, Untold
from bridge.store.record import StateRecord
from bridge.verify.online import FETCHED_MAX, PAUSE_S, RETRIES_MAX, SUSPECTS_MAX, WAIT_S, StateView, patiently
from bridge.verify.reading import Progress
from bridge.verify.verdict import Invariant, Verdict, printable

View = Callable[[Collection], StateView]
"""A new look at a collection of the state, from the beginning."""


@dataclass(slots=True)
class _Suspect:
    """An edge that differs. shown: whether the provider has it, as it has said since."""

    shown: set[bool] = field(default_factory=set)


async def compare_memberships(
    source: str, reader: MembershipReader, view: View, clock: Clock, progress: Progress, *, wait_s: float = WAIT_S
) -> Verdict:
    """Compare every edge of a source. Raises `EnvironmentUnavailable` when the provider or Kafka cannot be read."""
    return await _Comparison(source, reader, view, clock, progress).verdict(wait_s)


class _Comparison:
    def __init__(self, source: str, reader: MembershipReader, view: View, clock: Clock, progress: Progress) -> None:
        self._source = source
        self._reader = reader
        self._view = view
        self._clock = clock
        self._progress = progress
        self._members: dict[str, set[str]] = {}
        self._known: dict[str, Document] = {}  # of suspects
        self._suspects: dict[tuple[str, str], _Suspect] = {}
        self._uncounted = 0
        self._verdict = Verdict([Invariant.PROVIDER])

    async def verdict(self, wait_s: float) -> Verdict:
        await self._read_state()
        read = 0
        for tag, members in sorted(self._members.items()):
            shown = await self._shown(tag)
            for uid in shown ^ members:
                self._suspect(tag, uid, has=uid in shown)
            read += len(shown)
            self._progress("memberships", read, max(read, sum(map(len, self._members.values()))))
        self._verdict.figures["provider memberships"] = read
        self._members = {}
        await self._settle(wait_s)
        for tag, uid in sorted(self._suspects):
            key = printable(f"{self._source}/{Collection.CUSTOMERS}/{uid}")
            less = uid in self._known and tag in tags_of(self._known[uid].body)
            kind, text = ("provider_less", "the state has") if less else ("provider_more", "the provider has")
            self._verdict.add(Invariant.PROVIDER, kind, f"{key}: only {text} its tag {printable(tag)}")
        if self._uncounted:
            text = f"{self._source}: {self._uncounted:,} more memberships differ and were not looked at again"
            self._verdict.add(Invariant.PROVIDER, "unsettled", text, self._uncounted)
        return self._verdict

    async def _read_state(self) -> None:
        tags: dict[str, set[str]] = {}
        held: dict[str, list[str]] = {}

        def take_tag(uid: str, record: StateRecord | None) -> None:
            tags.pop(uid, None)
            if record is not None and record.document is not None:
                tags[uid] = set()

        def take_customer(uid: str, record: StateRecord | None) -> None:
            held.pop(uid, None)
            if record is not None and (found := tags_of(record.document)):
                held[uid] = found

        await self._view(Collection.TAGS).read(take_tag)
        await self._view(Collection.CUSTOMERS).read(take_customer)
        for uid, found in held.items():
            for tag in found:
                tags.setdefault(tag, set()).add(uid)
        self._members = tags

    async def _shown(self, tag: str) -> set[str]:
        """Who the list shows; a reading whose position is forgotten begins again."""
        for _ in range(RETRIES_MAX):
            try:
                return {uid async for uid in self._walk(tag)}
            except CursorRejected:
                continue
        raise self._unreadable(CursorRejected())

    async def _walk(self, tag: str) -> AsyncIterator[str]:
        place: Place | None = None
        while True:
            page: MemberPage = await patiently(partial(self._reader.members, tag, place), self._clock, self._unreadable)
            for uid in page.shown:
                yield uid
            if page.following is None:
                return
            place = page.following

    def _suspect(self, tag: str, uid: str, *, has: bool) -> None:
        if len(self._suspects) >= SUSPECTS_MAX:
            self._uncounted += 1
            return
        self._suspects.setdefault((tag, uid), _Suspect()).shown.add(has)

    async def _settle(self, wait_s: float) -> None:
        """Drop every suspect that agrees, until none is left or the time is up."""
        deadline = self._clock.monotonic() + wait_s
        view = self._view(Collection.CUSTOMERS)
        while self._suspects:
            wanted = {uid for _, uid in self._suspects}
            await view.read(partial(self._update, wanted))
            self._drop_agreeing()
            if 0 < len(self._suspects) <= FETCHED_MAX:
                await self._ask({uid for _, uid in self._suspects})
                self._drop_agreeing()
            self._progress("differences", len(self._suspects), len(self._suspects))
            if not self._suspects or self._clock.monotonic() >= deadline:
                return
            await self._clock.sleep(PAUSE_S)

    def _update(self, wanted: set[str], uid: str, record: StateRecord | None) -> None:
        if uid in wanted:
            self._known.pop(uid, None)
            if record is not None and record.document is not None:
                self._known[uid] = Document(uid, record.document, record.version)

    def _drop_agreeing(self) -> None:
        """A customer that the state does not have is another comparison's business."""
        for (tag, uid), suspect in list(self._suspects.items()):
            known = self._known.get(uid)
            if known is None or (tag in tags_of(known.body)) in suspect.shown:
                del self._suspects[tag, uid]

    async def _ask(self, uids: Iterable[str]) -> None:
        for uid in sorted(uids):
            call = partial(self._reader.tags, self._known[uid], urgent=True)
            said = await patiently(call, self._clock, self._unreadable)
            for (tag, other), suspect in self._suspects.items():
                if other == uid and said not in (Untold.NOT_NOW, Untold.NEVER):
                    suspect.shown.add(not isinstance(said, Untold) and tag in said)

    def _unreadable(self, error: SourceError) -> EnvironmentUnavailable:
        return EnvironmentUnavailable(f"source {self._source}: memberships cannot be read: {error}")
