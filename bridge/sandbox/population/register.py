"""The one place through which the world changes: each change is stamped, stored and recorded here, as a whole.

The register knows rows and documents; who may change what, and under which customer_id, is the world's business.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import orjson

from bridge.model import Body, Collection
from bridge.sandbox.population.customers import TYPES, Customers
from bridge.sandbox.population.dialect import DINTERO, Dialect, new_id
from bridge.sandbox.population.instants import Precision, Stamper, render
from bridge.sandbox.population.truth import TruthLog


@dataclass(frozen=True, slots=True)
class Rules:
    """What the provider's documents leave open and a switch of the sandbox decides.

    precision: of all time stamps. late_visibility_s: lists show a change only so many seconds after its stamp.
    The others say what moves a customer beyond its own fields: `updated_at`, or the `revision` where there is one.
    union_of_tags: whether a merge gives the survivor the tags of the duplicate.
    """

    precision: Precision = "seconds"
    late_visibility_s: float = 0.0
    tag_bumps_updated_at: bool = False
    tag_bumps_revision: bool = False
    rename_bumps_updated_at: bool = True
    tag_rename_moves_customers: bool = False
    payment_moves_customers: bool = False
    union_of_tags: bool = True


class Register:
    """Customers, tags and the truth log, kept consistent. `at`: wall-clock seconds of a change."""

    def __init__(self, seed: int, rules: Rules, dialect: Dialect = DINTERO) -> None:
        self.rules = rules
        self.dialect = dialect
        self.truth = TruthLog()
        self.customers = Customers()
        self.tags: dict[str, Body] = {}
        self.tag_ids: list[str] = []
        """Those that a customer can have, in order of creation."""
        self.fading: dict[str, Body] = {}
        """Tags that are gone and that some customers still show, by id."""
        self.ids = Random(f"{seed}/ids")
        self.client_id = self.new_id(Random(f"{seed}/client"))
        """Who all writes are attributed to."""
        self._stamper = Stamper()

    def new_id(self, rng: Random | None = None) -> str:
        """A random UUID (version 4) from the seed."""
        return new_id("", (rng or self.ids).getrandbits(128))

    def new_tag_id(self, rng: Random | None = None) -> str:
        """As the dialect writes it."""
        return new_id(self.dialect.tag_prefix, (rng or self.ids).getrandbits(128))

    def begin(self, micros: int) -> None:
        """No stamp from now on is before this instant."""
        self._stamper.last = max(self._stamper.last, micros)

    def stamp_text(self, at: float) -> str:
        """The server's time stamp of a change at `at`."""
        precision = self.rules.precision
        return render(self._stamper.stamp(at, precision), precision)

    def text(self, at: float) -> str:
        """A moment in the form of the server's time stamps, without stamping anything."""
        return render(int(at * 1_000_000), self.rules.precision)

    def document(self, row: int) -> Body:
        """The customer of a row (or its tombstone) as an object of its own."""
        document: Body = orjson.loads(self.customers.bodies[row])
        return document

    # Customers.

    def enter(self, customer_id: str, kind: int, fields: bytes, at: float, uid: str | None = None) -> Body:
        """A new customer; `fields`: the inside of a JSON object."""
        uid, instant = uid or new_id(self.dialect.customer_prefix, self.ids.getrandbits(128)), self.stamp_text(at)
        head: Body = {"id": uid, "customer_id": customer_id, "type": TYPES[kind], "created_at": instant}
        head |= {"created_by": self.client_id, "updated_at": instant}
        head |= {"revision": 1} if self.dialect.revisions else {}
        body = b"%b%b}" % (orjson.dumps(head)[:-1], b"," + fields if fields else b"")
        row = self.customers.append(uid, customer_id, kind, body, self._stamper.last)
        self._hold_back(row, at, unseen=True)
        document = self.document(row)
        self._link(row, document)
        self.truth.append(at, "created", Collection.CUSTOMERS, uid, {"document": document})
        return dict(document)

    def change(self, row: int, changed: Body, at: float) -> Body:
        """Replace fields, None removes one."""
        document = self._rewrite(row, changed, at)
        self.truth.append(at, "updated", Collection.CUSTOMERS, document["id"], {"changed": changed | moved(document)})
        return document

    def rename(self, row: int, new: str, metadata: Body, at: float) -> Body:
        """Another customer_id, and the metadata that says so."""
        old, changed = self.customers.customer_ids[row], {"customer_id": new, "metadata": metadata}
        document = self._rewrite(row, changed, at, bump=self.rules.rename_bumps_updated_at)
        self.customers.rename(row, new)
        detail = {"from": old, "to": new, "changed": changed | moved(document)}
        self.truth.append(at, "renamed", Collection.CUSTOMERS, document["id"], detail)
        return document

    def leave(self, row: int, at: float) -> Body:
        """Only the tombstone stays."""
        tombstone = self._bury(row, {}, at)
        self.truth.append(at, "deleted", Collection.CUSTOMERS, tombstone["id"], {"document": dict(tombstone)})
        return tombstone

    def merge(self, row: int, survivor: int, at: float) -> Body:
        """The customer of `row` was the same as the survivor: a tombstone says so, and the survivor has moved."""
        tags, into = self.customers.tags[row], self.customers.uids[survivor]
        was = {"was": self.document(row), "tags": self.tags_of(row)}
        tombstone = self._bury(row, {"merged_into": into}, at)
        detail = {"into": into, "document": dict(tombstone), **was}
        self.truth.append(at, "merged", Collection.CUSTOMERS, tombstone["id"], detail)
        document = self.change(survivor, {}, at)
        if self.rules.union_of_tags:
            own = self.customers.tags[survivor]
            new = tuple(tag for tag in tags if tag not in own and tag in self.tags)
            self.customers.set_tags(survivor, own + new)
            for tag in new:
                self._edge("tagged", survivor, tag, at, {})
        return document

    def pay(self, row: int, at: float) -> Body:
        """One payment more, which is no change of the customer unless the rules say so."""
        moves = self.rules.payment_moves_customers
        changed: Body = {"payments": self.document(row).get("payments", 0) + 1, "paid_at": self.stamp_text(at)}
        document = self._rewrite(row, changed, at, bump=moves, count=moves)
        self.truth.append(at, "updated", Collection.CUSTOMERS, document["id"], {"changed": changed | moved(document)})
        return document

    def retag(self, row: int, tags: tuple[str, ...], at: float) -> None:
        """Replace the memberships of a customer by tags that exist."""
        before = self.customers.tags[row]
        edges = [("untagged", tag) for tag in before if tag not in tags]
        edges += [("tagged", tag) for tag in tags if tag not in before]
        if not edges:
            return
        bump, count = self.rules.tag_bumps_updated_at, self.rules.tag_bumps_revision
        moves = moved(self._rewrite(row, {}, at, bump=bump, count=count)) if bump or count else {}
        self.customers.set_tags(row, tags)
        for kind, tag in edges:
            self._edge(kind, row, tag, at, moves)

    # Tags.

    def tags_of(self, row: int) -> list[Body]:
        """The tags that a customer shows, as they were assigned."""
        return [self._tag(tag_id) for tag_id in self.customers.tags[row]]

    def named(self, name: str) -> Body | None:
        """The tag with this name, letter case aside; the first where names are not unique."""
        folded = name.lower()
        return next((tag for tag in self.tags.values() if tag["tag"].lower() == folded), None)

    def add_tag(self, tag: Body) -> None:
        """Put a finished tag in place, unrecorded: the beginning of the world."""
        self.tags[tag["id"]] = tag
        if "type" not in tag:
            self.tag_ids.append(tag["id"])
        self.customers.members[tag["id"]] = array("q")

    def enter_tag(
        self, name: str, metadata: Mapping[str, Any] | None, at: float, foreign_type: str | None = None
    ) -> Body:
        """A new tag. `foreign_type`: of what, if not of customers. `Any`: JSON values."""
        instant = self.stamp_text(at)
        tag: Body = {"id": self.new_tag_id(), "tag": name, "created_at": instant, "updated_at": instant}
        tag |= {"created_by": self.client_id, **({"metadata": dict(metadata)} if metadata else {})}
        tag |= {"type": foreign_type} if foreign_type else {}
        self.add_tag(tag)
        self.truth.append(at, "created", Collection.TAGS, tag["id"], {"document": dict(tag)})
        return tag

    def rename_tag(self, tag_id: str, name: str, at: float) -> Body:
        """Another name; customers move only if the rules say so."""
        changed: Body = {"tag": name, "updated_at": self.stamp_text(at)}
        self.tags[tag_id] = {**self.tags[tag_id], **changed}
        self.truth.append(at, "updated", Collection.TAGS, tag_id, {"changed": changed})
        if self.rules.tag_rename_moves_customers:
            for row in self.customers.members[tag_id]:
                self.change(row, {}, at)
        return self.tags[tag_id]

    def leave_tag(self, tag_id: str, at: float) -> Body:
        """The tag and all its memberships are gone; customers do not move."""
        for row in list(self.customers.members[tag_id]):
            self.customers.drop_tag(row, tag_id)
            self._edge("untagged", row, tag_id, at, {})
        del self.customers.members[tag_id]
        return self._take_tag(tag_id, at) | {"deleted_at": self.stamp_text(at), "deleted_by": self.client_id}

    def retire_tag(self, tag_id: str, at: float) -> None:
        """The tag is gone; its memberships stay until they `fade`."""
        self.fading[tag_id] = self._take_tag(tag_id, at)
        self.fade(tag_id, (), at)

    def fade(self, tag_id: str, rows: Iterable[int], at: float) -> None:
        """Customers do not show a retired tag any more; those that do not have it are passed over."""
        for row in rows:
            self.retag(row, tuple(tag for tag in self.customers.tags[row] if tag != tag_id), at)
        if tag_id in self.fading and not self.customers.members[tag_id]:
            del self.fading[tag_id], self.customers.members[tag_id]

    def _tag(self, tag_id: str) -> Body:
        return self.tags.get(tag_id) or self.fading[tag_id]

    def _take_tag(self, tag_id: str, at: float) -> Body:
        if tag_id in self.tag_ids:
            self.tag_ids.remove(tag_id)
        self.truth.append(at, "deleted", Collection.TAGS, tag_id, {})
        return self.tags.pop(tag_id)

    # What changes of customers have in common.

    def _bury(self, row: int, more: Body, at: float) -> Body:
        self._hold_back(row, at)
        document = self.document(row)
        tombstone = {name: document[name] for name in ("id", "customer_id", "created_at", "created_by")}
        tombstone |= {"deleted_at": self.stamp_text(at), "deleted_by": self.client_id} | more
        self.customers.bury(row, orjson.dumps(tombstone), self._stamper.last)
        return tombstone

    def _rewrite(self, row: int, changed: Body, at: float, *, bump: bool = True, count: bool = True) -> Body:
        self._hold_back(row, at)
        merged = {**self.document(row), **changed}
        document = {name: value for name, value in merged.items() if value is not None}
        stamp = self.customers.stamps[row]
        if count and self.dialect.revisions:
            document["revision"] += 1
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

    def _edge(self, kind: str, row: int, tag: str, at: float, moves: Body) -> None:
        detail = {"tag": tag, "name": self._tag(tag)["tag"], **moves}
        self.truth.append(at, kind, Collection.CUSTOMERS, self.customers.uids[row], detail)

    def _hold_back(self, row: int, at: float, *, unseen: bool = False) -> None:
        if self.rules.late_visibility_s > 0:
            self.customers.hold_back(row, at + self.rules.late_visibility_s, unseen=unseen)


def moved(document: Body) -> Body:
    """Of a customer's document what every change of it moves."""
    return {name: document[name] for name in ("updated_at", "revision") if name in document}
