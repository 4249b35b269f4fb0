"""Strip: a tag that is gone loses its members, from what is known, before its own deletion is told.

A provider says nothing about it: a deleted tag is gone from all customers at once. Called by whoever has proved that a
tag is gone. Its members leave in chunks, between which others go on; after a crash in the middle the tag is still in
the state, so the rest follows when it is found gone again.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from bridge.detect.edges import EdgeMove
from bridge.model import Cause, Path
from bridge.runtime.ledger import Ledger
from bridge.runtime.step import SourceStep

CHUNK = 200
"""Edges written at once: about as many records as two pages of a list bring."""


async def strip(source: str, tags: Iterable[str], step: SourceStep, ledger: Ledger, path: Path) -> None:
    """Untag every member of these tags. From now on nobody joins them any more."""
    gone = list(tags)
    for tag in gone:
        step.doom(tag)
    for tag in gone:
        kept: set[str] = set()
        while True:
            await ledger.wait_room()
            chunk = _some(ledger, source, tag, kept)
            if not chunk:
                break
            if step.absorb_edges([EdgeMove(uid, tag, False) for uid in chunk], Cause(path)) < len(chunk):
                kept.update(chunk)  # what cannot be published (too large by now) must not be tried for ever


def _some(ledger: Ledger, source: str, tag: str, but: set[str]) -> list[str]:
    """The look at the store ends here: it may not change meanwhile."""
    return list(islice((uid for uid in ledger.members(source, tag) if uid not in but), CHUNK))
