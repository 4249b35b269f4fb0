"""Problems: how Rebilly says that something is wrong (RFC 9457), and rows that are not what their schema says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import orjson

from bridge.errors import RequestRefused
from bridge.model import Body
from bridge.sandbox.answer import HTML, JSON, Answer
from bridge.sandbox.faults import Voice, with_field, without_id

PROBLEM_JSON = "application/problem+json"

TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    422: "Unprocessable Content",
    429: "Rate Limit Exceeded",
    500: "Internal Server Error",
}

Invalid = tuple[str, str]
"""A field, nested ones with dots, and what is wrong with it."""


class Problem(Exception):
    """A request is refused; the answer is a problem object."""

    def __init__(self, status: int, detail: str, invalid: Iterable[Invalid] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.invalid = tuple(invalid)

    def answer(self) -> Answer:
        """As the endpoint gives it; `dress_error` has the last word on its media type."""
        body: Body = {"status": self.status, "type": "about:blank", "title": TITLES[self.status], "detail": str(self)}
        if self.invalid:
            body["invalidFields"] = [{"field": field, "message": message} for field, message in self.invalid]
        return Answer(self.status, orjson.dumps(body))


def invalid(field: str, message: str) -> Problem:
    """422 for one field."""
    return Problem(422, "the request is not valid", [(field, message)])


def of_world(no: RequestRefused) -> Problem:
    """What the world refuses."""
    return Problem(no.status if no.status in TITLES else 422, str(no))


def dress_error(answer: Answer, media_type: Literal["json", "problem", "html"]) -> None:
    """Give a problem its media type, or put a gateway's page in its place."""
    if answer.status < 400 or answer.headers["content-type"] != JSON:
        return
    if media_type == "problem":
        answer.headers["content-type"] = PROBLEM_JSON
    elif media_type == "html":
        title = f"{answer.status} {TITLES[answer.status]}"
        answer.headers["content-type"] = HTML
        answer.body = f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>".encode()


def _with_bad_tags(row: bytes) -> bytes:
    """Of customers; of what has no tags, the name."""
    document = orjson.loads(row)
    bad: dict[str, object] = {"tags": {"id": 1}} if "tags" in document else {"name": 17}
    return orjson.dumps(document | bad)


VOICE = Voice(
    lambda status, detail: Problem(status, detail).answer(),
    (
        without_id,
        with_field("id", 17),
        with_field("id", "not an id / at all"),
        with_field("updatedTime", "yesterday"),
        with_field("createdTime", 1_700_000_000),
        _with_bad_tags,
        lambda _row: b'"a string"',
        lambda _row: b"null",
    ),
)
