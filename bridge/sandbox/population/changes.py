"""What can be done to customers by their id, for providers that know them by nothing else, and to tags with a life.

Beside `bridge.sandbox.world`, which does the rest; the same register, so the same truth log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bridge.clock import Clock
from bridge.errors import RequestRefused
from bridge.model import Body
from bridge.sandbox.population.customers import Customers
from bridge.sandbox.population.register import Register


class Changes:
    """Operations raise `RequestRefused` (404 unknown, 409 taken), and then nothing has changed.

    Their `at` is the wall-clock second of the change, None for now.
    """

    def __init__(self, register: Register, clock: Clock) -> None:
        self._register = register
        self._clock = clock

    # Customers.

    def row(self, uid: str) -> int:
        """Of a living customer."""
        customers, row = self._customers, self._customers.row_of.get(uid)
        if row is None or not customers.alive(row):
            raise RequestRefused("no such customer", status=404)
        return row

    def successor(self, uid: str) -> str | None:
        """The living customer into whom a merged one went, at last; None when it did not go into anybody."""
        customers, into = self._customers, uid
        while (row := customers.row_of.get(into)) is not None and not customers.alive(row):
            into = self._register.document(row).get("merged_into", "")
        return None if row is None or into == uid else into

    def replace(self, uid: str, fields: Mapping[str, Any], *, at: float | None = None) -> Body:
        """Put these fields, None for one that shall be gone, in place of what they name. `Any`: JSON values.

        What changes nothing leaves no trace.
        """
        row = self.row(uid)
        document = self._register.document(row)
        changed = {name: value for name, value in fields.items() if value != document.get(name)}
        return self._register.change(row, changed, self._at(at)) if changed else document

    def merge(self, duplicate: str, survivor: str, *, at: float | None = None) -> Body:
        """Two customers were one and the same; returns the survivor."""
        if duplicate == survivor:
            raise RequestRefused("a customer cannot be merged into itself", status=422)
        return self._register.merge(self.row(duplicate), self.row(survivor), self._at(at))

    def pay(self, uid: str, *, at: float | None = None) -> Body:
        """A payment: numbers that move without anybody changing anything."""
        return self._register.pay(self.row(uid), self._at(at))

    # Memberships.

    def tag(self, tag_id: str, uids: Iterable[str], *, on: bool, at: float | None = None) -> None:
        """Give customers a tag or take it from them; whoever has (or lacks) it already, or is unknown, is passed over.

        A tag that is gone is given to nobody.
        """
        customers, moment = self._customers, self._at(at)
        for row in self._rows(uids):
            tags = customers.tags[row]
            if on and tag_id in self._register.tags and tag_id not in tags:
                self._register.retag(row, (*tags, tag_id), moment)
            elif not on and tag_id in tags:
                self._register.retag(row, tuple(tag for tag in tags if tag != tag_id), moment)

    # Tags.

    def rename_tag(self, tag_id: str, name: str, *, at: float | None = None) -> Body:
        """Another name for a tag; the old one is free at once."""
        tag = self._register.tags.get(tag_id)
        if tag is None:
            raise RequestRefused("no such tag", status=404)
        other = self._register.named(name)
        if other is not None and other["id"] != tag_id and self._register.dialect.unique_tag_names:
            raise RequestRefused("the name is in use", status=409)
        return tag if tag["tag"] == name else self._register.rename_tag(tag_id, name, self._at(at))

    def retire_tag(self, tag_id: str, *, at: float | None = None) -> list[str]:
        """The tag is gone and its name is free; returns the customers that show it until it has faded from them."""
        if tag_id not in self._register.tags:
            raise RequestRefused("no such tag", status=404)
        uids = [self._customers.uids[row] for row in self._customers.members[tag_id]]
        self._register.retire_tag(tag_id, self._at(at))
        return uids

    def fade(self, tag_id: str, uids: Iterable[str], *, at: float | None = None) -> None:
        """These customers do not show a retired tag any more."""
        self._register.fade(tag_id, self._rows(uids), self._at(at))

    @property
    def _customers(self) -> Customers:
        return self._register.customers

    def _rows(self, uids: Iterable[str]) -> list[int]:
        """Of those that are alive."""
        rows = (self._customers.row_of.get(uid) for uid in uids)
        return [row for row in rows if row is not None and self._customers.alive(row)]

    def _at(self, at: float | None) -> float:
        return self._clock.wall() if at is None else at
