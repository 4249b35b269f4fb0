"""Rows as the provider sends them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from bridge.model import iso

UID = "8d0c6a52-3f0e-4c53-9f0e-2f6b1b7f4c10"


def uid_of(number: int) -> str:
    return str(UUID(int=number + 1))


def customer_row(number: int | None = None, at: float | None = None, **fields: Any) -> dict[str, Any]:
    """`at`: wall-clock seconds of the last change; `Any`: whatever a provider may say."""
    row: dict[str, Any] = {
        "id": UID if number is None else uid_of(number),
        "customer_id": "c-1001" if number is None else f"c-{number}",
        "type": "customer",
        "created_at": "2024-11-21T08:15:30Z",
        "updated_at": "2026-11-21T08:15:30Z" if at is None else iso(round(at * 1_000_000)),
    }
    return row | fields


def tombstone_row(number: int, at: float) -> dict[str, Any]:
    moment = iso(round(at * 1_000_000))
    return {
        "id": uid_of(number),
        "customer_id": f"c-{number}",
        "created_at": "2024-11-21T08:15:30Z",
        "created_by": "x",
        "deleted_at": moment,
        "deleted_by": "x",
    }


def tag_row(**fields: Any) -> dict[str, Any]:
    return {"id": UID, "tag": "VIP", "created_at": "2024-11-21T08:15:30Z"} | fields
