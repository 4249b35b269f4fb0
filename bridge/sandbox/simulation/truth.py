"""Truth: the history of every document of a simulated provider, as the bridge has to tell it.

Built from what the world held in the beginning and from its truth log, mapped as the source maps rows, compared by
essence. A version is a digest and the moment from which it was true; None is "gone".
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

from bridge.detect.essence import essence
from bridge.model import Body, Collection, Document
from bridge.sandbox.population.truth import Truth
from bridge.sandbox.world import World
from bridge.source.dintero import models
from bridge.verify.tables import document_digest


class Version(NamedTuple):
    """at: wall-clock seconds, -inf for what was there in the beginning. digest: of the essence; None when gone."""

    at: float
    digest: int | None


Key = tuple[Collection, str]


class History:
    """Versions by collection and uid, oldest first."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._told = world.truth.number
        self._raw: dict[Key, Body] = {}
        self.versions: dict[Key, list[Version]] = {}
        customers = world.customers
        for row in range(len(customers.uids)):
            if customers.alive(row):
                self._set(float("-inf"), Collection.CUSTOMERS, world.register.document(row))
        for tag in world.tags.values():
            self._set(float("-inf"), Collection.TAGS, tag)

    def update(self) -> None:
        """Take over what the truth log has got since."""
        for entry in self._world.truth.after(self._told):
            self._take(entry)
        self._told = self._world.truth.number

    def alive(self, collection: Collection, since: float) -> bool:
        """Whether the collection has a document that is there now and was there at that moment."""
        return any(
            key[0] is collection and versions[-1].digest is not None and versions[0].at < since
            for key, versions in self.versions.items()
        )

    def between(self, key: Key, first: float, last: float) -> set[int | None]:
        """Every digest that was true at some moment from `first` to `last`."""
        versions = self.versions.get(key, [])
        begin = bisect_right(versions, first, key=_at) - 1
        end = bisect_right(versions, last, key=_at)
        found: set[int | None] = {version.digest for version in versions[max(0, begin) : end]}
        return found | {None} if begin < 0 else found

    def _take(self, entry: Truth) -> None:
        key = (entry.collection, entry.uid)
        match entry.kind:
            case "created":
                self._set(entry.at, entry.collection, dict(entry.detail["document"]))
            case "updated" | "renamed":
                merged = {**self._raw[key], **entry.detail["changed"]}
                self._set(entry.at, entry.collection, {k: v for k, v in merged.items() if v is not None})
            case "deleted":
                del self._raw[key]
                self.versions[key].append(Version(entry.at, None))
            case _:
                pass  # memberships: no collection that is published yet

    def _set(self, at: float, collection: Collection, raw: Body) -> None:
        key = (collection, raw["id"])
        self._raw[key] = raw
        mapped = models.tag(raw, "") if collection is Collection.TAGS else models.customer(raw, "")
        assert isinstance(mapped, Document), "the world holds only good documents"
        self.versions.setdefault(key, []).append(Version(at, document_digest(essence(mapped.body))))


def _at(version: Version) -> float:
    return version.at
