"""A record of an event topic, read back as a consumer would: binary or structured CloudEvent → SeenEvent.

Everything that the contract says twice (header and data, record key and `partitionkey`) is compared here, so the
rest may use one of the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import orjson

from bridge.detect import edges

STRUCTURED = b"application/cloudevents+json"
_SHOW_AFTER = frozenset({"snapshot", "created", "updated", "renamed", "tagged", "untagged"})
_END = frozenset({"deleted", "merged"})
_ATTRIBUTES = ("specversion", "type", "source", "id", "subject", "time", "sequence", "partitionkey")


class Recorded(Protocol):
    """What is needed of a Kafka record; `publish.reading.Message` is one."""

    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> tuple[tuple[str, bytes | None], ...]: ...


class NotAnEvent(ValueError):
    """The record is not an event of this bridge, or contradicts itself."""


class SeenEvent(NamedTuple):
    """One event. `before` and `after` are bodies or None; `data` is everything. `Any`: JSON as it came."""

    type: str
    id: str
    source: str
    collection: str
    uid: str
    sequence: int
    prior: int
    before: Any
    after: Any
    data: dict[str, Any]

    @property
    def verb(self) -> str:
        """`updated` of `bridge.customer.updated.v1`."""
        parts = self.type.split(".")
        return parts[-2] if len(parts) > 2 else self.type

    @property
    def state_key(self) -> str:
        """Key of the document in the state topic."""
        return f"{self.source}/{self.collection}/{self.uid}"


def decode(record: Recorded) -> SeenEvent:
    """Raises `NotAnEvent`, whose text says what is wrong without any value of the document."""
    headers = dict(record.headers)
    content_type = headers.get("content-type") or b""
    try:
        value = orjson.loads(record.value or b"")
    except orjson.JSONDecodeError:
        raise NotAnEvent("its value is not JSON") from None
    if not isinstance(value, dict):
        raise NotAnEvent("its value is not a JSON object")
    if content_type.startswith(STRUCTURED):
        attributes, data = value, value.get("data")
    else:
        attributes, data = _from_headers(headers), value
    if not isinstance(data, dict):
        raise NotAnEvent("it has no data")
    try:
        event = _event(attributes, data)
    except (KeyError, AttributeError, TypeError) as error:
        raise NotAnEvent(f"it lacks {error}") from None
    _check(event, attributes, record.key)
    return event


def _from_headers(headers: Mapping[str, bytes | None]) -> dict[str, str]:
    try:
        return {name: value.decode() for name in _ATTRIBUTES if (value := headers.get(f"ce_{name}")) is not None}
    except UnicodeDecodeError:
        raise NotAnEvent("a header is not UTF-8") from None


def _event(attributes: Mapping[str, Any], data: dict[str, Any]) -> SeenEvent:
    source = data["source"]
    return SeenEvent(
        str(attributes["type"]),
        str(attributes["id"]),
        source,
        data["collection"],
        data["key"].removeprefix(f"{source}/"),
        data["sequence"],
        data["prior"],
        data["before"],
        data["after"],
        data,
    )


def _check(event: SeenEvent, attributes: Mapping[str, Any], key: bytes | None) -> None:
    data = event.data
    for name, found, wanted in (
        ("specversion", attributes.get("specversion"), "1.0"),
        ("sequence", attributes.get("sequence"), str(event.sequence)),
        ("subject", attributes.get("subject"), event.uid),
        ("partitionkey", attributes.get("partitionkey"), data["key"]),
        ("source", attributes.get("source"), f"/{data.get('provider')}/{data.get('account')}"),
        ("the record's key", key, str(data["key"]).encode()),
        ("key", data["key"], f"{event.source}/{event.uid}"),
    ):
        if found != wanted:
            raise NotAnEvent(f"{name} contradicts its data")
    if not event.id or not event.type:
        raise NotAnEvent("it has no id or type")
    for number in (event.sequence, event.prior):
        # Exactly int: true is an int for Python, and 1.0 == 1.
        if type(number) is not int or not 0 <= number < 2**63:
            raise NotAnEvent("sequence or prior is not a count")
    if event.sequence == 0:
        raise NotAnEvent("sequence is 0")
    if (event.verb in _END and event.after is not None) or (event.verb in _SHOW_AFTER and event.after is None):
        raise NotAnEvent(f"its `after` does not go with {event.verb}")
    if event.verb == "merged" and not (isinstance(data.get("into"), str) and data["into"] not in ("", event.uid)):
        raise NotAnEvent("it does not name another customer that it was merged into")
    if event.verb in ("snapshot", "created") and event.before is not None:
        raise NotAnEvent("a first sight has a `before`")
    if event.verb in ("tagged", "untagged"):
        _check_edge(event)


def _check_edge(event: SeenEvent) -> None:
    """The tag that is named, and nothing else, is what `before` and `after` differ in."""
    tag = event.data.get("tag")
    uid = tag.get("uid") if isinstance(tag, dict) else None
    if not isinstance(uid, str) or not uid:
        raise NotAnEvent("it does not name a tag")
    if not isinstance(event.before, dict) or not isinstance(event.before.get(edges.FIELD, []), list):
        raise NotAnEvent("its `before` is not a customer")
    wanted = edges.change(event.before, edges.EdgeMove(event.uid, uid, event.verb == "tagged"))
    if wanted is None or wanted.after != event.after:
        raise NotAnEvent(f"its documents do not differ by the tag that is {event.verb}")
