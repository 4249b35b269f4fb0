"""Source: one account at a provider, as everything above the providers uses it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from bridge.model import Account, Collection
from bridge.source.commanding import Commander
from bridge.source.feed import Feed
from bridge.source.memberships import Glances, PacedReader


class Source(Protocol):
    """Made by the `build` of a provider's folder; closed by whoever had it made.

    Which tags customers have is told by `memberships` or by the customers themselves, with `glances`; never by both.
    """

    @property
    def account(self) -> Account:
        """Which account this is."""
        ...

    @property
    def feeds(self) -> Mapping[Collection, Feed]:
        """Of the collections that are to be read as documents."""
        ...

    @property
    def memberships(self) -> PacedReader | None:
        """For a provider whose customers do not say which tags they have."""
        ...

    @property
    def glances(self) -> Glances | None:
        """For a provider whose customers say it, if that is to be read."""
        ...

    @property
    def commander(self) -> Commander | None:
        """For a provider at which something can be done."""
        ...

    async def login(self) -> None:
        """Show that credentials and rights are good, by one small read per right; raises any `SourceError`."""
        ...

    async def close(self) -> None:
        """Release connections; idempotent."""
        ...
