"""The webhook endpoints: configuration, credentials, a test delivery, the log of deliveries; and automation rules."""

from __future__ import annotations

from bridge.model import Body
from bridge.sandbox.answer import Answer
from bridge.sandbox.rebilly.call import Call, done, found
from bridge.sandbox.rebilly.filters import Field, Kind
from bridge.sandbox.rebilly.forms import well_formed_id
from bridge.sandbox.rebilly.hooks import without_secret
from bridge.sandbox.rebilly.listing import list_rows
from bridge.sandbox.rebilly.problems import Problem


def _field(name: str, kind: Kind = "text") -> Field:
    return Field(kind, lambda row: row.get(name))


STORED_FIELDS: dict[str, Field] = {
    **{name: _field(name) for name in ("id", "status", "method", "url", "eventType", "entityId", "host")},
    **{name: _field(name, "instant") for name in ("createdTime", "updatedTime")},
}


def list_webhooks(call: Call) -> Answer:
    return list_rows(call, [_shown(call, hook) for hook in call.office.hooks.webhooks.values()], STORED_FIELDS)


def create_webhook(call: Call) -> Answer:
    hook = call.office.hooks.put_webhook(call.form(), call.world.clock.wall())
    return found(_shown(call, hook), 201, call.view.href("webhooks", hook["id"]))


def read_webhook(call: Call) -> Answer:
    return found(_shown(call, _webhook(call)))


def put_webhook(call: Call) -> Answer:
    uid = well_formed_id(call.arguments[0])
    status = 200 if uid in call.office.hooks.webhooks else 201
    hook = call.office.hooks.put_webhook(call.form(), call.world.clock.wall(), uid)
    return found(_shown(call, hook), status, call.view.href("webhooks", uid) if status == 201 else None)


def delete_webhook(call: Call) -> Answer:
    del call.office.hooks.webhooks[_webhook(call)["id"]]
    return done()


def preview_webhook(call: Call) -> Answer:
    call.office.post.preview(call.office.hooks.webhook_form(call.form()), call.switches, call.view)
    return done()


def list_deliveries(call: Call) -> Answer:
    return list_rows(call, [_delivered(call, entry) for entry in call.office.post.log], STORED_FIELDS)


def read_delivery(call: Call) -> Answer:
    entry = next((entry for entry in call.office.post.log if entry["id"] == call.arguments[0]), None)
    if entry is None:
        raise Problem(404, "no such delivery")
    return found(_delivered(call, entry))


def resend_delivery(call: Call) -> Answer:
    call.office.post.resend(call.arguments[0])
    return done()


def list_credentials(call: Call) -> Answer:
    return list_rows(call, [without_secret(one) for one in call.office.hooks.credentials.values()], STORED_FIELDS)


def create_credential(call: Call) -> Answer:
    credential, new = call.office.hooks.add_credential(call.form())
    location = call.view.href("service-credentials", "webhook", credential["id"])
    return found(without_secret(credential), 201 if new else 303, location)


def list_rules(call: Call) -> Answer:
    return list_rows(call, list(call.office.hooks.rules.values()), STORED_FIELDS)


def create_rule(call: Call) -> Answer:
    rule = call.office.hooks.add_rule(call.form(), call.world.clock.wall())
    return found(rule, 201, call.view.href("tags-rules", rule["id"]))


def _webhook(call: Call) -> Body:
    hook = call.office.hooks.webhooks.get(call.arguments[0])
    if hook is None:
        raise Problem(404, "no such webhook")
    return hook


def _delivered(call: Call, entry: Body) -> Body:
    names = ("initiatedTime", "sentTime", "createdTime", "updatedTime")
    return entry | {name: call.view.time(entry[name]) for name in names}


def _shown(call: Call, hook: Body) -> Body:
    times = {name: call.view.time(hook[name]) for name in ("createdTime", "updatedTime")}
    return hook | times | {"_links": [{"rel": "self", "href": call.view.href("webhooks", hook["id"])}]}
