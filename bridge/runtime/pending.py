"""PendingEdges: how the members of tags differ from the store's by what a ledger holds and the store does not.

Only customers with a pending record can differ, so what is worked out here is bounded by the two batches, and kept
until the next one is settled: a caller who asks for the count of each of ten thousand tags pays for it once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from bridge.store.base import Store
from bridge.store.edges import NO_TAGS, customers_folder, folder_of, tags_of

Layers = Sequence[Mapping[str, bytes | None]]
"""State that is pending, the newest first."""


class PendingEdges:
    """Of one ledger."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._differences: dict[str, _Difference] = {}

    def touch(self, key: str) -> None:
        """The record of the key changes; cheap as long as nobody asks for members."""
        if self._differences and (difference := self._differences.get(folder_of(key))) is not None:
            difference.touched[key] = None

    def forget(self) -> None:
        """What was pending is the store's."""
        self._differences.clear()

    def members(self, source: str, tag: str, layers: Layers) -> Iterator[str]:
        """See `Ledger.members`."""
        folder = customers_folder(source)
        difference = self._difference(folder, layers)
        lost, gained = set(difference.lost.get(tag, ())), list(difference.gained.get(tag, ()))
        for uid in self._store.members(source, tag):
            if folder + uid not in lost:
                yield uid
        for key in gained:
            yield key[len(folder) :]

    def count(self, source: str, tag: str, layers: Layers) -> int:
        """How many members the tag has."""
        difference = self._difference(customers_folder(source), layers)
        more, less = difference.gained.get(tag, ()), difference.lost.get(tag, ())
        return self._store.members_count(source, tag) + len(more) - len(less)

    def tags(self, source: str, layers: Layers) -> list[str]:
        """Those with a member."""
        difference = self._difference(customers_folder(source), layers)
        found = dict.fromkeys(self._store.member_tags(source))
        found.update((tag, None) for tag, keys in difference.gained.items() if keys)
        emptied = {tag for tag, keys in difference.lost.items() if keys and not self.count(source, tag, layers)}
        return [tag for tag in found if tag not in emptied]

    def _difference(self, folder: str, layers: Layers) -> _Difference:
        """Up to now."""
        difference = self._differences.get(folder)
        if difference is None:
            difference = self._differences[folder] = _Difference()
            for layer in layers:
                difference.touched.update((key, None) for key in layer if key.startswith(folder))
        if difference.touched:
            new = [key for key in difference.touched if key not in difference.stored]
            values = self._store.get_many(new)
            difference.stored.update((key, tags_of(key, values.get(key))) for key in new)
            for key in difference.touched:
                newest = next(layer[key] for layer in layers if key in layer)
                difference.change(key, tags_of(key, newest))
            difference.touched.clear()
        return difference


class _Difference:
    """Of one source. stored, now: tags of the customers with a pending record; gained, lost: their keys by tag.

    touched: keys of records that have changed since these were worked out.
    """

    def __init__(self) -> None:
        self.touched: dict[str, None] = {}
        self.stored: dict[str, tuple[str, ...]] = {}
        self.now: dict[str, tuple[str, ...]] = {}
        self.gained: dict[str, dict[str, None]] = {}
        self.lost: dict[str, dict[str, None]] = {}

    def change(self, key: str, tags: tuple[str, ...]) -> None:
        """The customer has these tags now, and no others."""
        stored = set(self.stored.get(key, NO_TAGS))
        before = self.now.get(key, self.stored.get(key, NO_TAGS))
        for tag in before:
            self._turn(key, tag, stored, has=False)
        for tag in tags:
            self._turn(key, tag, stored, has=True)
        self.now[key] = tags

    def _turn(self, key: str, tag: str, stored: set[str], *, has: bool) -> None:
        differing = self.lost if tag in stored else self.gained
        if has is (tag in stored):
            differing.get(tag, {}).pop(key, None)
        else:
            differing.setdefault(tag, {})[key] = None
