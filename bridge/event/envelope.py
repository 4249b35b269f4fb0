"""Envelope: a change as a CloudEvent 1.0 in the Kafka binding, ready to write.

Binary mode: attributes are `ce_` headers, the value is the data alone. Structured mode: one JSON object,
`application/cloudevents+json`. The builder belongs to one source, because most headers are the same for all its
events. Sequence numbers come from the caller; the envelope counts nothing.
"""

from __future__ import annotations

from enum import StrEnum
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

from bridge.detect.diff import Change
from bridge.event.catalog import CATALOG, RENAMED, EventType
from bridge.model import Account, Body, Cause, iso

ID_BYTES = 16
"""128 bits of BLAKE2b: no two events of a bridge's life share an id."""


class ContentMode(StrEnum):
    """CloudEvents content mode."""

    BINARY = "binary"
    STRUCTURED = "structured"


class Position(NamedTuple):
    """Where an event stands in its source.

    sequence: counts every event of the source. prior: sequence of the key's previous event; 0 for the first one and
    after a deletion. life: how many deletions the source has seen; keeps ids unique when a deleted key returns.
    """

    sequence: int
    prior: int
    life: int


class TagName(NamedTuple):
    """The tag of a membership that moved; `name` may change, `uid` never does."""

    uid: str
    name: str


class Event(NamedTuple):
    """One event, serialised. `topic` is the part behind the bridge's name; `changed_at` in microseconds."""

    type: EventType
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]
    changed_at: int


class _Constant(NamedTuple):
    """What all events of a type have in common; made once, because it would be a third of an event's headers."""

    collection: str
    type: tuple[str, bytes]
    schema: tuple[str, bytes]

    @classmethod
    def of(cls, kind: EventType) -> _Constant:
        return cls(kind.collection.value, ("ce_type", kind.type.encode()), ("ce_dataschema", kind.schema_id.encode()))


_SPECVERSION = ("ce_specversion", b"1.0")
_JSON = ("content-type", b"application/json")


class EventBuilder:
    """Builds the events of one source."""

    def __init__(self, account: Account, mode: ContentMode = ContentMode.BINARY) -> None:
        self.account = account
        self._structured = mode is ContentMode.STRUCTURED
        self._prefix = f"{account.source}/"
        self._source = ("ce_source", account.uri.encode())
        self._last_detected = (0, iso(0))
        self._last_cause: tuple[Cause | None, dict[str, str]] = (None, {})
        self._constant = {kind: _Constant.of(kind) for kind in CATALOG}

    def build(
        self,
        kind: EventType,
        uid: str,
        change: Change,
        at: Position,
        *,
        cause: Cause,
        changed_at: int,
        detected_at: int,
        before_json: bytes | None,
        after_json: bytes | None,
        tag: TagName | None = None,
        into: str | None = None,
    ) -> Event:
        """The event of `change`.

        tag: of a membership that moved. into: uid of what it was merged into. changed_at, detected_at: microseconds
        since 1970; `before_json` and `after_json` are the bodies of the change, serialised with sorted keys.
        """
        account = self.account
        key = self._prefix + uid
        constant = self._constant[kind]
        changed = iso(changed_at)
        data: dict[str, Any] = {
            "source": account.source,
            "provider": account.provider,
            "account": account.account,
            "collection": constant.collection,
            "key": key,
            "sequence": at.sequence,
            "prior": at.prior,
            "changed_at": changed,
            "detected_at": self._detected(detected_at),
            "cause": self._cause(cause),
            "before": None if before_json is None else orjson.Fragment(before_json),
            "after": None if after_json is None else orjson.Fragment(after_json),
            "changed": change.changed,
        }
        if kind is RENAMED and change.before is not None and change.after is not None:
            data["from"] = change.before.get("customer_id")
            data["to"] = change.after.get("customer_id")
            if steps := _steps(change.before, change.after):
                data["extra"] = {"customer_id_changes": steps}
        if tag is not None:
            data["tag"] = tag._asdict()
        if into is not None:
            data["into"] = into
        identity = event_id(key, kind.type, at, after_json)
        if self._structured:
            return self._in_structured_mode(kind, uid, key, at, identity, changed_at, data)
        encoded = key.encode()
        headers = [
            _SPECVERSION,
            constant.type,
            self._source,
            ("ce_id", identity.encode()),
            ("ce_subject", uid.encode()),
            ("ce_time", changed.encode()),
            constant.schema,
            ("ce_sequence", b"%d" % at.sequence),
            ("ce_partitionkey", encoded),
            _JSON,
        ]
        return Event(kind, encoded, orjson.dumps(data), headers, changed_at)

    def _detected(self, at: int) -> str:
        """Written once for all events of a step."""
        if at != self._last_detected[0]:
            self._last_detected = (at, iso(at))
        return self._last_detected[1]

    def _cause(self, cause: Cause) -> dict[str, str]:
        """Written once for all events of a step."""
        if cause is not self._last_cause[0]:
            path = cause.path.value
            self._last_cause = (cause, {"path": path} if cause.ref is None else {"path": path, "ref": cause.ref})
        return self._last_cause[1]

    def _in_structured_mode(
        self,
        kind: EventType,
        uid: str,
        key: str,
        at: Position,
        identity: str,
        changed_at: int,
        data: dict[str, Any],
    ) -> Event:
        value = {
            "specversion": "1.0",
            "type": kind.type,
            "source": self.account.uri,
            "id": identity,
            "subject": uid,
            "time": data["changed_at"],
            "dataschema": kind.schema_id,
            "sequence": str(at.sequence),
            "partitionkey": key,
            "datacontenttype": "application/json",
            "data": data,
        }
        headers = [("content-type", b"application/cloudevents+json; charset=UTF-8")]
        return Event(kind, key.encode(), orjson.dumps(value), headers, changed_at)


def _steps(before: Body, after: Body) -> list[Any]:
    """The provider's own records of the renames since, oldest first: they explain a chain. `Any`: as it wrote them."""
    known = (before.get("extra") or {}).get("customer_id_changes", ())
    return [step for step in (after.get("extra") or {}).get("customer_id_changes", ()) if step not in known]


def event_id(key: str, type_name: str, at: Position, after_json: bytes | None) -> str:
    """32 hex digits, the same whenever the same change is detected against the same committed state.

    The key's previous event and the new document say which change it is; for a key without a previous event the
    count of deletions tells its lives apart. The sequence is not part of it: after a crash the same change may be
    detected in another order.
    """
    life = at.life if at.prior == 0 else 0
    said = f"{key}\n{type_name}\n{at.prior}\n{life}\n".encode()
    return blake2b(said + after_json if after_json else said, digest_size=ID_BYTES).hexdigest()
