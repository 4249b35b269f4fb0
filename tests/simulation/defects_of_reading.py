"""More deliberate defects: what is read, and concluded from it, with one safeguard taken out. See `defects`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

from bridge.detect.scan import DeleteLimit, Uids
from bridge.model import Collection, Document, Gone, Path
from bridge.publish.transaction import Receipt, Record
from bridge.runtime.control import Control
from bridge.runtime.removal import Removal
from bridge.runtime.step import SourceStep
from bridge.runtime.suspects import Stage, Suspects
from bridge.sandbox.broker.producer import FakeProducer
from bridge.sandbox.simulation.story import teller
from bridge.source.dintero import slices
from bridge.source.dintero.cursor import SECOND, Poll
from bridge.source.dintero.slices import Slices
from bridge.source.dintero.whole import WholeFeed
from bridge.source.feed import Cursor, Page
from tests.simulation.defects import defect

# Deletions.


@defect
def deletion_limit_ignored() -> Iterator[None]:
    """However many are gone at once, nobody is asked."""
    with patch.object(DeleteLimit, "holds", lambda *_: False):
        yield


@defect
def held_deletions_forgotten_at_a_restart() -> Iterator[None]:
    """Whoever opens the shard next does not know that a person has to decide."""
    init = Suspects.__init__

    def forget(self: Suspects, *args: Any) -> None:
        init(self, *args)
        self.forget([uid for uid, suspect in self._by_uid.items() if suspect.stage is Stage.HELD])

    with patch.object(Suspects, "__init__", forget):
        yield


@defect
def suspects_of_an_unfinished_reading_decided() -> Iterator[None]:
    """Each page decides about what it has shown as gone, so it is never many at once."""
    note = Removal.note

    def hasty(self: Removal, page: Page, by: Path, absent: Sequence[str]) -> None:
        note(self, page, by, absent)
        self._decide(by)

    with patch.object(Removal, "note", hasty):
        yield


@defect
def absence_from_part_of_a_sweep_believed() -> Iterator[None]:
    """A sweep counts from wherever a life joins it, and whom it does not show is not looked for."""
    init, look = Removal.__init__, Removal.look

    def trusting(self: Removal, feed: Any, *args: Any) -> None:
        init(self, feed, *args)

        async def fetch(known: Sequence[Document]) -> Mapping[str, Document | Gone]:
            absent = {uid for uid, suspect in self._suspects._by_uid.items() if suspect.absent}
            found = await feed.fetch([document for document in known if document.uid not in absent])
            return {**{document.uid: Gone(document.uid, 0) for document in known}, **found}

        self._feed = cast(Any, SimpleNamespace(fetch=fetch, collection=feed.collection))

    async def joining(self: Removal, page: Page, by: Path) -> Sequence[str]:
        if by is Path.SWEEP and self._shown is None:
            self._shown = Uids()
        return await look(self, page, by)

    with patch.object(Removal, "__init__", trusting), patch.object(Removal, "look", joining):
        yield


@defect
def rename_taken_for_delete_and_create() -> Iterator[None]:
    """Who has another customer_id is somebody else."""
    document = SourceStep._document

    def confused(self: SourceStep, collection: Collection, shown: Document, record: Any, cause: Any, *args: Any) -> Any:
        known = record.document if record is not None else None
        if known is not None and known.get("customer_id") != shown.body.get("customer_id"):
            self._delete(collection, shown.uid, record, cause, Gone(shown.uid, 0))
            record = None
        return document(self, collection, shown, record, cause, *args)

    with patch.object(SourceStep, "_document", confused):
        yield


# Polls, lists and the first reading.


@defect
def etag_kept_of_a_list_that_was_not_committed() -> Iterator[None]:
    """What the list was called is kept in memory; its changes may never have been published."""

    def remembered(self: WholeFeed, cursor: Cursor | None) -> str | None:
        return None if cursor is None or self._named is None else self._named[0]

    with patch.object(WholeFeed, "_known", remembered):
        yield


@defect
def rows_that_move_while_slices_are_read_lost() -> Iterator[None]:
    """Polls begin at the last change that any slice has shown, and do not look back."""
    polling = Slices.polling

    def late(self: Slices) -> Poll:
        return replace(polling(self), position=(self.seen or 0) + 10 * SECOND)

    with patch.object(Slices, "polling", late):
        yield


@defect
def order_of_slices_not_checked() -> Iterator[None]:
    """The last row of a page is the latest one, and whoever was read is everybody."""

    def sure(since: int, rows: Sequence[Any], mapped: Any) -> int | None:
        return max(mapped.times, default=None)

    with patch.object(slices, "paged_on", sure), patch.object(Slices, "proves", lambda *_: True):
        yield


# What people ask for, and are told.


@defect
def pause_forgotten_at_a_restart() -> Iterator[None]:
    """That a feed is paused is known to the process that was told so, and to no other."""
    told: set[tuple[str, str]] = set()
    pause, resume = Control.pause, Control.resume

    def note(self: Control, at: float) -> None:
        pause(self, at)
        told.add((teller.get(), self._key))

    def forget(self: Control) -> None:
        resume(self)
        told.discard((teller.get(), self._key))

    paused = property(lambda self: (teller.get(), self._key) in told)
    with (
        patch.object(Control, "pause", note),
        patch.object(Control, "resume", forget),
        patch.object(Control, "paused", paused),
    ):
        yield


@defect
def progress_outside_the_transaction() -> Iterator[None]:
    """Watermarks are sent at once, by themselves."""
    publish = FakeProducer.publish

    async def torn(self: FakeProducer, records: Sequence[Record], inbox_offset: int | None) -> Receipt:
        broker = self._link.broker
        progress = [record for record in records if record.topic.endswith(".progress")]
        for record in progress:
            broker.log((record.topic, 0)).append_plain(record, int(broker.clock.wall() * 1000))
        return await publish(self, [record for record in records if record not in progress], inbox_offset)

    with patch.object(FakeProducer, "publish", torn):
        yield
