"""The tag endpoints: tags by name, and who has which, one customer at once or up to a thousand some time later."""

from __future__ import annotations

from bridge.model import Body
from bridge.sandbox.answer import Answer
from bridge.sandbox.rebilly import documents, forms
from bridge.sandbox.rebilly.call import Call, done, found
from bridge.sandbox.rebilly.documents import TAG_FIELDS
from bridge.sandbox.rebilly.listing import list_rows
from bridge.sandbox.rebilly.problems import Problem, invalid

ENTITIES = {"customers": "customer", "kyc-documents": "kyc-document", "aml-checks": "aml-check"}
"""What can be tagged, as it stands in the path, and the type of tags that fits it."""


def list_tags(call: Call) -> Answer:
    return list_rows(call, [documents.tag(tag, call.view) for tag in call.world.tags.values()], TAG_FIELDS)


def create_tag(call: Call) -> Answer:
    name, kind = forms.tag_form(call.form())
    tag = call.world.create_tag(name, foreign_type=None if kind == "customer" else kind)
    return found(documents.tag(tag, call.view), 201, call.view.href("tags", name))


def read_tag(call: Call) -> Answer:
    return found(documents.tag(_tag(call), call.view))


def rename_tag(call: Call) -> Answer:
    tag = _tag(call)
    name, _ = forms.tag_form(call.form(), old=tag)
    return found(documents.tag(call.world.changes.rename_tag(tag["id"], name), call.view))


def delete_tag(call: Call) -> Answer:
    tag_id = _tag(call)["id"]
    uids = call.world.changes.retire_tag(tag_id)
    call.office.jobs.fade(call.switches, tag_id, uids)
    return done()


# Memberships. The second argument is what is tagged.


def tag_many(call: Call) -> Answer:
    return _many(call, on=True)


def untag_many(call: Call) -> Answer:
    return _many(call, on=False)


def tag_one(call: Call) -> Answer:
    return _one(call, on=True)


def untag_one(call: Call) -> Answer:
    return _one(call, on=False)


def _many(call: Call, *, on: bool) -> Answer:
    uids = forms.customer_ids_form(call.form())
    tag = call.world.register.named(call.arguments[0])
    if tag is None:
        unknown = call.switches.bulk_unknown_tag
        if unknown == "204":
            return done()
        raise Problem(int(unknown), "no such tag", [("tag", "does not exist")] if unknown == "422" else [])
    if not _fits(call, tag):
        raise invalid("tag", f"is for another kind than {call.arguments[1]}")
    if call.arguments[1] == "customers":
        call.office.jobs.tag(call.switches, tag["id"], uids, on=on)
    return done()


def _one(call: Call, *, on: bool) -> Answer:
    tag, (_, kind, uid) = _tag(call), call.arguments
    if kind != "customers" or not _fits(call, tag):
        raise Problem(404, f"no such {ENTITIES[kind]} for this tag")
    call.world.changes.row(uid)
    call.world.changes.tag(tag["id"], [uid], on=on)
    return done()


def _tag(call: Call) -> Body:
    tag = call.world.register.named(call.arguments[0])
    if tag is None:
        raise Problem(404, "no such tag")
    return tag


def _fits(call: Call, tag: Body) -> bool:
    kind: str = tag.get("type", "customer")
    return kind == ENTITIES[call.arguments[1]]
