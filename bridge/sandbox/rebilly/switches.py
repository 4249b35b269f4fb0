"""Switches of the simulated Rebilly API: everything its documents leave open.

The defaults are the most likely behaviour of the real provider; a client must survive every other value. What may go
wrong with any provider comes with `FaultSwitches`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bridge.sandbox.population.register import Rules
from bridge.sandbox.switches import FaultSwitches, seconds

PERMISSIONS = ("customers:read", "customers:write", "tags:read", "tags:write", "webhooks:read", "webhooks:write")


class RebillySwitches(FaultSwitches):
    """One value per switch."""

    # Access.
    token_lifetime: int = Field(default=900, ge=1)
    """Seconds that a bearer token is good for."""
    permissions: str = ",".join(PERMISSIONS)
    """What the key may do, comma-separated; looked at on every call, so a right can be taken away."""

    # Rate limit.
    rate_limit: int = Field(default=0, ge=0)
    """Writes per window of the wall clock, beyond which the answer is 429; 0: no limit. The vendor's sandbox: 3000."""
    rate_limit_window: int = Field(default=600, ge=1, le=86_400)
    """Seconds."""
    rate_limit_reads: bool = False
    """Whether reads count, are refused and tell what is left, too."""
    rate_limit_retry_after: Literal["timestamp", "past", "far", "missing", "text", "standard"] = "timestamp"
    """`X-RateLimit-Retry-After` of a 429: when the next window begins; ten seconds ago; in a day; not there; words;
    not there but a `Retry-After` in seconds."""

    # Collections.
    default_limit: int = Field(default=100, ge=1, le=1000)
    """Rows of a page whose `limit` is not given."""
    offset_above_1000: Literal["422", "400", "clamped", "empty"] = "422"
    """Answer to a greater offset: refused; as if it were 1000; an empty page."""
    sort_ties: Literal["reversed", "same", "shuffled"] = "reversed"
    """Rows that sort alike: descending is ascending backwards; in the same order both ways; anew for each request."""

    # Tags.
    bulk_delay: float = seconds(0.5)
    """Seconds from the answer of an asynchronous call to its first hundred customers; a tenth of a second for each
    hundred more. 0: all is done when the answer comes."""
    bulk_order: Literal["given", "random"] = "given"
    """random: customers in any order; and a job may begin at any time up to twice its delay, so jobs overtake."""
    bulk_lost: bool = False
    """One customer of each job is left out, and done with the next job."""
    bulk_unknown_tag: Literal["422", "404", "204"] = "422"
    """Bulk call with a tag that does not exist; 204: nothing happens."""
    tagging_moves: Literal["nothing", "both", "updated_time", "revision"] = "nothing"
    """What of a customer moves when it is tagged or untagged."""
    tagging_fires_customer_updated: bool = False
    """Whether there is a webhook when a customer is tagged or untagged."""
    tag_rename_moves_customers: bool = False
    """Whether `updatedTime` and `revision` of everybody who has a tag move when it is renamed."""
    tags_order: Literal["assigned", "shuffled"] = "assigned"
    """`tags` of a customer: as they were assigned, or anew for each request."""

    # Customers.
    payments_move_customers: bool = False
    """Whether a payment, which changes only volatile numbers, moves `updatedTime` and `revision`."""
    merged_read: Literal["404", "301", "survivor"] = "404"
    """Reading a customer that was merged: nobody; a redirect to the survivor; the survivor itself."""
    survivor_tags: Literal["union", "own"] = "union"
    """Which tags a merge leaves."""

    # Documents.
    timestamp_precision: Literal["seconds", "microseconds"] = "seconds"
    timestamp_zone: Literal["Z", "+00:00"] = "Z"

    # Errors.
    error_media_type: Literal["json", "problem", "html"] = "json"
    """Of an error's body: application/json, application/problem+json, or a page of a gateway instead."""

    # Webhooks.
    webhook_payload: Literal["embedded", "ids", "generic_merge"] = "embedded"
    """With `_embedded`; without; or with, and a merge in the shape of the other events. A webhook may have a `body` of
    its own, too."""
    webhook_delivery: Literal["once", "duplicated", "reordered", "delayed", "dropped", "retried"] = "once"
    """Once and in order; each twice; within two seconds in any order; after a minute; never; what failed up to five
    times with growing gaps."""
    webhook_auth: Literal["basic", "digest", "none", "wrong"] = "basic"
    """How deliveries prove who they are, where the credential has a password: Basic; Digest once challenged; not at
    all; Basic with another password."""

    # Conditional requests and faults, see `FaultSwitches`; nothing is written of ETags.
    etag: Literal["honoured", "ignored", "changing", "none"] = "none"
    fault_on: Literal[
        "any", "tags", "tag", "bulk", "membership", "customers", "customer", "timeline", "webhooks", "webhook"
    ] = "any"
    """Limits the faults to one endpoint; bulk and membership are `/tags/{tag}/customers` and what is below it."""

    def rules(self) -> Rules:
        """The part that the world itself follows."""
        return Rules(
            precision=self.timestamp_precision,
            tag_bumps_updated_at=self.tagging_moves in {"both", "updated_time"},
            tag_bumps_revision=self.tagging_moves in {"both", "revision"},
            tag_rename_moves_customers=self.tag_rename_moves_customers,
            payment_moves_customers=self.payments_move_customers,
            union_of_tags=self.survivor_tags == "union",
        )
