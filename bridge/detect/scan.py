"""Scan: what a complete reading has seen, and who was missing.

Absence is a suspicion only. A suspect becomes a deletion after a confirming read, and not even then when a complete
reading misses more than the limit allows: providers have bad days, and a false deletion downstream costs more than
a late one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class DeleteLimit(NamedTuple):
    """More than `documents` **and** more than `share` of the known documents missing at once: held for a person."""

    share: float = 0.05
    documents: int = 50

    def holds(self, suspects: int, known: int) -> bool:
        """True when so many deletions at once need a person's word."""
        return suspects > self.documents and suspects > self.share * known


def suspects(known: Iterable[str], seen: Iterable[str]) -> list[str]:
    """The known uids that a complete reading did not show, sorted."""
    return sorted(set(known).difference(seen))
