"""Rows: one page of the customer list, and what its rows tell. Pure functions.

A page that holds contacts also holds the customers they are contacts for, wherever those belong in the order, and
whether or not they match what was asked for.
"""

from __future__ import annotations

from typing import Any

from bridge.errors import Malformed
from bridge.source.api import Answer

ENDPOINT = "customers.list"


def list_of(answer: Answer) -> list[Any]:
    """The rows; `Any` because each is checked by itself."""
    if not isinstance(answer.value, list):
        raise Malformed(f"{ENDPOINT} answered without a list")
    return answer.value


def linked_ids(rows: list[Any]) -> frozenset[str]:
    """customer_ids of those that are on the page because a contact of theirs is, or could be."""
    found: set[str] = set()
    for row in rows:
        if isinstance(row, dict) and row.get("type") == "contact" and isinstance(row.get("contact_for"), list):
            ids = [link.get("customer_id") for link in row["contact_for"] if isinstance(link, dict)]
            found.update(name for name in ids if isinstance(name, str))
    return frozenset(found)
