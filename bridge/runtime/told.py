"""ToldTags: tags that customers say they have and that are not known yet. Pure.

A customer may show a tag before the list of tags has been read again. The edge waits until the tag is there, because
what is told of an edge comes behind the `created` of both its ends; whatever the customer says meanwhile takes its
place. A tag may also be gone from the list while customers still show it: then the edge waits until they do not.

In memory only, and bounded. What is lost, with the process or because it was too much, is said again by the customers'
next glance; `lost` says whether that is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from bridge.detect.edges import EdgeMove
from bridge.model import Cause

WAITING_MAX = 10_000
"""Customers. More of them than this show an unknown tag only while the list of tags cannot be read."""


class ToldTags:
    """Of one source during one opening of its shard."""

    def __init__(self) -> None:
        self.lost = False
        """Whether something was not kept; whoever begins to ask everybody again sets it back."""
        self._waiting: dict[str, dict[str, Cause]] = {}  # by customer and tag: why the edge was first seen

    @property
    def tags(self) -> set[str]:
        """Those that somebody waits for."""
        return {tag for tags in self._waiting.values() for tag in tags}

    def waits(self, uid: str) -> bool:
        """Whether a customer waits for a tag."""
        return uid in self._waiting

    def note(self, uid: str, unknown: Iterable[str], cause: Cause) -> None:
        """A customer has said which tags it has; these of them are unknown. cause: why it was looked at."""
        before = self._waiting.pop(uid, {})
        tags = {tag: before.get(tag, cause) for tag in unknown}
        if tags and len(self._waiting) >= WAITING_MAX:
            self.lost = True
        elif tags:
            self._waiting[uid] = tags

    def lose(self) -> None:
        """What was said is not to be kept, and has to be said again."""
        self._waiting.clear()
        self.lost = True

    def forget(self, uid: str) -> None:
        """The customer is gone."""
        self._waiting.pop(uid, None)

    def settled(self, known: Mapping[str, object] | Set[str]) -> dict[Cause, list[EdgeMove]]:
        """The edges to tags that are known by now, by why they were first seen; they wait no longer."""
        moves: dict[Cause, list[EdgeMove]] = {}
        for uid, tags in list(self._waiting.items()):
            for tag in sorted(tag for tag in tags if tag in known):
                moves.setdefault(tags.pop(tag), []).append(EdgeMove(uid, tag, True))
            if not tags:
                del self._waiting[uid]
        return moves
