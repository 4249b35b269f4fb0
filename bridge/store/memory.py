"""MemoryStore: a store in a dict, for reading state from Kafka without a file (commands, checks, the simulator)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

from bridge.store.base import NO_FINGERPRINTS
from bridge.store.edges import customers_folder, folder_of, tags_of


class MemoryStore:
    """See `store.base.Store`. Nothing survives `close`."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._fingerprints: dict[str, bytes] = {}
        self._numbers: dict[str, int] = {}  # of the keys, in the order in which they came
        self._last_number = 0
        self._members: dict[str, dict[str, dict[str, None]]] = {}  # folder, tag, keys in the order in which they came
        self._position = 0

    @property
    def position(self) -> int:
        """Offset of the next record that is not in here."""
        return self._position

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The values of those keys that exist."""
        values = self._values
        return {key: values[key] for key in keys if key in values}

    def fingerprints(self, keys: Sequence[str]) -> dict[str, bytes]:
        """See `Store.fingerprints`."""
        return {key: self._fingerprints[key] for key in keys if key in self._fingerprints}

    def apply(
        self,
        records: Iterable[tuple[str, bytes | None]],
        position: int,
        fingerprints: Mapping[str, bytes] = NO_FINGERPRINTS,
    ) -> None:
        """See `Store.apply`."""
        if position < self._position:
            raise ValueError(f"position moves back from {self._position} to {position}")
        for key, value in list(records):
            self._fingerprints.pop(key, None)
            self._follow(key, self._values.get(key), value)
            if value is None:
                self._values.pop(key, None)
                self._numbers.pop(key, None)
            else:
                if key not in self._values:
                    self._last_number += 1
                    self._numbers[key] = self._last_number
                self._values[key] = value
        self._fingerprints |= {key: found for key, found in fingerprints.items() if key in self._values}
        self._position = position

    def _follow(self, key: str, before: bytes | None, after: bytes | None) -> None:
        """Keep the members of each tag in step."""
        had, has = tags_of(key, before), tags_of(key, after)
        if had == has:
            return
        tags = self._members.setdefault(folder_of(key), {})
        for tag in had:
            if tag not in has:
                del tags[tag][key]
        for tag in has:
            tags.setdefault(tag, {})[key] = None

    def scan(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Every key that begins with `prefix`, in key order."""
        for key in sorted(self._values):
            if key.startswith(prefix):
                yield key, self._values[key]

    def keys_after(self, folder: str, after: int, limit: int) -> tuple[list[str], int | None]:
        """See `Store.keys_after`."""
        found = ((key, number) for key, number in self._numbers.items() if number > after and key.startswith(folder))
        piece = list(islice(found, limit))
        return [key for key, _ in piece], piece[-1][1] if len(piece) == limit else None

    def members(self, source: str, tag: str) -> Iterator[str]:
        """See `Store.members`."""
        folder = customers_folder(source)
        return (key[len(folder) :] for key in self._of(folder, tag))

    def members_count(self, source: str, tag: str) -> int:
        """See `Store.members_count`."""
        return len(self._of(customers_folder(source), tag))

    def member_tags(self, source: str) -> list[str]:
        """See `Store.member_tags`."""
        return [tag for tag, keys in self._members.get(customers_folder(source), {}).items() if keys]

    def _of(self, folder: str, tag: str) -> Mapping[str, None]:
        return self._members.get(folder, {}).get(tag, {})

    def close(self) -> None:
        """Forget everything; idempotent."""
        self._values = {}
        self._numbers = {}
        self._members = {}
