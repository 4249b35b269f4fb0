"""How Dintero speaks of what is wrong: its error body, and rows of its lists that are not what their schema says."""

from __future__ import annotations

import orjson

from bridge.sandbox.dintero.answer import refused
from bridge.sandbox.faults import Voice, with_field, without_id


def _with_a_bad_part(row: bytes) -> bytes:
    """Of customers and tags the metadata, which users do not have."""
    document = orjson.loads(row)
    bad: dict[str, object] = {"metadata": ["a", "list"]} if {"customer_id", "tag"} & document.keys() else {"email": 17}
    return orjson.dumps(document | bad)


VOICE = Voice(
    refused,
    (
        without_id,
        with_field("id", 17),
        with_field("id", "not a uuid / at all"),
        with_field("updated_at", "yesterday"),
        with_field("created_at", 1_700_000_000),
        _with_a_bad_part,
        lambda _row: b'"a string"',
        lambda _row: b"null",
    ),
)
