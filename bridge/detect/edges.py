"""Edges: memberships, each an edge between a customer and a tag. Pure.

A customer's body holds them as `tags`: the uids of its tags, sorted, absent when there is none. Each edge that moves is
a change of its own, and changes nothing but `tags`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from bridge.detect.diff import Change
from bridge.model import Body

FIELD = "tags"

CHANGED = (f"/{FIELD}",)
"""What changes with an edge, as JSON Pointers."""


class EdgeMove(NamedTuple):
    """A customer was seen to have got a tag (`joined`), or to have lost it."""

    customer: str
    tag: str
    joined: bool


def tags_of(body: Body | None) -> list[str]:
    """The tags that a customer's body says it has; not to be changed."""
    return [] if body is None else body.get(FIELD, [])


def moved(customer: str, before: Iterable[str], after: Iterable[str]) -> list[EdgeMove]:
    """The edges that lead from one list of tags to another: those that are lost, then those that are new, sorted."""
    old, new = set(before), set(after)
    lost = [EdgeMove(customer, tag, False) for tag in sorted(old - new)]
    return lost + [EdgeMove(customer, tag, True) for tag in sorted(new - old)]


def change(body: Body, move: EdgeMove) -> Change | None:
    """What the move makes of the customer; None when it is so already."""
    tags = tags_of(body)
    if (move.tag in tags) is move.joined:
        return None
    kept = [tag for tag in tags if tag != move.tag]
    return Change(body, with_tags(body, [*kept, move.tag] if move.joined else kept), CHANGED)


def with_tags(body: Body, tags: Iterable[str]) -> Body:
    """The body with exactly these tags."""
    bare = {name: value for name, value in body.items() if name != FIELD}
    found = sorted(tags)
    return {**bare, FIELD: found} if found else bare
