"""Store: what was last published for one shard, as a cache of its partition of the state topic.

A store holds raw state records (key → value bytes, exactly as in Kafka) and the offset up to which it has read them,
changed together in one local transaction. It may be thrown away at any time: the log is the truth. All calls are
synchronous and short (one page or one batch); one shard owns one store.

Beside a value it may keep the *fingerprint* of the row that the provider shows of this document: a row with the same
one is known to change nothing. Fingerprints are a convenience of this machine, never in Kafka, and forgotten freely.

And it knows the *members* of each tag: the customers whose stored document has it, always exactly as the values say
(`store.edges`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

NO_FINGERPRINTS: Mapping[str, bytes] = MappingProxyType({})


class Store(Protocol):
    """Key → value with a position. Any failure raises `OSError` or `sqlite3.Error`; the object is dead afterwards."""

    @property
    def position(self) -> int:
        """Offset of the next record of the state partition that the store does not hold; 0 when new."""
        ...

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The values of those keys that exist."""
        ...

    def fingerprints(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The fingerprints of those keys that have one; may lack any at any time."""
        ...

    def apply(
        self,
        records: Iterable[tuple[str, bytes | None]],
        position: int,
        fingerprints: Mapping[str, bytes] = NO_FINGERPRINTS,
    ) -> None:
        """Set (bytes) or remove (None) each key in order and move the position, all or nothing.

        fingerprints: of the provider's rows that these keys' values are made of, as of now; a key that is set without
        one loses its old one. The position never moves back (ValueError).
        """
        ...

    def scan(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Every key that begins with `prefix`, unordered; the store must not change meanwhile."""
        ...

    def keys_after(self, folder: str, after: int, limit: int) -> tuple[list[str], int | None]:
        """At most `limit` keys of one folder (`source/collection/`), unordered, and where the next piece begins.

        after: 0, then what the piece before has returned; None there means that this was the last piece, which may be
        empty. The store may change between two pieces: a key that is there all the time is in exactly one of them, one
        that comes new comes behind where the pieces are, and whether one is that goes meanwhile is left open.
        """
        ...

    def members(self, source: str, tag: str) -> Iterator[str]:
        """Uids of the customers whose stored document has the tag, unordered; the store must not change meanwhile.

        A store that is damaged may notice at the end only. So who has not seen the end has not seen all, and what is
        told of a customer has to be in its document as well.
        """
        ...

    def members_count(self, source: str, tag: str) -> int:
        """How many they are; quick, however many."""
        ...

    def member_tags(self, source: str) -> list[str]:
        """The tags with at least one member, unordered."""
        ...

    def close(self) -> None:
        """Release the file; idempotent. What was applied stays, as far as the disk takes it."""
        ...
