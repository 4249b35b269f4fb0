"""Hooks: stored webhooks, their credentials and the automation rules: objects that people configure and read back."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from bridge.model import Body
from bridge.sandbox.population.dialect import new_id
from bridge.sandbox.population.register import Register
from bridge.sandbox.rebilly.documents import CUSTOMER_FIELDS
from bridge.sandbox.rebilly.filters import parse
from bridge.sandbox.rebilly.forms import ID, TAG_NAME
from bridge.sandbox.rebilly.problems import Invalid, Problem

ACTIVE_MAX = 25
"""Active webhooks of an organization."""
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
STATES = ("active", "inactive")
HOST = re.compile(r"[A-Za-z0-9-.]+", re.ASCII)
RULE_TAGS_MAX = 1_000
"""Tags that a rule adds, and removes."""

Check = Callable[[Any], bool]
"""`Any`: a JSON value nobody has looked at yet."""


class Hooks:
    """Three shelves of objects by id. A webhook is active or inactive; a credential belongs to one host."""

    def __init__(self, register: Register) -> None:
        self._register = register
        self.webhooks: dict[str, Body] = {}
        self.credentials: dict[str, Body] = {}
        """With their passwords, which no answer shows."""
        self.rules: dict[str, Body] = {}

    def webhook_form(self, body: Body) -> Body:
        """A webhook as it is configured, with whatever is not given."""
        _check(body, WEBHOOK)
        parse(body.get("filter"), CUSTOMER_FIELDS)
        if body["credentialHash"] not in self.credentials:
            raise Problem(422, "the webhook is not valid", [("credentialHash", "there is no such credential")])
        webhook: Body = {"eventsFilter": [], "status": "active", "headers": [], "body": None, "filter": None}
        webhook |= {name: body[name] for name in WEBHOOK if body.get(name) is not None}
        return webhook | {"headers": [{"status": "active", **header} for header in webhook["headers"]]}

    def put_webhook(self, body: Body, at: float, uid: str | None = None) -> Body:
        """A new one, or one in place of another."""
        webhook, before = self.webhook_form(body), self.webhooks.get(uid or "")
        webhook |= self._stamped(uid or self._new_id("hook_"), before, at)
        others = [one for one in self.webhooks.values() if one is not before and one["status"] == "active"]
        if webhook["status"] == "active" and len(others) >= ACTIVE_MAX:
            raise Problem(422, f"at most {ACTIVE_MAX} webhooks are active", [("status", "too many are active")])
        self.webhooks[webhook["id"]] = webhook
        return webhook

    def add_credential(self, body: Body) -> tuple[Body, bool]:
        """The credential, and whether there was none like it before."""
        _check(body, CREDENTIAL)
        same = (one for one in self.credentials.values() if (one["host"], one["auth"]) == (body["host"], body["auth"]))
        if (known := next(same, None)) is not None:
            return known, False
        uid = self._new_id("crd_")
        credential = {"id": uid, "hash": uid, "type": "webhook", "host": body["host"], "auth": body["auth"]}
        self.credentials[uid] = credential | {"status": "active", "deactivationTime": None}
        return self.credentials[uid], True

    def add_rule(self, body: Body, at: float) -> Body:
        """An automation rule."""
        _check(body, RULE)
        parse(body.get("filter"), CUSTOMER_FIELDS)
        rule: Body = {"addTags": [], "removeTags": [], "filter": None, "status": "active"}
        rule |= {name: body[name] for name in RULE if body.get(name) is not None}
        rule |= self._stamped(self._new_id("rule_"), None, at)
        self.rules[rule["id"]] = rule
        return rule

    def _new_id(self, prefix: str) -> str:
        return new_id(prefix, self._register.ids.getrandbits(128))

    def _stamped(self, uid: str, before: Body | None, at: float) -> Body:
        now = self._register.text(at)
        return {"id": uid, "createdTime": now if before is None else before["createdTime"], "updatedTime": now}


def without_secret(credential: Body) -> Body:
    """A credential as an answer shows it."""
    auth = {name: value for name, value in credential["auth"].items() if name != "password"}
    return credential | {"auth": auth}


# The shape of each field.


def _check(body: Body, fields: Mapping[str, Check]) -> None:
    wrong: list[Invalid] = [(name, "is not valid") for name, right in fields.items() if not right(body.get(name))]
    if wrong:
        raise Problem(422, "the request is not valid", wrong)


def _url(value: Any) -> bool:
    return isinstance(value, str) and urlsplit(value).scheme in {"http", "https"} and bool(urlsplit(value).netloc)


def _texts(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(one, str) for one in value))


def _headers(value: Any) -> bool:
    if not isinstance(value, list):
        return value is None
    return all(
        isinstance(one, dict)
        and all(isinstance(one.get(name), str) for name in ("name", "value"))
        and one.get("status", "active") in STATES
        for one in value
    )


def _text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _state(value: Any) -> bool:
    return value is None or value in STATES


def _auth(value: Any) -> bool:
    if not isinstance(value, dict) or value.get("type") not in {"none", "basic", "digest"}:
        return False
    return value["type"] == "none" or all(isinstance(value.get(name), str) for name in ("username", "password"))


def _tag_names(value: Any) -> bool:
    if not isinstance(value, list):
        return value is None
    return len(value) <= RULE_TAGS_MAX and all(isinstance(one, str) and TAG_NAME.fullmatch(one) for one in value)


WEBHOOK: dict[str, Check] = {
    "url": _url,
    "method": lambda value: value in METHODS,
    "credentialHash": lambda value: isinstance(value, str) and ID.fullmatch(value) is not None,
    "eventsFilter": _texts,
    "status": _state,
    "headers": _headers,
    "body": _text,
    "filter": _text,
}
CREDENTIAL: dict[str, Check] = {
    "type": lambda value: value == "webhook",
    "host": lambda value: isinstance(value, str) and HOST.fullmatch(value) is not None,
    "auth": _auth,
}
RULE: dict[str, Check] = {
    "eventType": lambda value: isinstance(value, str) and bool(value),
    "addTags": _tag_names,
    "removeTags": _tag_names,
    "filter": _text,
    "status": _state,
}
