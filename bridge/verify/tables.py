"""Tables: what the checker remembers of a million keys and of every sequence number, in few bytes each.

Documents are remembered as 64-bit digests: one comparison of two different documents errs with probability 2⁻⁶⁴.
Per key about 250 bytes with its name, per event 12.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntFlag
from hashlib import blake2b
from itertools import pairwise
from typing import Any, NamedTuple

import orjson

from bridge.store.record import Counters

CHUNK = 4096
"""Sequence numbers per piece. Pieces exist only where events are: a source may have begun long ago, and a wrong
number must not cost memory."""


def digest(value: bytes) -> int:
    """64 bits of BLAKE2b, never 0."""
    return int.from_bytes(blake2b(value, digest_size=8).digest()) or 1


def document_digest(document: Any) -> int:
    """Of the canonical JSON; 0 for None. `Any`: JSON."""
    return 0 if document is None else digest(orjson.dumps(document, option=orjson.OPT_SORT_KEYS))


class Mark(IntFlag):
    """What is known of a key."""

    ALIVE = 1  # its last event was not `deleted`
    STATE = 2  # the state topic holds a record
    RESTORED = 4  # a restore brought a record
    MOVED = 8  # written again after the cut, so the topic may have forgotten what it was before
    DOCUMENT = 16  # a document's key, not a cursor, counters or the like


class KeyTable:
    """Columns over all keys of the state topic and of the events; rows are numbered in order of arrival.

    fold_sequence, fold_document: of the key's last event; the document of a dead key is the offset of its deletion.
    state_…: of the state record. restored_…: of the record that the restore brought; raw: of its bytes.
    place: number of the event partition, 0 when unknown.
    """

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.marks = bytearray()
        self.fold_sequence = array("Q")
        self.fold_document = array("Q")
        self.state_sequence = array("Q")
        self.state_document = array("Q")
        self.state_raw = array("Q")
        self.restored_sequence = array("Q")
        self.restored_document = array("Q")
        self.restored_raw = array("Q")
        self.place = array("I")
        self._columns = (
            self.fold_sequence,
            self.fold_document,
            self.state_sequence,
            self.state_document,
            self.state_raw,
            self.restored_sequence,
            self.restored_document,
            self.restored_raw,
            self.place,
        )

    def row(self, key: str) -> int:
        """The key's row, a new one when it is new."""
        row = self.rows.get(key)
        if row is None:
            row = self.rows[key] = len(self.marks)
            self.marks.append(0)
            for column in self._columns:
                column.append(0)
        return row

    def held(self, row: int) -> tuple[int, int] | None:
        """Sequence and document of the state record at the cut; None when there was none.

        As the topic shows it, unless the key was written again behind the cut: then the topic may have forgotten the
        record that counts, and the restore, which came first, has it.
        """
        mark = self.marks[row]
        if mark & Mark.MOVED and mark & Mark.RESTORED:
            return self.restored_sequence[row], self.restored_document[row]
        return (self.state_sequence[row], self.state_document[row]) if mark & Mark.STATE else None

    def names(self, rows: set[int]) -> dict[int, str]:
        """The keys of these rows; goes through the whole table."""
        return {row: key for key, row in self.rows.items() if row in rows} if rows else {}


class SequenceLog:
    """Which sequence numbers of one source were seen, and in which event: a 64-bit digest of its id and its row."""

    def __init__(self) -> None:
        self._ids: dict[int, array[int]] = {}
        self._rows: dict[int, array[int]] = {}
        self.count = 0

    def put(self, sequence: int, event_id: int, row: int) -> bool:
        """Remember; False when the number was seen before."""
        piece, place = divmod(sequence, CHUNK)
        ids = self._ids.get(piece)
        if ids is None:
            ids = self._ids[piece] = array("Q", bytes(8 * CHUNK))
            self._rows[piece] = array("I", bytes(4 * CHUNK))
        if ids[place]:
            return False
        ids[place] = event_id
        self._rows[piece][place] = row
        self.count += 1
        return True

    def row_of(self, sequence: int) -> int | None:
        """Row of the key whose event has this number; None when it was not seen."""
        piece, place = divmod(sequence, CHUNK)
        ids = self._ids.get(piece)
        return self._rows[piece][place] if ids is not None and ids[place] else None

    def gaps(self, last: int) -> Iterator[tuple[int, int]]:
        """The numbers in 1…last that were not seen, as ranges (first, last), ascending."""
        expected = 1
        for piece in sorted(self._ids):
            ids = self._ids[piece]
            start = piece * CHUNK
            if start == expected and not ids.count(0):
                expected = start + CHUNK
                continue
            for place in range(CHUNK):
                if ids[place]:
                    if start + place > expected:
                        yield expected, min(start + place - 1, last)
                    expected = start + place + 1
        if expected <= last:
            yield expected, last

    def same_ids(self) -> Iterator[tuple[int, int]]:
        """Pairs of numbers whose events have the same id."""
        everything = array("Q")
        for ids in self._ids.values():
            everything.extend(value for value in ids if value)
        ordered = sorted(everything)
        twice = {value for value, following in pairwise(ordered) if value == following}
        if not twice:
            return
        first: dict[int, int] = {}
        for piece in sorted(self._ids):
            for place, value in enumerate(self._ids[piece]):
                if value in twice:
                    sequence = piece * CHUNK + place
                    if value in first:
                        yield first[value], sequence
                    else:
                        first[value] = sequence


@dataclass(slots=True)
class SourceTable:
    """What is known of one source.

    counters: at the cut; restored: the same as the restore brought them. later: number in the newest counters behind
    the cut. highest: the greatest number that an event had. deleted: how many deletions were
    seen. old: number of the newest event that retention may have reached.
    """

    log: SequenceLog = field(default_factory=SequenceLog)
    counters: Counters = field(default_factory=lambda: Counters(0, 0, {}))
    restored: Counters | None = None
    later: int = 0
    highest: int = 0
    deleted: int = 0
    old: int = 0

    @property
    def last(self) -> int:
        """Number of the last event at the cut."""
        return self.counters.sequence

    def lags(self) -> bool:
        """True while no counters have reached the newest event."""
        return self.highest > max(self.last, self.later)


class WaitingPrior(NamedTuple):
    """An event whose `prior` was not seen before it: to be judged at the end."""

    source: str
    sequence: int
    prior: int
    row: int
