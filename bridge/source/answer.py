"""Answer: what one complete HTTP answer means. Pure functions from a `Response` to a value or the error it demands.

Text of the provider never gets into a message, with two exceptions: its short machine-readable error code, and the
names of the fields that it does not accept.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from bridge.errors import AccessDenied, Malformed, RequestRefused, RetryLater, SourceError
from bridge.source.allowance import Allowance, allowance
from bridge.source.budget import PAUSE_S_MAX
from bridge.source.transport import Request, Response

IF_NONE_MATCH = "If-None-Match"
"""Header of a conditional request."""

RETRY_AFTER_S_MAX = PAUSE_S_MAX
"""Longer hints are shortened: a provider that means an hour says so again, and a wrong one costs five minutes."""

_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]{1,256}"', re.ASCII)
"""An ETag that can be sent back as it is."""

UNIX_S_MIN = 10**9
"""From here on a number is a moment and no length of time; 2001."""

MOMENT_WAIT_S_MIN = 1.0
"""A moment is given in whole seconds, so a wait until then may be over too early by almost one."""

INVALID_FIELDS_MAX = 20
"""Names that are kept; who gets more wrong has enough to begin with."""

_BODY_BYTES_MAX = 64 * 1024
"""Of an error that is looked into."""

_COUNT_DIGITS_MAX = 12
_DATE_CHARS_MAX = 64
_DIGITS = re.compile(r"[0-9]+", re.ASCII)
_FIELD_NAME = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}", re.ASCII)
_ERROR_CODE = re.compile(r"[A-Za-z0-9_.-][A-Za-z0-9_. -]{0,47}", re.ASCII)
_JSON_TYPE = re.compile(r"application/(?:[a-z0-9!#$&^_.+-]*\+)?json", re.ASCII)
_RETRYABLE = frozenset({408, 425, 429})
_TOTALS = ("total-count", "pagination-total")


def failure(response: Response, endpoint: str, wall: float) -> SourceError | None:
    """The error that this status demands; None for 2xx. `wall` is our time, used where the server names none."""
    status = response.status
    if 200 <= status <= 299:
        return None
    problem = _problem(response.body)
    code, fields = _error_code(problem), _invalid_fields(problem)
    said = f"{endpoint} answered {status}" + (f" ({code})" if code else "")
    if fields:
        said += f", not accepted: {', '.join(fields)}"
    if status in _RETRYABLE or status >= 500:
        return RetryLater(said, delay_s=retry_after(response, wall))
    if status in (401, 403):
        return AccessDenied(f"{said}; check credentials, account and rights")
    if 300 <= status <= 399:
        said += ", a redirect; redirects are not followed, check base_url"
        return RequestRefused(said, status=status, location=response.headers.get("location"))
    return RequestRefused(said, status=status, invalid_fields=fields)


def unchanged(request: Request, response: Response) -> bool:
    """True when the request asked only for what has changed, and nothing has. An unasked 304 is a failure as any."""
    return response.status == 304 and IF_NONE_MATCH in request.headers


def etag(response: Response) -> str | None:
    """What the provider calls this state of the resource; None when it has no usable name for it."""
    text = response.headers.get("etag", "").strip()
    return text if _ETAG.fullmatch(text) else None


def parse(response: Response, endpoint: str) -> Any:
    """The JSON value of a 2xx answer (`Any`: its shape is for the endpoint's model to check)."""
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type in ("text/html", "application/xhtml+xml"):
        raise RetryLater(f"{endpoint} answered with a page for people instead of JSON; a gateway stands in between")
    if media_type and not _JSON_TYPE.fullmatch(media_type):
        raise Malformed(f"{endpoint} answered with another media type than JSON")
    try:
        value = orjson.loads(response.body)
        again = orjson.dumps(value)
    except (ValueError, TypeError):  # not JSON; or nested too deeply to be written again
        raise Malformed(f"{endpoint} answered with what is not usable JSON") from None
    if again != response.body and not _same_keys(response.body, again):
        _refuse_duplicate_keys(response.body, endpoint)
    return value


def server_date(response: Response) -> int | None:
    """Microseconds since 1970 of the `Date` header; None when it is missing or unusable."""
    moment = _http_date(response.headers.get("date", ""))
    return None if moment is None or moment < 0 else int(moment * 1_000_000)


def total_count(response: Response) -> int | None:
    """How many rows the provider says there are on all pages together; None when it does not say."""
    for name in _TOTALS:
        text = response.headers.get(name, "").strip()
        if _DIGITS.fullmatch(text) and len(text) <= _COUNT_DIGITS_MAX:
            return int(text)
    return None


def retry_after(response: Response, wall: float) -> float | None:
    """Seconds the provider asks us to wait, bounded; None when it does not say, or says nothing sensible."""
    text = response.headers.get("retry-after", "").strip()
    if _DIGITS.fullmatch(text):
        digits = text.lstrip("0")
        seconds = RETRY_AFTER_S_MAX if len(digits) > 6 else float(digits or 0)
    else:
        until = _http_date(text)
        if until is None:
            return _wait_until_moment(response, wall)
        now = _http_date(response.headers.get("date", ""))
        seconds = until - (wall if now is None else now)
    return min(seconds, RETRY_AFTER_S_MAX) if seconds > 0 else None


def _wait_until_moment(response: Response, wall: float) -> float | None:
    """The same of who gives a moment in Unix time, by the server's clock where it tells it."""
    text = response.headers.get("x-ratelimit-retry-after", "").strip()
    if not _DIGITS.fullmatch(text) or len(text) > _COUNT_DIGITS_MAX or int(text) < UNIX_S_MIN:
        return None
    now = _http_date(response.headers.get("date", ""))
    seconds = int(text) - (wall if now is None else now)
    return min(max(seconds, MOMENT_WAIT_S_MIN), RETRY_AFTER_S_MAX) if seconds > 0 else None


def allowed(response: Response, wall: float) -> Allowance | None:
    """What the provider says is left of its limit; None when it does not say, or says nothing sensible."""
    now = _http_date(response.headers.get("date", ""))
    return allowance(response.headers, wall if now is None else now)


def _http_date(text: str) -> float | None:
    if not text or len(text) > _DATE_CHARS_MAX:
        return None
    try:
        moment: datetime = parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _problem(body: bytes) -> dict[str, Any]:
    """The error body's members, none when it is no JSON object; `Any`: only what looks right is taken out of it."""
    if len(body) > _BODY_BYTES_MAX:
        return {}
    try:
        value = orjson.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _error_code(problem: dict[str, Any]) -> str | None:
    """`error.code` of the usual error body, when it looks like a code."""
    error = problem.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, str) and _ERROR_CODE.fullmatch(code) else None


def _invalid_fields(problem: dict[str, Any]) -> tuple[str, ...]:
    """Of problem details, `invalidFields[].field`, each once; what is wrong with them may hold their values."""
    entries = problem.get("invalidFields")
    if not isinstance(entries, list):
        return ()
    names = [entry.get("field") for entry in entries if isinstance(entry, dict)]
    found = dict.fromkeys(name for name in names if isinstance(name, str) and _FIELD_NAME.fullmatch(name))
    return tuple(found)[:INVALID_FIELDS_MAX]


def _same_keys(body: bytes, again: bytes) -> bool:
    r"""True when it is certain, without parsing again, that no key of `body` was given twice.

    `again` is the parsed value written anew, so it has each key once. White space and number forms aside, both texts
    have the same quotation marks, in strings too; a key given twice leaves at least two more in `body`. Only a
    quotation mark spelled as `\u0022` would make up for that.
    """
    return body.count(b'"') == again.count(b'"') and b"\\u0022" not in body


def _refuse_duplicate_keys(body: bytes, endpoint: str) -> None:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise Malformed(f"{endpoint} answered with a duplicate key in an object")
        return found

    try:
        json.loads(body, object_pairs_hook=once)
    except (ValueError, RecursionError):  # e.g. more digits than Python converts
        raise Malformed(f"{endpoint} answered with what is not usable JSON") from None
