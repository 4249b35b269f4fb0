"""Refusal: what a broker answers instead of doing what it was asked to."""

from __future__ import annotations

from enum import StrEnum


class Why(StrEnum):
    """The error codes that matter to the bridge."""

    FENCED = "a newer producer has this transactional id, or its transaction was too slow"
    CONCURRENT = "the transaction before is still being ended; ask again"
    INVALID_STATE = "no transaction is open that this could belong to"
    OUT_OF_ORDER = "a batch before this one is missing"
    TOO_LARGE = "a record is larger than the topic takes"
    NO_TOPIC = "there is no such partition"
    UNKNOWN_MEMBER = "the group does not know this member"
    REBALANCING = "the group is being rebalanced: join again"


class Refusal(Exception):
    """The answer to one request."""

    def __init__(self, why: Why) -> None:
        super().__init__(why.value)
        self.why = why


class Lost(Exception):
    """There is no answer: the connection broke before the broker acted, or afterwards."""
