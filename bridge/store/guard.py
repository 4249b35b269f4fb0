"""GuardedStore: a store that is never used again once it has failed.

The tasks of a shard share one store. When it fails in the hands of one of them, the others may have their turn once
more before the shard ends; whatever they would read then is not to be trusted, so they get the same error.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from bridge.store.base import NO_FINGERPRINTS, Store


class GuardedStore:
    """Implements `Store` over another one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._failure: OSError | sqlite3.Error | None = None

    @property
    def position(self) -> int:
        """See `Store.position`."""
        return self._store.position

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """See `Store.get_many`."""
        with self._guarded():
            return self._store.get_many(keys)

    def fingerprints(self, keys: Sequence[str]) -> dict[str, bytes]:
        """See `Store.fingerprints`."""
        with self._guarded():
            return self._store.fingerprints(keys)

    def apply(
        self,
        records: Iterable[tuple[str, bytes | None]],
        position: int,
        fingerprints: Mapping[str, bytes] = NO_FINGERPRINTS,
    ) -> None:
        """See `Store.apply`."""
        with self._guarded():
            self._store.apply(records, position, fingerprints)

    def scan(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """See `Store.scan`."""
        with self._guarded():
            yield from self._store.scan(prefix)

    def keys_after(self, folder: str, after: int, limit: int) -> tuple[list[str], int | None]:
        """See `Store.keys_after`."""
        with self._guarded():
            return self._store.keys_after(folder, after, limit)

    def members(self, source: str, tag: str) -> Iterator[str]:
        """See `Store.members`."""
        with self._guarded():
            yield from self._store.members(source, tag)

    def members_count(self, source: str, tag: str) -> int:
        """See `Store.members_count`."""
        with self._guarded():
            return self._store.members_count(source, tag)

    def member_tags(self, source: str) -> list[str]:
        """See `Store.member_tags`."""
        with self._guarded():
            return self._store.member_tags(source)

    def close(self) -> None:
        """See `Store.close`."""
        self._store.close()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        if self._failure is not None:
            raise self._failure
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            self._failure = error
            raise
