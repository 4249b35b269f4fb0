"""Bytes of the inbox → a command, or a reason that tells nothing of what was in them."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.commands.command import (
    SIGNALS,
    VALUE_BYTES_MAX,
    Command,
    Reason,
    Refusal,
    Signal,
    SignalKind,
    encode,
    parse,
)
from bridge.model import Collection

GOOD: dict[str, Any] = {
    "id": "a-1",
    "kind": "pause",
    "source": "acme",
    "collection": "customers",
    "sent_at": "2026-11-21T08:15:30Z",
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def parsed(**changed: Any) -> Command | Refusal:
    fields = {name: value for name, value in {**GOOD, **changed}.items() if value is not ...}
    return parse(b"acme", orjson.dumps(fields))


def refused(**changed: Any) -> Refusal:
    result = parsed(**changed)
    assert isinstance(result, Refusal)
    return result


@given(
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}", fullmatch=True),
    st.sampled_from(SIGNALS),
    st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True),
    st.none() | st.sampled_from(Collection),
)
def test_what_was_encoded_is_parsed(id_: str, kind: SignalKind, source: str, collection: Collection | None) -> None:
    signal = Signal(id=id_, kind=kind, source=source, collection=collection, sent_at="2026-11-21T08:15:30.25Z")
    assert parse(source.encode(), encode(signal)) == signal


@given(st.none() | st.binary(max_size=50), st.none() | st.binary(max_size=500))
def test_any_bytes_are_refused_with_a_reason(key: bytes | None, value: bytes | None) -> None:
    assert isinstance(parse(key, value), Refusal)


@given(st.dictionaries(st.sampled_from([*GOOD, "more"]), JSON))
def test_any_fields_are_a_command_or_a_reason_that_can_be_told(changed: dict[str, Any]) -> None:
    result = parsed(**changed)
    if isinstance(result, Refusal):
        assert result.detail
        orjson.dumps([result.detail, result.id, result.kind, result.source])


@given(st.sampled_from([*GOOD, "more"]), st.text(st.characters(codec="utf-8"), min_size=9))
def test_a_refusal_never_quotes_what_it_refuses(field: str, text: str) -> None:
    result = parsed(**{field: f"§{text}§"})
    assert isinstance(result, Refusal)
    assert f"§{text}§" not in str(result)
    assert f"§{text}§" not in str(parsed(**{f"§{text}§": 1}))


@pytest.mark.parametrize(
    ("changed", "reason", "id_"),
    [
        ({"kind": "explode"}, Reason.UNKNOWN_KIND, "a-1"),
        ({"kind": ...}, Reason.UNKNOWN_KIND, "a-1"),
        ({"kind": ["pause"]}, Reason.UNKNOWN_KIND, "a-1"),
        ({"id": ...}, Reason.MALFORMED, None),
        ({"id": 7}, Reason.MALFORMED, None),
        ({"id": "some@body"}, Reason.MALFORMED, None),
        ({"source": "../x"}, Reason.MALFORMED, "a-1"),
        ({"source": "other"}, Reason.WRONG_KEY, "a-1"),
        ({"collection": "orders"}, Reason.MALFORMED, "a-1"),
        ({"sent_at": "yesterday"}, Reason.MALFORMED, "a-1"),
        ({"sent_at": ...}, Reason.MALFORMED, "a-1"),
        ({"more": 1}, Reason.MALFORMED, "a-1"),
    ],
)
def test_why_a_record_is_no_command(changed: dict[str, Any], reason: Reason, id_: str | None) -> None:
    refusal = refused(**changed)
    assert (refusal.reason, refusal.id) == (reason, id_)


def test_a_record_without_key_or_under_another_one_is_refused() -> None:
    for key in (None, b"", b"acme2"):
        result = parse(key, orjson.dumps(GOOD))
        assert isinstance(result, Refusal)
        assert result.reason is Reason.WRONG_KEY


def test_a_giant_is_not_even_looked_into() -> None:
    result = parse(b"acme", orjson.dumps({**GOOD, "more": "x" * VALUE_BYTES_MAX}))
    assert isinstance(result, Refusal)
    assert (result.reason, result.id) == (Reason.TOO_LARGE, None)


@pytest.mark.parametrize("depth", [100, 300, 1000, 100_000])
def test_a_record_that_is_nested_deeply_is_refused_like_any_other(depth: int) -> None:
    value = orjson.dumps(GOOD)[:-1] + b',"more":' + b"[" * depth + b"]" * depth + b"}"
    result = parse(b"acme", value)
    assert isinstance(result, Refusal)
    assert result.reason is Reason.MALFORMED


@given(st.integers(2**53, 2**200) | st.floats())
def test_numbers_of_any_size_are_refused_like_any_other(number: float) -> None:
    value = orjson.dumps(GOOD)[:-1] + f',"more":{number!r}}}'.encode()
    assert isinstance(parse(b"acme", value), Refusal)


def test_a_command_is_the_same_whoever_sends_it_whenever() -> None:
    def digest(**changed: Any) -> str:
        return parsed(**changed).digest

    assert digest() == digest(id="b-2", sent_at="2027-01-01T00:00:00Z")
    assert digest(collection=None) == digest(collection=...)
    assert len({digest(), digest(kind="resume"), digest(collection=None), digest(collection="tags")}) == 4
