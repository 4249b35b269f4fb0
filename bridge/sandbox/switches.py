"""Switches of the simulated Dintero API: everything its documents leave open; and of any, all that may go wrong.

The defaults are the most likely behaviour of the real provider; a client must survive every other value. Switches are
parsed from `name=value` texts (command line) or JSON objects (control route) and may be changed while the API runs.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from bridge.sandbox.knobs import Knobs
from bridge.sandbox.population.instants import Precision
from bridge.sandbox.world import Rules

DELAY_S_MAX = 3600.0
"""No simulated delay is longer than an hour."""


def rate() -> float:
    """A probability per request (or per page, where the comment says so)."""
    probability: float = Field(default=0.0, ge=0.0, le=1.0)
    return probability


def seconds(default: float = 0.0) -> float:
    """A delay."""
    delay_s: float = Field(default=default, ge=0.0, le=DELAY_S_MAX)
    return delay_s


class FaultSwitches(Knobs):
    """What may go wrong with any provider. Immutable: `changed` makes a new one."""

    word: ClassVar[str] = "switch"

    # Conditional requests.
    etag: Literal["honoured", "ignored", "changing", "none"] = "ignored"
    """honoured: named after the content, and `If-None-Match` may be answered with 304. ignored: never 304. changing:
    another one with each answer. none: no ETag at all."""

    # Faults.
    fault_on: str = "any"
    """Limits the faults below to one endpoint, as each provider names its own."""
    fault_429: float = rate()
    fault_429_retry_after: str = Field(default="none", pattern=r"^[\x20-\x7e]*$")
    """The header's text (`2`, or nonsense), `date` for an HTTP date two seconds ahead (or when the provider's limit
    begins anew), `none` for no header."""
    fault_500: float = rate()
    fault_502_html: float = rate()
    fault_200_html: float = rate()
    """A login page of a gateway where JSON is expected."""
    fault_slow: float = rate()
    """The body drips ..."""
    fault_slow_s: float = seconds(5.0)
    """... for this long."""
    fault_cut: float = rate()
    """The connection breaks in the middle of the body; a write may or may not have happened."""
    empty_tag_list_once: bool = False
    """The next list of tags is empty; then the switch is off again."""
    empty_page: float = rate()
    """Per list: valid, but no rows."""
    duplicate_rows: float = rate()
    """Per list: some rows come twice."""
    bad_row: float = rate()
    """Per list: one document is not what its schema says."""
    bad_shape: float = rate()
    """Per list: not a list at all."""
    latency_ms: float = Field(default=0.0, ge=0.0, le=DELAY_S_MAX * 1000)
    """Delay of every answer."""
    page_latency_ms: float = Field(default=0.0, ge=0.0, le=DELAY_S_MAX * 1000)
    """Further delay of each page of customers."""


class Switches(FaultSwitches):
    """One value per switch."""

    # Access.
    token_lifetime: int = Field(default=14_400, ge=1)
    """Seconds; what `expires_in` says."""
    token_revoke_after: float = Field(default=0.0, ge=0.0)
    """Seconds after which a token is refused although it has not expired; 0 is never."""
    scopes: str = "admin:customers,admin:accounts"
    """What the API client may do, comma-separated; looked at on every call, so a right can be taken away."""
    head_users: bool = True
    """Whether the account has enabled HEAD on the customer list (else 405)."""

    # Limit.
    limit_per_minute: int = Field(default=0, ge=0)
    """Requests of all kinds in a minute of the wall clock, beyond which the answer is 429; 0 is no limit."""
    limit_headers: Literal["none", "x", "ratelimit", "draft"] = "none"
    """How each answer tells what is left: not; `X-RateLimit-…`, the reset as Unix time; `RateLimit-…` in seconds; one
    `RateLimit` header."""

    # Customer list.
    list_order: Literal["created", "created_descending", "id", "shuffled"] = "created"
    """Order without `since_datetime`: created_at then id ascending, its reverse, by id, anew for each request."""
    cursor_kind: Literal["id", "customer_id", "ignored"] = "id"
    """What `starting_after` takes; ignored: every page is page one."""
    since_bound: Literal["inclusive", "exclusive"] = "inclusive"
    since_order: Literal["ascending", "descending"] = "ascending"
    """By updated_at, then id."""
    since_with_cursor: Literal["error", "ignore_cursor", "ignore_since"] = "error"
    """Answer to `since_datetime` together with `starting_after`: 400, or one of them has no effect."""
    tombstones: Literal["shown", "never"] = "shown"
    """Whether any list with `include_deleted` shows deletions; never: a deleted customer is merely absent."""
    tombstones_in_since: Literal["by_deleted_at", "never"] = "by_deleted_at"
    """Whether `since_datetime` with `include_deleted` shows deletions."""
    linked_users: Literal["appended", "inside_limit"] = "appended"
    """Customers whom the page's contacts are contacts for: beyond `limit`, or instead of further rows. At the end."""
    late_visibility_s: float = seconds()
    """Lists show a change only this long after its time stamp."""

    # Documents.
    timestamp_precision: Precision = "seconds"
    tag_bumps_updated_at: bool = False
    rename_bumps_updated_at: bool = True
    deleted_read: Literal["404", "tombstone"] = "404"
    """Answer to reading a deleted customer."""
    roles_without_expand: Literal["ids", "absent"] = "ids"
    """Management users without `expand=roles`."""

    fault_on: Literal[
        "any", "token", "tags", "tag", "customers", "customer", "customer_tags", "rename", "management"
    ] = "any"
    """Limits the faults to one endpoint: any, token, tags, tag, customers, customer, customer_tags, rename,
    management."""

    def rules(self) -> Rules:
        """The part that the world itself follows."""
        return Rules(
            precision=self.timestamp_precision,
            late_visibility_s=self.late_visibility_s,
            tag_bumps_updated_at=self.tag_bumps_updated_at,
            rename_bumps_updated_at=self.rename_bumps_updated_at,
        )
