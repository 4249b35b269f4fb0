"""The same customer in another spelling is the same customer, and every text arrives as it was written.

From the bytes of an answer to the event that a consumer decodes. What the provider may write differently without
meaning anything: order of fields and of sets, white space, absent fields, the notation of an instant and of a text,
the letter case of an e-mail address.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.clock import SystemClock
from bridge.detect.diff import detect
from bridge.errors import Malformed
from bridge.event.envelope import EventBuilder
from bridge.model import Account, Collection, Document, Path
from bridge.publish.topics import TopicPlan
from bridge.runtime.ledger import Ledger
from bridge.runtime.step import SourceStep, StepLimits
from bridge.source.answer import parse
from bridge.source.dintero import models
from bridge.source.feed import Page
from bridge.store.memory import MemoryStore
from bridge.verify.event import SeenEvent, decode
from tests.source.providing import answer
from tests.source.rows import UID

NASTY = [
    "\x00",
    "\u202eabc",
    "👩‍👩‍👧‍👦",
    "e\u0301",
    "\u00e9",
    "\ufeff",
    "\u2028",
    "\U0010ffff",
    "a/b",
    "..",
    "%2f",
    "+",
    " ",
]
TEXT = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(NASTY)
INSTANT = st.integers(0, 4_000_000_000_000_000)

VALUES = st.recursive(
    TEXT | st.booleans() | st.integers(-(2**53), 2**53),
    lambda inner: st.dictionaries(TEXT, inner, min_size=1, max_size=3),
)

ROWS = st.fixed_dictionaries(
    {"customer_id": TEXT.filter(bool), "type": st.sampled_from(["customer", "company", "contact", "new kind"])},
    optional={
        "first_name": TEXT,
        "email": st.emails(),
        "metadata": st.dictionaries(TEXT, TEXT | VALUES, max_size=3),
        "attributes": st.dictionaries(TEXT, VALUES, max_size=3),
        "addresses": st.lists(st.dictionaries(TEXT, TEXT, min_size=1, max_size=2), max_size=4),
        "contact_for": st.lists(st.fixed_dictionaries({"customer_id": TEXT}), max_size=3),
        "a field that is new": VALUES,
        "insecure_ssl": st.sampled_from(["0", 0, "1", 1, True]),
    },
)


def mapped(body: bytes) -> Document:
    """The one row of a list, as it comes out of the mapping."""
    [row] = parse(answer(body), "x")
    document = models.customer(row, "customers.list")
    assert isinstance(document, Document), document
    return document


def respelled(row: dict[str, Any], chance: random.Random) -> bytes:
    """The same row as another release of the provider might write it."""

    def again(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            members = [(key, again(member)) for key, member in value.items()]
            # null, absent, an empty object and an empty list mean the same.
            members += [(f"absent {number}", chance.choice([None, {}, []])) for number in range(chance.randint(0, 2))]
            return dict(chance.sample(members, len(members)))
        if isinstance(value, list):
            entries = [again(entry) for entry in value]
            return chance.sample(entries, len(entries)) if name in ("addresses", "contact_for") else entries
        return value.swapcase() if name == "email" and value.isascii() else value

    spelled = [(name, again(value, name)) for name, value in row.items()]
    spelled += [(name, None) for name in ("gender", "company", "term") if name not in row]
    text = json.dumps(
        [dict(chance.sample(spelled, len(spelled)))],
        ensure_ascii=chance.random() < 0.5,
        separators=chance.choice([(",", ":"), (" , ", " : "), (",\n", ":\t")]),
    )
    return text.encode()


@settings(max_examples=200, deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_another_spelling_of_the_same_customer_is_no_change(row: dict[str, Any], chance: random.Random) -> None:
    row = {"id": UID, "updated_at": "2026-11-21T08:15:30Z", **row}
    later = row | {"updated_at": "2026-11-21T08:15:31.000+00:00"}  # the provider says that it has changed
    assert detect(mapped(orjson.dumps([row])).body, mapped(respelled(later, chance)).body) is None


@settings(max_examples=200, deadline=None)
@given(ROWS, st.sampled_from(["first_name", "customer_id", "a field that is new"]), TEXT)
def test_another_text_is_a_change(row: dict[str, Any], name: str, text: str) -> None:
    """Else the test above would prove nothing."""
    row = {"id": UID, **row}
    changed = row | {name: f"{row.get(name)}{text}!"}
    assert detect(mapped(orjson.dumps([row])).body, mapped(orjson.dumps([changed])).body) is not None


def published(document: Document) -> SeenEvent:
    """The document's event, as a consumer reads it from the topic."""
    ledger, account = Ledger(MemoryStore()), Account("acme", "dintero", "T12345678")
    limits = StepLimits(record_bytes_max=1_000_000)
    step = SourceStep(EventBuilder(account), ledger, TopicPlan("b", 4), limits, SystemClock())
    step.absorb(Collection.CUSTOMERS, Page([document], {}, False, Path.POLL))
    [record] = [record for record in ledger.take().records if record.topic == "b.customers"]

    class Seen:
        key, value, headers = record.key, record.value, tuple(record.headers)

    return decode(Seen())


@settings(max_examples=200, deadline=None)
@given(ROWS, st.booleans())
def test_every_text_is_carried_to_the_consumer_as_it_was_written(row: dict[str, Any], ascii_only: bool) -> None:
    row = {"id": UID, **row}
    event = published(mapped(json.dumps([row], ensure_ascii=ascii_only).encode()))
    assert event.uid == UID
    for name in ("customer_id", "first_name", "email", "type"):
        assert event.after.get(name) == row.get(name)
    assert set(texts(row)) - {"id"} <= {*texts(event.after), *texts(event.after, str.lower), *NAMES}


NAMES = ("id", "metadata", "attributes", "addresses", "contact_for", "email")


def texts(value: Any, change: Callable[[str], str] = str) -> list[str]:
    """Every key and text with something in it, at any depth; objects with nothing in them are absent."""
    if isinstance(value, dict):
        return [
            found
            for name, member in value.items()
            if member not in ({}, [])
            for found in (name, *texts(member, change))
        ]
    if isinstance(value, list):
        return [found for entry in value for found in texts(entry, change)]
    return [change(value)] if isinstance(value, str) else []


@pytest.mark.parametrize("escape", [r"\ud800", r"\udfff", r"\udc00\ud800", r"\ud83d"])
def test_half_a_surrogate_pair_is_no_text_and_costs_the_page(escape: str) -> None:
    """It can neither be written as UTF-8 nor be guessed."""
    body = f'[{{"id":"{UID}","customer_id":"c","first_name":"{escape}"}}]'.encode()
    with pytest.raises(Malformed):
        parse(answer(body), "x")
    whole = body.replace(escape.encode(), rb"\ud83d\ude00")
    assert mapped(whole).body["first_name"] == "😀"
