"""The customer endpoints: reading, replacing, merging, and what has happened to somebody."""

from __future__ import annotations

from bridge.model import Body
from bridge.sandbox.answer import Answer
from bridge.sandbox.rebilly import documents, forms
from bridge.sandbox.rebilly.call import Call, done, found
from bridge.sandbox.rebilly.listing import list_rows, show
from bridge.sandbox.rebilly.problems import invalid
from bridge.sandbox.rebilly.timeline import TIMELINE_FIELDS

WRITABLE = ("primaryAddress", "customFields", *documents.EXTRA)


def read_customer(call: Call) -> Answer:
    (uid,) = call.arguments
    successor = call.world.changes.successor(uid)
    if successor is not None and call.switches.merged_read != "404":
        if call.switches.merged_read == "survivor":
            return found(show(call, call.world.changes.row(successor)))
        return Answer(301, headers={"location": call.view.href("customers", successor)})
    return found(show(call, call.world.changes.row(uid)))


def create_customer(call: Call) -> Answer:
    made = call.world.create_customer(forms.customer_form(call.form()))
    return _created(call, made["id"])


def put_customer(call: Call) -> Answer:
    """Create, or replace by what is given and nothing else. What changes nothing that shows leaves no trace."""
    uid, fields = forms.well_formed_id(call.arguments[0]), forms.customer_form(call.form())
    customers = call.world.customers
    row = customers.row_of.get(uid)
    if row is None or not customers.alive(row):  # an id that somebody had is taken for ever: 409
        call.world.create_customer({**fields, "id": uid})
        return _created(call, uid)
    before = call.world.register.document(row)
    after = {name: value for name, value in {**before, **fields}.items() if value is not None}
    if _written(call, before) != _written(call, after):
        call.world.changes.replace(uid, fields)
    return found(show(call, row))


def merge_customer(call: Call) -> Answer:
    """The customer in the path is the duplicate: it goes, the target stays."""
    target = call.first("targetCustomerId")
    if not target:
        raise invalid("targetCustomerId", "is required")
    call.world.changes.merge(call.arguments[0], target)
    return done()


def list_timeline(call: Call) -> Answer:
    return list_rows(call, call.office.timeline.of(call.arguments[0], call.view), TIMELINE_FIELDS)


def _created(call: Call, uid: str) -> Answer:
    return found(show(call, call.world.changes.row(uid)), 201, call.view.href("customers", uid))


def _written(call: Call, document: Body) -> Body:
    return documents.customer(document, (), call.view, WRITABLE)
