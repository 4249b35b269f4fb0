"""Calls of the simulated Dintero API, and its ways to answer them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from bridge.errors import RequestRefused
from bridge.model import Body
from bridge.sandbox.answer import Answer
from bridge.sandbox.switches import Switches
from bridge.sandbox.world import World

CODES = {400: "BAD_REQUEST", 401: "UNAUTHORIZED", 403: "FORBIDDEN", 404: "NOT FOUND", 405: "METHOD_NOT_ALLOWED"}
"""`error.code` by status. The provider has no fixed spelling, so neither has the sandbox."""


@dataclass(frozen=True, slots=True)
class Call:
    """One accepted request: the endpoint is found, the token is good, the account is ours.

    argument: the decoded id in the path, empty where there is none.
    """

    world: World
    switches: Switches
    argument: str
    query: Sequence[tuple[str, str]]
    body: bytes | None

    def first(self, name: str) -> str | None:
        """The first value of a query parameter."""
        return next((value for key, value in self.query if key == name), None)

    def every(self, name: str) -> list[str]:
        """All values of a repeated query parameter."""
        return [value for key, value in self.query if key == name]

    def flag(self, name: str) -> bool:
        """A boolean query parameter, default false."""
        text = self.first(name)
        if text not in {None, "true", "false"}:
            raise RequestRefused(f"{name} must be true or false", status=400)
        return text == "true"

    def json(self) -> Any:
        """The parsed body; `Any` because its shape is not checked yet."""
        try:
            return orjson.loads(self.body or b"")
        except orjson.JSONDecodeError:
            raise RequestRefused("the body is not JSON", status=400) from None


def found(document: Body) -> Answer:
    """200 with one object."""
    return Answer(body=orjson.dumps(document))


def listed(documents: Sequence[Body]) -> Answer:
    """200 with a bare array."""
    return Answer(rows=[orjson.dumps(document) for document in documents])


def refused(status: int, message: str) -> Answer:
    """The common error body."""
    error = {"message": message, "code": CODES.get(status, str(status))}
    return Answer(status, orjson.dumps({"error": error}))
