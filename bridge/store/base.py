"""Store: what was last published for one shard, as a cache of its partition of the state topic.

A store holds raw state records (key → value bytes, exactly as in Kafka) and the offset up to which it has read them,
changed together in one local transaction. It may be thrown away at any time: the log is the truth. All calls are
synchronous and short (one page or one batch); one shard owns one store.

Beside a value it may keep the *fingerprint* of the row that the provider shows of this document: a row with the same
one is known to change nothing. Fingerprints are a convenience of this machine, never in Kafka, and forgotten freely.
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

    def close(self) -> None:
        """Release the file; idempotent. What was applied stays, as far as the disk takes it."""
        ...
