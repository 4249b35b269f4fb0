"""Rebase: a new release makes another document of the same row, and nobody is told. Pure.

State holds what was published, so it may not be rewritten without an event: folding the events has to give the state.
Therefore a document that differs only because it is projected otherwise keeps its published body, and its record
remembers the digest of what the provider shows now (`StateRecord.base`). From then on a copy with that essence is
unchanged; the next change of the customer is published from the old body to the new one, and the base is gone.

Whose difference it is shows in the version: a document with a newer change time than the record's has changed. With the
same one, or none, nobody can tell, so this is believed only while it has to be: until everything was looked at once
under the present projection (`Window`). After that a difference is a change again, whatever number the record has.
Records that do not differ are not rewritten.

A downgrade is the same: a record with a greater number than ours is of another projection, too.
"""

from __future__ import annotations

from typing import NamedTuple

from bridge.detect.diff import Change
from bridge.detect.essence import essence_digest
from bridge.model import Document
from bridge.runtime.sweep import parted
from bridge.source.feed import Page
from bridge.store import record as records
from bridge.store.record import StateRecord, decode_json, encode_json


class Window(NamedTuple):
    """One collection. essence: the number that this is about. since: wall-clock seconds. open: not all is looked at."""

    essence: int
    since: float
    open: bool

    @classmethod
    def read(cls, stored: bytes | None, documents: int, now: float) -> Window:
        """Of the record, which only exists once a number has changed; one of another number begins a new window.

        documents: how many are known; without any there is nothing to wait for.
        """
        last = cls(**decode_json(stored)) if stored else cls(records.ESSENCE_FIRST, 0.0, open=False)
        return last if last.essence == records.ESSENCE else cls(records.ESSENCE, now, documents > 0)

    def after(self, page: Page) -> Window:
        """Closed by a page that is everything, or by the last one of a sweep that began under this number."""
        if not self.open:
            return self
        _, sweep = parted(page.cursor)
        swept = page.complete and sweep is not None and sweep.began_at >= self.since
        return self._replace(open=False) if page.whole or swept else self

    def missed_by(self, began_at: float) -> bool:
        """True when a sweep that began at this moment does not close the window."""
        return self.open and began_at < self.since

    def encoded(self) -> bytes:
        """The record's bytes."""
        return encode_json(self._asdict())


def unpublished(record: StateRecord, document: Document, change: Change | None, window: Window) -> StateRecord | None:
    """The record from now on if nothing is to be published, the very same if it need not be written; None for a change.

    document: not older than the record. change: from the record's document to it.
    """
    newer = document.version > record.version or document.revision > record.revision
    version, revision = max(document.version, record.version), document.revision or record.revision
    if change is None:
        if not newer and (record.base is None or record.foreign):
            return record
        # Nothing that counts is new but its time; a copy from in between, shown late, must not pass for newer. The
        # price: of two writers whose clocks differ, the one that is behind is not seen until it writes again.
        return record._replace(version=version, revision=revision, base=None, essence=records.ESSENCE)
    if record.base is not None and not record.foreign and essence_digest(document.body) == record.base:
        return record._replace(version=version, revision=revision) if newer else record
    if record.document is not None and record.foreign and not newer and window.open:
        return record._replace(base=essence_digest(document.body), essence=records.ESSENCE)
    return None
