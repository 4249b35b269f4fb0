"""Edges: which tags a state record gives to its customer, as every store reads them from the value itself.

A membership is an edge (tag, customer), kept in the customer's document as `tags`. A store keeps an index of them from
the tag's side; what the values say is the truth, so the index follows them and is never written by anybody else.
"""

from __future__ import annotations

import orjson

from bridge.model import Collection, key_of

TAGS_MARK = b'"tags":['
"""In the bytes of every record that gives tags; spares the others their parsing. Records are compact JSON."""

NO_TAGS: tuple[str, ...] = ()

_CUSTOMERS = f"/{Collection.CUSTOMERS}/"


def customers_folder(source: str) -> str:
    """What the keys of a source's customers begin with."""
    return key_of(source, Collection.CUSTOMERS, "")


def folder_of(key: str) -> str:
    """`source/collection/` of `source/collection/uid`; the uid may hold anything."""
    end = key.find("/", key.find("/") + 1)
    return key[: end + 1]


def is_customer(key: str) -> bool:
    """True when the key is `source/customers/uid`."""
    return key.startswith(_CUSTOMERS, key.find("/"))


def tags_of(key: str, value: bytes | None) -> tuple[str, ...]:
    """The tags of the customer with this state record, each once; none when it is no customer or there is no record.

    A value that is not one of our records has none: whoever decodes it says what is wrong with it.
    """
    if value is None or TAGS_MARK not in value or not is_customer(key):
        return NO_TAGS
    try:
        record = orjson.loads(value)
    except orjson.JSONDecodeError:
        return NO_TAGS
    document = record.get("document") if isinstance(record, dict) else None
    tags = document.get("tags") if isinstance(document, dict) else None
    if not isinstance(tags, list):
        return NO_TAGS
    return tuple(dict.fromkeys(tag for tag in tags if isinstance(tag, str)))
