"""Truth: the history of every document and membership of a simulated provider, as the bridge has to tell it.

Built from what the world held in the beginning and from its truth log, mapped as the source maps rows, compared by
essence. A version is a digest and the moment from which it was true; None is "gone". A membership is an edge
(tag, customer): it is kept apart from the customer's document, because each edge is an event of its own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from bridge.detect.essence import essence
from bridge.model import Body, Collection
from bridge.sandbox.population.truth import Truth
from bridge.sandbox.simulation.vendors import Vendor
from bridge.sandbox.world import World
from bridge.verify.tables import document_digest

EVER = float("-inf")
"""Since when what was there in the beginning is true."""


class Version(NamedTuple):
    """at: wall-clock seconds, -inf for what was there in the beginning. digest: of the essence; None when gone."""

    at: float
    digest: int | None


class Moment(NamedTuple):
    """Of an edge: from when on it was there, or was not."""

    at: float
    there: bool


Key = tuple[Collection, str]

Edge = tuple[str, str]
"""Tag and customer, by uid."""


def digest_of(body: Body) -> int:
    """Of what counts of a document, without the tags of a customer."""
    return document_digest({name: value for name, value in essence(body).items() if name != "tags"})


class History:
    """Versions by collection and uid, and moments by edge, oldest first. An edge that never was has none.

    merged: into whom a customer went, by uid. names: every `customer_id` that a customer has had, with its moment.
    """

    def __init__(self, world: World, vendor: Vendor) -> None:
        self._world = world
        self._vendor = vendor
        self.merged: dict[str, str] = {}
        self.names: dict[str, list[tuple[float, str]]] = defaultdict(list)
        self._told = world.truth.number
        self._raw: dict[Key, Body] = {}
        self._tags: dict[str, set[str]] = defaultdict(set)
        self.versions: dict[Key, list[Version]] = {}
        self.edges: dict[Edge, list[Moment]] = {}
        customers = world.customers
        for row in range(len(customers.uids)):
            if customers.alive(row):
                self._set(EVER, Collection.CUSTOMERS, world.register.document(row))
                for tag in customers.tags[row]:
                    self._tie(EVER, tag, customers.uids[row])
        for document in world.tags.values():
            self._set(EVER, Collection.TAGS, document)
        for document in world.staff.users.values():
            self._set(EVER, Collection.USERS, document)

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

    def gone(self, key: Key, at: float) -> bool:
        """Whether the document was there, and is not any more at that moment."""
        versions = self.versions.get(key, [])
        last = bisect_right(versions, at, key=_at) - 1
        return last >= 0 and versions[last].digest is None

    def between(self, key: Key, first: float, last: float) -> set[int | None]:
        """Every digest that was true at some moment from `first` to `last`."""
        versions = self.versions.get(key, [])
        span, before = _span(versions, first, last)
        found: set[int | None] = {version.digest for version in versions[span]}
        return found | {None} if before else found

    def between_of(self, edge: Edge, first: float, last: float) -> set[bool]:
        """Whether the edge was there, at some moment or another from `first` to `last`."""
        moments = self.edges.get(edge, [])
        span, before = _span(moments, first, last)
        found = {moment.there for moment in moments[span]}
        return found | {False} if before else found

    def _take(self, entry: Truth) -> None:
        key = (entry.collection, entry.uid)
        match entry.kind:
            case "created":
                self._set(entry.at, entry.collection, dict(entry.detail["document"]))
            case "updated" | "renamed":
                merged = {**self._raw[key], **entry.detail["changed"]}
                self._set(entry.at, entry.collection, {k: v for k, v in merged.items() if v is not None})
            case "deleted" | "merged":
                del self._raw[key]
                self._end(key, entry.at)
                if entry.kind == "merged":
                    self.merged[entry.uid] = entry.detail["into"]
            case "tagged":
                self._tie(entry.at, entry.detail["tag"], entry.uid)
            case "untagged":
                tag = entry.detail["tag"]
                if tag in self._tags[entry.uid]:  # one that is gone may have faded from a customer only now
                    self._tags[entry.uid].discard(tag)
                    self.edges[tag, entry.uid].append(Moment(entry.at, False))
            case kind:
                raise AssertionError(f"the truth log tells of {kind}")

    def _set(self, at: float, collection: Collection, raw: Body) -> None:
        key = (collection, raw["id"])
        self._raw[key] = raw
        mapped = self._vendor.mapped(self._world, collection, raw)
        if mapped is None:
            return
        self.versions.setdefault(key, []).append(Version(at, digest_of(mapped.body)))
        if collection is Collection.CUSTOMERS:
            self.names[raw["id"]].append((at, mapped.body["customer_id"]))

    def _end(self, key: Key, at: float) -> None:
        """It is gone, and all its edges. (Most tags have lost theirs before.)"""
        collection, uid = key
        if key in self.versions:
            self.versions[key].append(Version(at, None))
        if collection is Collection.CUSTOMERS:
            for tag in self._tags.pop(uid, ()):
                self.edges[tag, uid].append(Moment(at, False))
        elif collection is Collection.TAGS:
            for customer, tags in self._tags.items():
                if uid in tags:
                    tags.discard(uid)
                    self.edges[uid, customer].append(Moment(at, False))

    def _tie(self, at: float, tag: str, customer: str) -> None:
        self._tags[customer].add(tag)
        self.edges.setdefault((tag, customer), []).append(Moment(at, True))


def _span(moments: Sequence[Version | Moment], first: float, last: float) -> tuple[slice, bool]:
    """Those that were true at some time from `first` to `last`; and whether `first` was before them all."""
    begin = bisect_right(moments, first, key=_at) - 1
    end = bisect_right(moments, last, key=_at)
    return slice(max(0, begin), end), begin < 0


def _at(moment: Version | Moment) -> float:
    return moment.at
