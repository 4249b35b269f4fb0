"""StateRecord: the value of one record in the state topic, and the keys that are not documents.

Keys: `source/collection/uid` for documents, `source/cursors/collection` for a feed's position,
`source/counters/events` for the source's counters, `source/suspects/collection/uid` for documents that seem to be gone,
`source/rounds/tag` for when the tag's members were read, `source/essences/collection` once the projection has changed,
`source/refused/collection/digest` for refused rows without uid, `source/control/collection` for a pause,
`source/command/id` for a command that is accepted, `source/doing/id` for how far it is, `source/done/id` for one that
was answered, `source/progress/collection` for the last watermark in the progress
topic; `@/marker/shard` once per partition, `@/heartbeat/shard` while it is quiet. Values are JSON objects with a format
number; a record of a newer format stops the process that reads it instead of being guessed at.

A document's record also has the number of the projection (`essence`) that it was last compared under. Another number
says that a difference may be one of the projection: then the published body stays, and `base` remembers what the
provider shows instead, see `runtime.rebase`. A release that does not know `base` ignores it and compares with the
published body, which under its own projection is what the provider shows; so the format did not change with it. The
same goes for `revision`: who does not know it orders copies by their times alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from bridge.errors import StateLost
from bridge.model import Body, key_of

FORMAT = 1
"""Of the record's envelope. A reader refuses a higher one."""

ESSENCE = 1
"""Of the projection that is compared, `detect.essence` and the mapping before it; raise it with any change that makes
another document of the same row. It re-bases documents silently."""

ESSENCE_FIRST = 1
"""Of what was written before anybody noted it."""

CURSORS = "cursors"
COUNTERS = "counters"
SUSPECTS = "suspects"
ESSENCES = "essences"
ROUNDS = "rounds"
MARKER_PREFIX = "@/marker/"
HEARTBEAT_PREFIX = "@/heartbeat/"


class StateRecord(NamedTuple):
    """What is known of one document.

    document: the last published body; None when nothing was published yet (only refused copies were seen).
    version: the provider's change time of that body, microseconds since 1970.
    sequence: of the key's last event; 0 when it was stored without an event.
    refused: digest of a copy that could not be published, so that it is reported once and not at every poll.
    base: digest of the essence that the provider shows while nothing has changed since `document` was published; None
        when that is the document's own.
    essence: number of the projection that the record was last compared under; 0: the present one.
    revision: the greatest count of its changes that was shown, where the provider counts them; else 0.
    """

    document: Body | None
    version: int
    sequence: int
    refused: str | None = None
    base: str | None = None
    essence: int = 0
    revision: int = 0

    @property
    def foreign(self) -> bool:
        """True when it was last compared under another projection, of an older or a newer release."""
        return self.essence not in (0, ESSENCE)


class Counters(NamedTuple):
    """Per source: the sequence of its last event, how many `deleted` events there were, documents by collection."""

    sequence: int
    deletions: int
    documents: dict[str, int]


def encode_record(record: StateRecord, document_json: bytes | None = None) -> bytes:
    """The record's bytes; `document_json` saves serialising a body that the caller has already."""
    value: dict[str, Any] = {
        "format": FORMAT,
        "essence": record.essence or ESSENCE,
        "sequence": record.sequence,
        "version": record.version,
    }
    if record.refused is not None:
        value["refused"] = record.refused
    if record.base is not None:
        value["base"] = record.base
    if record.revision:
        value["revision"] = record.revision
    value["document"] = orjson.Fragment(document_json) if document_json is not None else record.document
    return orjson.dumps(value)


def decode_record(value: bytes) -> StateRecord:
    """Raises `StateLost` for a record that a newer release wrote or that is not ours."""
    data = _checked(value)
    try:
        return StateRecord(
            data["document"],
            data["version"],
            data["sequence"],
            data.get("refused"),
            data.get("base"),
            data.get("essence", ESSENCE_FIRST),
            data.get("revision", 0),
        )
    except KeyError as error:
        raise StateLost(f"a state record lacks the field {error}; was it written by something else?") from None


def encode_json(value: dict[str, Any]) -> bytes:
    """A cursor, marker or counters record."""
    return orjson.dumps({"format": FORMAT, **value})


def decode_json(value: bytes) -> dict[str, Any]:
    """The fields of a cursor, marker or counters record."""
    data = _checked(value)
    del data["format"]
    return data


def encode_counters(counters: Counters) -> bytes:
    """The counters record."""
    return encode_json(counters._asdict())


def decode_counters(value: bytes | None) -> Counters:
    """Zeros when there is no record yet."""
    fields = decode_json(value) if value is not None else {}
    return Counters(fields.get("sequence", 0), fields.get("deletions", 0), dict(fields.get("documents", {})))


def cursor_key(source: str, collection: str) -> str:
    """Key of a feed's cursor."""
    return key_of(source, CURSORS, collection)


def counters_key(source: str) -> str:
    """Key of a source's counters."""
    return key_of(source, COUNTERS, "events")


def suspect_key(source: str, collection: str, uid: str) -> str:
    """Key of the record that says that a document seems to be gone; without uid the beginning of all of them."""
    return key_of(source, SUSPECTS, f"{collection}/{uid}")


def essence_key(source: str, collection: str) -> str:
    """Key of what is known of a collection's projection."""
    return key_of(source, ESSENCES, collection)


def rounds_key(source: str, tag: str) -> str:
    """Key of what is known about the reading of a tag's members."""
    return key_of(source, ROUNDS, tag)


def marker_key(shard: int) -> str:
    """Key of the record that proves a state partition was written before."""
    return f"{MARKER_PREFIX}{shard}"


def heartbeat_key(shard: int) -> str:
    """Key of the record that keeps a quiet partition moving, so that the broker compacts its tombstones."""
    return f"{HEARTBEAT_PREFIX}{shard}"


def _checked(value: bytes) -> dict[str, Any]:
    try:
        data = orjson.loads(value)
    except orjson.JSONDecodeError:
        raise StateLost("a state record is not JSON; the state topic was written by something else") from None
    if not isinstance(data, dict) or not isinstance(data.get("format"), int):
        raise StateLost("a state record has no format number; the state topic was written by something else")
    if data["format"] > FORMAT:
        raise StateLost(
            f"a state record has format {data['format']}, this release knows {FORMAT}: start the newer release again"
        )
    return data
