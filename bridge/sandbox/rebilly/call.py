"""Calls of the simulated Rebilly API, and its ways to answer them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import orjson

from bridge.model import Body
from bridge.sandbox.answer import Answer
from bridge.sandbox.rebilly.deliveries import PostOffice
from bridge.sandbox.rebilly.documents import View
from bridge.sandbox.rebilly.forms import parsed
from bridge.sandbox.rebilly.hooks import Hooks
from bridge.sandbox.rebilly.jobs import Jobs
from bridge.sandbox.rebilly.switches import RebillySwitches
from bridge.sandbox.rebilly.timeline import Timeline
from bridge.sandbox.world import World


@dataclass(frozen=True, slots=True)
class Office:
    """What the endpoints work with. chance: for whatever is shuffled."""

    world: World
    jobs: Jobs
    hooks: Hooks
    post: PostOffice
    timeline: Timeline
    chance: Random


@dataclass(frozen=True, slots=True)
class Call:
    """One accepted request: the endpoint is found, the key is good.

    arguments: the decoded ids in the path, in order.
    """

    office: Office
    switches: RebillySwitches
    view: View
    arguments: Sequence[str]
    query: Sequence[tuple[str, str]]
    body: bytes | None

    @property
    def world(self) -> World:
        """The population."""
        return self.office.world

    def first(self, name: str) -> str | None:
        """The first value of a query parameter."""
        return next((value for key, value in self.query if key == name), None)

    def names(self, name: str) -> list[str] | None:
        """A comma-joined query parameter; None when it is not there."""
        text = self.first(name)
        return None if text is None else [part.strip() for part in text.split(",") if part.strip()]

    def form(self) -> Body:
        """The object in the body."""
        return parsed(self.body)


def found(document: Body, status: int = 200, location: str | None = None) -> Answer:
    """One object."""
    answer = Answer(status, orjson.dumps(document))
    if location is not None:
        answer.headers["location"] = location
    return answer


def done() -> Answer:
    """204, which has neither body nor media type."""
    return Answer(204, headers={})
