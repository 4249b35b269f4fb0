"""The endpoints: routing on the raw path, the permission each call needs, and who answers it.

The path is cut at its slashes before it is decoded, so that a tag's name may hold whatever it may.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import unquote

from bridge.sandbox.answer import Answer
from bridge.sandbox.rebilly import customers, tags, webhooks
from bridge.sandbox.rebilly.call import Call
from bridge.sandbox.rebilly.forms import VANISHING
from bridge.sandbox.rebilly.listing import list_customers
from bridge.sandbox.rebilly.problems import Problem
from bridge.sandbox.rebilly.tags import ENTITIES


class Route(NamedTuple):
    """Where a path leads: the endpoint's name, and the ids in the path."""

    endpoint: str
    arguments: tuple[str, ...] = ()


class Endpoint(NamedTuple):
    """One method of one endpoint."""

    permission: str
    handle: Callable[[Call], Answer]


def route(path: str) -> Route | None:
    """The route of a still encoded path without the base path; None when nothing is there."""
    try:
        segments = [unquote(segment, errors="strict") for segment in path.split("/")[1:]]
    except UnicodeDecodeError:
        raise Problem(400, "the path is not UTF-8") from None
    if VANISHING.intersection(segments):
        return None
    match segments:
        case ["tags", tag, entity] if entity in ENTITIES:
            return Route("bulk", (tag, entity))
        case ["tags", tag, entity, uid] if entity in ENTITIES:
            return Route("membership", (tag, entity, uid))
        case ["tags" | "customers" | "webhooks" as name]:
            return Route(name)
        case ["tags" | "customers" | "webhooks" as name, uid]:
            return Route(name.removesuffix("s"), (uid,))
        case ["customers", uid, "timeline"]:
            return Route("timeline", (uid,))
        case ["previews", "webhooks"]:
            return Route("previews")
        case ["tracking", "webhooks"]:
            return Route("deliveries")
        case ["tracking", "webhooks", uid]:
            return Route("delivery", (uid,))
        case ["tracking", "webhooks", uid, "resend"]:
            return Route("resend", (uid,))
        case ["service-credentials", "webhook"]:
            return Route("credentials")
        case ["tags-rules"]:
            return Route("rules")
    return None


ENDPOINTS: dict[str, dict[str, Endpoint]] = {
    "tags": {"GET": Endpoint("tags:read", tags.list_tags), "POST": Endpoint("tags:write", tags.create_tag)},
    "tag": {
        "GET": Endpoint("tags:read", tags.read_tag),
        "PATCH": Endpoint("tags:write", tags.rename_tag),
        "DELETE": Endpoint("tags:write", tags.delete_tag),
    },
    "bulk": {"POST": Endpoint("tags:write", tags.tag_many), "DELETE": Endpoint("tags:write", tags.untag_many)},
    "membership": {"POST": Endpoint("tags:write", tags.tag_one), "DELETE": Endpoint("tags:write", tags.untag_one)},
    "customers": {
        "GET": Endpoint("customers:read", list_customers),
        "POST": Endpoint("customers:write", customers.create_customer),
    },
    "customer": {
        "GET": Endpoint("customers:read", customers.read_customer),
        "PUT": Endpoint("customers:write", customers.put_customer),
        "DELETE": Endpoint("customers:write", customers.merge_customer),
    },
    "timeline": {"GET": Endpoint("customers:read", customers.list_timeline)},
    "webhooks": {
        "GET": Endpoint("webhooks:read", webhooks.list_webhooks),
        "POST": Endpoint("webhooks:write", webhooks.create_webhook),
    },
    "webhook": {
        "GET": Endpoint("webhooks:read", webhooks.read_webhook),
        "PUT": Endpoint("webhooks:write", webhooks.put_webhook),
        "DELETE": Endpoint("webhooks:write", webhooks.delete_webhook),
    },
    "previews": {"POST": Endpoint("webhooks:write", webhooks.preview_webhook)},
    "deliveries": {"GET": Endpoint("webhooks:read", webhooks.list_deliveries)},
    "delivery": {"GET": Endpoint("webhooks:read", webhooks.read_delivery)},
    "resend": {"POST": Endpoint("webhooks:write", webhooks.resend_delivery)},
    "credentials": {
        "GET": Endpoint("webhooks:read", webhooks.list_credentials),
        "POST": Endpoint("webhooks:write", webhooks.create_credential),
    },
    "rules": {"GET": Endpoint("tags:read", webhooks.list_rules), "POST": Endpoint("tags:write", webhooks.create_rule)},
}
"""Every endpoint, by name and method."""
