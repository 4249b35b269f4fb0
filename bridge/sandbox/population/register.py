"""The one place through which the world changes: each change is stamped, stored and recorded here, as a whole.

The register knows rows and documents; who may change what, and under which customer_id, is the world's business.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any
from uuid import UUID

import orjson

from bridge.model import Body, Collection
from bridge.sandbox.population.customers import TYPES, Customers
from bridge.sandbox.population.instants import Precision, Stamper, render
from bridge.sandbox.population.truth import TruthLog


@dataclass(frozen=True, slots=True)
class Rules:
    """What the provider's documents leave open and a switch of the sandbox decides.

    precision: of all time stamps. late_visibility_s: lists show a change only so many seconds after its stamp.
    """

    precision: Precision = "seconds"
    late_visibility_s: float = 0.0
    tag_bumps_updated_at: bool = False
    rename_bumps_updated_at: bool = True


class Register:
    """Customers, tags and the truth log, kept consistent. `at`: wall-clock seconds of a change."""

    def __init__(self, seed: int, rules: Rules) -> None:
        self.rules = rules
        self.truth = TruthLog()
        self.customers = Customers()
        self.tags: dict[str, Body] = {}
        self.tag_ids: list[str] = []
        """In order of creation."""
        self.ids = Random(f"{seed}/ids")
        self.client_id = self.new_id(Random(f"{seed}/client"))
        """Who all writes are attributed to."""
        self._stamper = Stamper()

    def new_id(self, rng: Random | None = None) -> str:
        """A random UUID (version 4) from the seed."""
        return str(UUID(int=(rng or self.ids).getrandbits(128), version=4))

    def begin(self, micros: int) -> None:
        """No stamp from now on is before this instant."""
        self._stamper.last = max(self._stamper.last, micros)

    def stamp_text(self, at: float) -> str:
        """The server's time stamp of a change at `at`."""
        precision = self.rules.precision
        return render(self._stamper.stamp(at, precision), precision)

    def document(self, row: int) -> Body:
        """The customer of a row (or its tombstone) as an object of its own."""
        document: Body = orjson.loads(self.customers.bodies[row])
        return document

    # Customers.

    def enter(self, customer_id: str, kind: int, fields: bytes, at: float) -> Body:
        """A new customer; `fields`: the inside of a JSON object."""
        uid, instant = self.new_id(), self.stamp_text(at)
        head = {"id": uid, "customer_id": customer_id, "type": TYPES[kind], "created_at": instant}
        head |= {"created_by": self.client_id, "updated_at": instant}
        body = b"%b%b}" % (orjson.dumps(head)[:-1], b"," + fields if fields else b"")
        row = self.customers.append(uid, customer_id, kind, body, self._stamper.last)
        self._hold_back(row, at, unseen=True)
        document = self.document(row)
        self._link(row, document)
        self.truth.append(at, "created", Collection.CUSTOMERS, uid, {"document": document})
        return dict(document)

    def change(self, row: int, changed: Mapping[str, Any], at: float) -> Body:
        """Replace fields, None removes one. `Any`: JSON values."""
        document = self._rewrite(row, changed, at, bump=True)
        detail = {"changed": {**changed, "updated_at": document["updated_at"]}}
        self.truth.append(at, "updated", Collection.CUSTOMERS, document["id"], detail)
        return document

    def rename(self, row: int, new: str, metadata: Body, at: float) -> Body:
        """Another customer_id, and the metadata that says so."""
        old, changed = self.customers.customer_ids[row], {"customer_id": new, "metadata": metadata}
        document = self._rewrite(row, changed, at, bump=self.rules.rename_bumps_updated_at)
        self.customers.rename(row, new)
        detail = {"from": old, "to": new, "changed": {**changed, "updated_at": document["updated_at"]}}
        self.truth.append(at, "renamed", Collection.CUSTOMERS, document["id"], detail)
        return document

    def leave(self, row: int, at: float) -> Body:
        """Only the tombstone stays."""
        self._hold_back(row, at)
        document = self.document(row)
        tombstone = {name: document[name] for name in ("id", "customer_id", "created_at", "created_by")}
        tombstone |= {"deleted_at": self.stamp_text(at), "deleted_by": self.client_id}
        self.customers.bury(row, orjson.dumps(tombstone), self._stamper.last)
        self.truth.append(at, "deleted", Collection.CUSTOMERS, document["id"], {"document": dict(tombstone)})
        return tombstone

    def retag(self, row: int, tags: tuple[str, ...], at: float) -> None:
        """Replace the memberships of a customer by tags that exist."""
        before = self.customers.tags[row]
        edges = [("untagged", tag) for tag in before if tag not in tags]
        edges += [("tagged", tag) for tag in tags if tag not in before]
        if not edges:
            return
        moved: Body = {}
        if self.rules.tag_bumps_updated_at:
            moved = {"updated_at": self._rewrite(row, {}, at, bump=True)["updated_at"]}
        self.customers.set_tags(row, tags)
        for kind, tag in edges:
            self._edge(kind, row, tag, at, moved)

    # Tags.

    def add_tag(self, tag: Body) -> None:
        """Put a finished tag in place, unrecorded: the beginning of the world."""
        self.tags[tag["id"]] = tag
        self.tag_ids.append(tag["id"])
        self.customers.members[tag["id"]] = array("q")

    def enter_tag(self, name: str, metadata: Mapping[str, Any] | None, at: float) -> Body:
        """A new tag. `Any`: JSON values."""
        instant = self.stamp_text(at)
        tag: Body = {"id": self.new_id(), "tag": name, "created_at": instant, "updated_at": instant}
        tag |= {"created_by": self.client_id, **({"metadata": dict(metadata)} if metadata else {})}
        self.add_tag(tag)
        self.truth.append(at, "created", Collection.TAGS, tag["id"], {"document": dict(tag)})
        return tag

    def leave_tag(self, tag_id: str, at: float) -> Body:
        """The tag and all its memberships are gone; customers do not move."""
        for row in list(self.customers.members[tag_id]):
            self.customers.drop_tag(row, tag_id)
            self._edge("untagged", row, tag_id, at, {})
        del self.customers.members[tag_id]
        self.tag_ids.remove(tag_id)
        self.truth.append(at, "deleted", Collection.TAGS, tag_id, {})
        return self.tags.pop(tag_id) | {"deleted_at": self.stamp_text(at), "deleted_by": self.client_id}

    # What changes of customers have in common.

    def _rewrite(self, row: int, changed: Mapping[str, Any], at: float, *, bump: bool) -> Body:
        self._hold_back(row, at)
        merged = {**self.document(row), **changed}
        document = {name: value for name, value in merged.items() if value is not None}
        stamp = self.customers.stamps[row]
        if bump:
            document["updated_at"] = self.stamp_text(at)
            stamp = self._stamper.last
        self.customers.replace(row, orjson.dumps(document), TYPES.index(document["type"]), stamp)
        self._link(row, document)
        return document

    def _link(self, row: int, document: Body) -> None:
        links = document.get("contact_for") if document["type"] == "contact" else None
        if links:
            self.customers.links[row] = tuple(link["customer_id"] for link in links)
        else:
            self.customers.links.pop(row, None)

    def _edge(self, kind: str, row: int, tag: str, at: float, moved: Body) -> None:
        detail = {"tag": tag, "name": self.tags[tag]["tag"], **moved}
        self.truth.append(at, kind, Collection.CUSTOMERS, self.customers.uids[row], detail)

    def _hold_back(self, row: int, at: float, *, unseen: bool = False) -> None:
        if self.rules.late_visibility_s > 0:
            self.customers.hold_back(row, at + self.rules.late_visibility_s, unseen=unseen)
