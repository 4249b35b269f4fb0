"""Dialect: what a provider's documents fix of a world, whatever its switches say.

The people are the same for every provider: the same seed gives the same names, mail addresses and tags, under ids in
the form of each. So two worlds of one seed are two providers with the same customers.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Dialect:
    """See the module.

    customer_prefix, tag_prefix: how generated ids begin; they are UUIDs where it is empty.
    revisions: a customer's document counts its changes in `revision`, from 1.
    unique_tag_names: two tags never have the same name, letter case aside.
    foreign_tag_types: in the beginning there is one tag of each, which no customer can have.
    """

    customer_prefix: str = ""
    tag_prefix: str = ""
    revisions: bool = False
    unique_tag_names: bool = False
    foreign_tag_types: tuple[str, ...] = ()


DINTERO = Dialect()
REBILLY = Dialect("cus_", "tag_", True, True, ("kyc-document", "aml-check"))


def new_id(prefix: str, bits: int) -> str:
    """An id from 128 random bits."""
    return f"{prefix}{bits:032X}" if prefix else str(UUID(int=bits, version=4))
