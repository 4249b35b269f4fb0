"""MemoryStore: a store in a dict, for reading state from Kafka without a file (commands, checks, the simulator)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from bridge.store.base import NO_FINGERPRINTS


class MemoryStore:
    """See `store.base.Store`. Nothing survives `close`."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._fingerprints: dict[str, bytes] = {}
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
            if value is None:
                self._values.pop(key, None)
            else:
                self._values[key] = value
        self._fingerprints |= {key: found for key, found in fingerprints.items() if key in self._values}
        self._position = position

    def scan(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Every key that begins with `prefix`, in key order."""
        for key in sorted(self._values):
            if key.startswith(prefix):
                yield key, self._values[key]

    def close(self) -> None:
        """Forget everything; idempotent."""
        self._values = {}
