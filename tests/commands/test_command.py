"""Bytes of the inbox → a command, or a reason that tells nothing of what was in them."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.commands.command import (
    CONFIRM_S_MAX,
    FIELD_PATTERN,
    SIGNALS,
    UIDS_MAX,
    VALUE_BYTES_MAX,
    Command,
    ProviderCommand,
    Reason,
    Refusal,
    Signal,
    SignalKind,
    encode,
    parse,
)
from bridge.commands.outcome import UIDS_LISTED_MAX, Result, Tally, Why
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


BASE: dict[str, Any] = {"id": "a-1", "source": "acme", "sent_at": "2026-11-21T08:15:30Z"}
RENAME = {**BASE, "kind": "rename", "customer": "u-1", "new_customer_id": "c-2"}
TAGGING = {**BASE, "kind": "untag", "tag": "t-1", "customers": ["u-1", "u-2"]}
VALUED = {**BASE, "kind": "tag", "tag_name": "VIP", "where": {"field": "email", "values": ["a@b.c", ""]}}
REFRESH = {**BASE, "kind": "refresh", "collection": "customers", "uids": ["u-1"]}
UIDS = st.lists(st.from_regex(r"[A-Za-z0-9_@~.-]{1,64}", fullmatch=True), min_size=1, max_size=5)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=255).filter(
    lambda name: name == name.strip() and name not in (".", "..")
)
MOMENTS = st.none() | st.just("2026-11-21T08:15:30.25+01:00")


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


# Commands that need the provider.


def read(fields: dict[str, Any]) -> Command | Refusal:
    return parse(b"acme", orjson.dumps(fields))


@given(
    st.fixed_dictionaries(
        {"kind": st.just("rename"), "customer": UIDS.map(lambda uids: uids[0]), "new_customer_id": NAMES}
    )
    | st.fixed_dictionaries({"kind": st.just("rename"), "customer_id": NAMES, "new_customer_id": NAMES})
    | st.fixed_dictionaries(
        {
            "kind": st.sampled_from(["tag", "untag"]),
            "tag": UIDS.map(lambda uids: uids[0]),
            "customers": UIDS,
            "confirm_within": st.floats(0.001, CONFIRM_S_MAX),
        }
    )
    | st.fixed_dictionaries(
        {
            "kind": st.sampled_from(["tag", "untag"]),
            "tag_name": NAMES,
            "where": st.fixed_dictionaries(
                {"field": st.from_regex(FIELD_PATTERN, fullmatch=True), "values": st.lists(NAMES, min_size=1)}
            ),
        }
    )
    | st.fixed_dictionaries({"kind": st.just("refresh"), "collection": st.sampled_from(Collection), "uids": UIDS}),
    MOMENTS,
)
def test_a_command_for_the_provider_is_parsed_as_it_was_encoded(fields: dict[str, Any], not_after: str | None) -> None:
    command = read({**BASE, **fields, "not_after": not_after})
    assert isinstance(command, ProviderCommand)
    assert parse(b"acme", encode(command)) == command
    later = read({**BASE, **fields, "sent_at": "2027-01-01T00:00:00Z"})
    assert later.digest == command.digest, "whenever it was sent, and until whenever it may begin"


@pytest.mark.parametrize("good", [RENAME, TAGGING, VALUED, REFRESH], ids=lambda fields: str(fields["kind"]))
@given(st.data())
def test_any_fields_of_it_are_a_command_or_a_reason_without_a_value(good: dict[str, Any], data: st.DataObject) -> None:
    assert isinstance(read(good), ProviderCommand)
    names = st.sampled_from([*good, "not_after", "confirm_within", "more"])
    marked = JSON | st.text(min_size=9).map(lambda text: f"§{text}§")
    result = read({**good, **data.draw(st.dictionaries(names, marked))})
    if isinstance(result, Refusal):
        assert result.detail
        assert "§" not in str(result)
        assert result.reason in (Reason.MALFORMED, Reason.UNKNOWN_KIND, Reason.WRONG_KEY)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({**RENAME, "customer_id": "c-1"}, "name the customer by one of customer and customer_id"),
        ({**RENAME, "customer": None}, "name the customer by one of customer and customer_id"),
        ({**RENAME, "new_customer_id": ".."}, "new_customer_id: has spaces around it, or is only dots"),
        ({**RENAME, "new_customer_id": "x" * 256}, "new_customer_id: String should have at most 255 characters"),
        ({**RENAME, "collection": None}, "there is a field that this release does not know"),
        ({**TAGGING, "customers": ["/"] * 9_000}, "customers: String should match pattern '^[A-Za-z0-9_@~.-]{1,64}$'"),
        ({**TAGGING, "confirm_within": "60"}, "confirm_within: Input should be a valid number"),
        ({**TAGGING, "tag_name": "VIP"}, "name the tag by one of tag and tag_name"),
        ({**TAGGING, "tag": None}, "name the tag by one of tag and tag_name"),
        ({**TAGGING, "customers": None}, "name the customers by one of customers and where"),
        ({**VALUED, "customers": ["u-1"]}, "name the customers by one of customers and where"),
        ({**VALUED, "where": {"field": "a..b", "values": ["x"]}}, "where.field: String should match pattern"),
        ({**VALUED, "where": {"field": "a", "values": []}}, "where.values: Tuple should have at least 1 item"),
        ({**VALUED, "where": {"field": "a", "values": ["x"], "names": []}}, "where: there are not as many names as"),
        ({**TAGGING, "not_after": "soon"}, "not_after: is no RFC 3339 date-time"),
        ({**REFRESH, "uids": []}, "uids: Tuple should have at least 1 item after validation, not 0"),
        ({**REFRESH, "uids": ["u"] * (UIDS_MAX + 1)}, f"uids: Tuple should have at most {UIDS_MAX} items"),
        ({**REFRESH, "collection": None}, "collection: Input should be"),
    ],
)
def test_why_it_is_none(fields: dict[str, Any], said: str) -> None:
    result = read(fields)
    assert isinstance(result, Refusal)
    assert result.detail.startswith(said)
    assert result.id == "a-1"


def test_as_many_uids_as_one_command_takes_fit_into_a_record() -> None:
    assert isinstance(read({**TAGGING, "customers": [f"{n:064}" for n in range(UIDS_MAX)]}), ProviderCommand)


# What many documents came to.


@given(st.lists(st.tuples(st.sampled_from(Why), UIDS)), st.integers(0, 3))
def test_a_tally_counts_all_and_lists_no_address(missed: list[tuple[Why, list[str]]], count: int) -> None:
    tally = Tally()
    for why, uids in missed:
        tally.miss(why, uids)
        tally = Tally(orjson.loads(orjson.dumps(tally.stored)))
    assert sum(others.count for others in tally.others) == sum(len(uids) for _, uids in missed)
    assert not any("@" in uid for others in tally.others for uid in others.uids)
    assert (tally.result(count) is Result.APPLIED) is (not missed)


def test_a_tally_lists_some_and_says_how_many_there_are() -> None:
    tally = Tally()
    for _ in range(3):
        tally.miss(Why.GONE, [f"u{number}" for number in range(400)])
    (others,) = tally.others
    assert (others.count, len(others.uids)) == (1200, UIDS_LISTED_MAX)


@pytest.mark.parametrize(
    ("count", "reasons", "result"),
    [
        (5, [Why.UNCONFIRMED], Result.UNCONFIRMED),
        (0, [Why.UNCONFIRMED, Why.GONE], Result.UNCONFIRMED),
        (5, [Why.UNCONFIRMED, Why.GONE], Result.PARTLY),
        (1, [Why.FAILED], Result.PARTLY),
        (0, [Why.FAILED, Why.UNKNOWN], Result.FAILED),
        (0, [Why.UNKNOWN, Why.GONE, Why.REFUSED], Result.REJECTED),
    ],
)
def test_what_the_whole_came_to(count: int, reasons: list[Why], result: Result) -> None:
    tally = Tally()
    for why in reasons:
        tally.miss(why, ["u"])
    assert tally.result(count) is result
