"""What a refusal says: the fields that are wrong, where a redirect leads, and the moment from which to ask again."""

from __future__ import annotations

from email.utils import formatdate
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import AccessDenied, RequestRefused, RetryLater
from bridge.source.answer import RETRY_AFTER_S_MAX, failure, retry_after, total_count
from bridge.source.transport import Response

NOW = 1_713_187_470


def refusal(value: Any, status: int = 422, **headers: str) -> Response:
    """`Any`: whatever a provider may say."""
    body = value if isinstance(value, bytes) else orjson.dumps(value)
    return Response(status, {name.replace("_", "-"): text for name, text in headers.items()}, body)


def test_the_names_of_the_fields_that_are_wrong_are_kept_and_said_without_their_values() -> None:
    problem = {
        "status": 422,
        "title": "canary title",
        "detail": "canary detail",
        "invalidFields": [
            {"field": "customerIds", "message": "canary message"},
            {"field": "primaryAddress.emails[0].value", "message": "x"},
            {"field": "customerIds", "message": "again"},
            {"field": "canary value: ada@example.com"},
            {"field": None},
            "x",
        ],
    }
    error = failure(refusal(problem), "tags.apply", NOW)
    assert isinstance(error, RequestRefused)
    assert (error.status, error.location) == (422, None)
    assert error.invalid_fields == ("customerIds", "primaryAddress.emails[0].value")
    assert "canary" not in str(error)
    assert "customerIds, primaryAddress.emails[0].value" in str(error)


def test_a_redirect_says_where_it_leads_but_not_in_its_message() -> None:
    error = failure(refusal({}, 301, location="https://x/customers/canary"), "customers.read", NOW)
    assert isinstance(error, RequestRefused)
    assert error.location == "https://x/customers/canary"
    assert "canary" not in str(error)


@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["invalidFields", "field", "error", "code"]), inner)
        ),
    ),
    st.sampled_from([400, 401, 403, 404, 409, 422, 429, 500, 503, 302]),
)
def test_whatever_the_body_a_status_is_the_error_that_it_demands(value: Any, status: int) -> None:
    error = failure(refusal(value, status), "x", NOW)
    kinds = {401: AccessDenied, 403: AccessDenied, 429: RetryLater, 500: RetryLater, 503: RetryLater}
    assert type(error) is kinds.get(status, RequestRefused)


def moment(text: str, date: float | None = NOW, **headers: str) -> float | None:
    if date is not None:
        headers["date"] = formatdate(date, usegmt=True)
    return retry_after(refusal({}, 429, x_ratelimit_retry_after=text, **headers), NOW + 5000.0)


def test_a_moment_is_waited_for_by_the_servers_clock() -> None:
    assert moment(str(NOW + 30)) == 30.0
    assert moment(str(NOW + 5030), date=None) == 30.0  # its own clock is not told, so ours has to do
    assert moment(str(NOW + 30), retry_after="7") == 7.0  # the standard says more than a custom


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (str(NOW), None),
        (str(NOW - 3600), None),  # in the past: an own, growing wait
        (str(NOW + 10_000_000), RETRY_AFTER_S_MAX),
        (str(NOW * 1000), None),  # in milliseconds, which nobody has said
        ("60", None),  # no moment, and no length of time either
        ("soon", None),
        ("", None),
        ("-1", None),
        ("9" * 40, None),
        ("١٧١٣١٨٧٥٠٠", None),
    ],
)
def test_a_moment_that_makes_no_sense_is_as_good_as_none(text: str, expected: float | None) -> None:
    assert moment(text) == expected


def test_the_wait_until_a_moment_is_never_shorter_than_its_precision() -> None:
    response = refusal({}, 429, x_ratelimit_retry_after=str(NOW + 1))
    assert retry_after(response, NOW + 0.9) == 1.0


def test_how_many_rows_match_is_read_from_either_header() -> None:
    assert total_count(refusal([], 200, pagination_total="2041")) == 2041
    assert total_count(refusal([], 200, total_count="7", pagination_total="9")) == 7
    assert total_count(refusal([], 200, pagination_total="many")) is None
