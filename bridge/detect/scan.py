"""Scan: what a complete reading has seen, and who was missing.

Absence is a suspicion only. A suspect becomes a deletion after a confirming read, and not even then when a complete
reading misses more than the limit allows: providers have bad days, and a false deletion downstream costs more than
a late one.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

BUCKETS = 256
"""Pieces in which uids are compared: sets of one piece only are ever made, 4,000 numbers of a million uids."""


class DeleteLimit(NamedTuple):
    """More than `documents` **and** more than `share` of the known documents missing at once: held for a person."""

    share: float = 0.05
    documents: int = 50

    def holds(self, suspects: int, known: int) -> bool:
        """True when so many deletions at once need a person's word."""
        return suspects > self.documents and suspects > self.share * known


class Uids:
    """A great many uids in eight bytes each: their hashes, which differ from process to process.

    That two uids of a million share one is less likely than one in ten million.
    """

    def __init__(self, uids: Iterable[str] = ()) -> None:
        self._buckets: defaultdict[int, array[int]] = defaultdict(partial(array, "q"))
        self.add(uids)

    def add(self, uids: Iterable[str]) -> None:
        """Put them in; the same one may come again and again."""
        buckets = self._buckets
        for hashed in map(hash, uids):
            buckets[hashed % BUCKETS].append(hashed)

    def minus(self, others: Uids) -> Iterator[set[int]]:
        """What is in here and not in there, piece by piece, as hashes."""
        for number, mine in self._buckets.items():
            yield set(mine).difference(others._buckets.get(number, ()))

    def having(self, uids: Iterable[str]) -> Iterator[set[str]]:
        """Which of these are in here, piece by piece."""
        wanted: dict[int, list[str]] = {}
        for uid in uids:
            wanted.setdefault(hash(uid) % BUCKETS, []).append(uid)
        for bucket, some in wanted.items():
            known = set(self._buckets.get(bucket, ()))
            yield {uid for uid in some if hash(uid) in known}
