"""Store: what was last published for one shard, as a cache of its partition of the state topic.

A store holds raw state records (key → value bytes, exactly as in Kafka) and the offset up to which it has read them,
changed together in one local transaction. It may be thrown away at any time: the log is the truth. All calls are
synchronous and short (one page or one batch); one shard owns one store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol


class Store(Protocol):
    """Key → value with a position. Any failure raises `OSError` or `sqlite3.Error`; the object is dead afterwards."""

    @property
    def position(self) -> int:
        """Offset of the next record of the state partition that the store does not hold; 0 when new."""
        ...

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The values of those keys that exist."""
        ...

    def apply(self, records: Iterable[tuple[str, bytes | None]], position: int) -> None:
        """Set (bytes) or remove (None) each key in order and move the position, all or nothing.

        The position never moves back (ValueError).
        """
        ...

    def scan(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Every key that begins with `prefix`, in key order; the store must not change meanwhile."""
        ...

    def close(self) -> None:
        """Release the file; idempotent. What was applied stays."""
        ...
