"""Dintero: customers, tags, memberships and management users of one account, in our words.

`build` makes the feeds of one account from its settings, a transport, the clock and an observer. All requests of the
account share one budget and one token.

What the feeds put into `Document.body`, always without null, `{}` and `[]`:

customer
    uid (the provider's UUID, immutable), customer_id, type, status, email, phone_number, first_name, last_name,
    date_of_birth, gender, favorite_store: text as given. company, attributes, metadata: objects. addresses: objects
    in canonical order. consents: channel → {consent, updated_at}, the provider's `marketing_consent`. created_at,
    updated_at: `YYYY-MM-DDTHH:MM:SS[.fff[fff]]Z`, the shortest form. extra: everything else under the provider's own
    names (created_by, enrolled_by, term, contact_for in canonical order, fields that are new), and
    `customer_id_changes`: the provider's records of renames, oldest first, taken out of `metadata`.
tag
    uid, name (the provider's `tag`), metadata, created_at, updated_at, extra.
user
    uid, email, name, status, authentication_type: text. scope: sorted texts. roles: objects sorted by id, each with its
    scope sorted and without its own time stamps. created_at, updated_at. extra: everything else (agreement,
    configuration, created_by); `last_seen_at` is left out.

`Document.version` is `updated_at` in microseconds, 0 when it is missing or later than the server's own clock.
"""

from __future__ import annotations

import base64
import random
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator

from bridge.clock import Clock
from bridge.model import Account, Collection
from bridge.source.api import ApiClient, ClientSettings, Exchange, RequestObserver
from bridge.source.budget import Priority, RequestBudget
from bridge.source.dintero.commands import DinteroCommander
from bridge.source.dintero.customers import CustomersFeed, ListSettings
from bridge.source.dintero.memberships import MembershipList
from bridge.source.dintero.snapshot import SnapshotFeed
from bridge.source.dintero.whole import WholeFeed, WholeList, tags_of, users_of
from bridge.source.feed import Feed
from bridge.source.settings import base_url, source_id
from bridge.source.token import OAuthToken
from bridge.source.transport import Request, Transport

PROVIDER: Final = "dintero"

API: Final = "https://api.dintero.com/v1"
"""Base URL of the service; also the first part of every token's audience, whatever host is asked."""

SNAPSHOT_PARALLELISM_MAX = 32
"""Requests side by side in the first reading; a quarter of what one process sends to one origin at once, and a step of
that many pages is written within a few tenths of a second."""

_ACCOUNT = re.compile(r"[PT]\d{8}", re.ASCII)
_PARTNER = re.compile(r"[PT]\d{3}", re.ASCII)
_OWNER = re.compile(r"[PT](?:\d{3}|\d{8})", re.ASCII)


class DinteroSettings(BaseModel):
    """One account. Errors of validation never show a value."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    source: str = Field(description="the source's id in the bridge")
    collections: frozenset[Collection] = frozenset({Collection.CUSTOMERS, Collection.TAGS})
    account: str = Field(description="P (production) or T (test) and 8 digits; a partner for users alone")
    client_id: str = Field(min_length=1, max_length=255)
    client_secret: SecretStr
    owner: str | None = Field(
        None,
        description="who logs in and whose users are read: an account or a partner (P or T, 3 digits); the account",
    )
    base_url: str = API
    request_rate: float = Field(10.0, gt=0, le=10_000, description="requests per second, all together")
    request_timeout_s: float = Field(60.0, gt=0, le=600)
    poll_overlap_s: float = Field(10.0, ge=1, le=3600, description="how late a change may become visible")
    cursor_kind: Literal["id", "customer_id"] = "id"
    page_limit: int = Field(100, ge=1, le=100)
    snapshot_parallelism: int = Field(4, ge=1, le=SNAPSHOT_PARALLELISM_MAX, description="requests side by side")

    @field_validator("source")
    @classmethod
    def _source_id(cls, value: str) -> str:
        return source_id(value)

    @field_validator("account")
    @classmethod
    def _account_id(cls, value: str, info: ValidationInfo) -> str:
        if _PARTNER.fullmatch(value):
            if info.data.get("collections") != {Collection.USERS}:
                raise ValueError('is a partner, of which only users can be read: set collections = ["users"]')
        elif not _ACCOUNT.fullmatch(value):
            raise ValueError("must be P or T and 8 digits")
        return value

    @field_validator("owner")
    @classmethod
    def _owner_id(cls, value: str | None) -> str | None:
        if value is not None and not _OWNER.fullmatch(value):
            raise ValueError("must be P or T and 3 or 8 digits")
        return value

    @field_validator("client_id")
    @classmethod
    def _basic_user(cls, value: str) -> str:
        if ":" in value or not value.isprintable():
            raise ValueError("must be printable and without a colon")
        return value

    @field_validator("base_url")
    @classmethod
    def _origin(cls, value: str) -> str:
        return base_url(value)


class DinteroSource:
    """The feeds of one account; its users are the shard that owns it, and `bridge check`. Implements `Source`."""

    glances: Final = None
    """Customers do not say which tags they have."""

    def __init__(
        self, settings: DinteroSettings, transport: Transport, client: ApiClient, token: OAuthToken, path: str
    ) -> None:
        """Use `build`. `path` of the account, encoded."""
        self.account = Account(settings.source, PROVIDER, settings.account)
        self._transport = transport
        self._client = client
        self._token = token
        list_settings = ListSettings(
            settings.page_limit, settings.cursor_kind, settings.poll_overlap_s, settings.snapshot_parallelism
        )
        customers_path = f"{path}/customers/users"
        walking = CustomersFeed(client, customers_path, list_settings)
        self.customers = SnapshotFeed(walking, client, customers_path, list_settings)
        self._tags = tags_of(path)
        self._users = users_of(f"/accounts/{settings.owner or settings.account}")
        feeds: dict[Collection, Feed] = {
            Collection.CUSTOMERS: self.customers,
            Collection.TAGS: WholeFeed(client, self._tags),
            Collection.USERS: WholeFeed(client, self._users),
        }
        self.memberships = MembershipList(client, customers_path, settings.page_limit, settings.cursor_kind)
        self.commander = DinteroCommander(
            client, customers_path, settings.page_limit, settings.cursor_kind, self.memberships
        )
        self.feeds: Mapping[Collection, Feed] = MappingProxyType(
            {collection: feed for collection, feed in feeds.items() if collection in settings.collections}
        )

    async def login(self) -> None:
        """Get a token and use it for one small read per right that is needed; raises any `SourceError`.

        A valid token may lack the scopes. Customers, tags and memberships need the same one.
        """
        await self._token.authorization()
        tried: list[WholeList] = []
        if self.feeds.keys() - {Collection.USERS}:
            tried.append(self._tags)
        if Collection.USERS in self.feeds:
            tried.append(self._users)
        for listed in tried:
            await self._client.get(listed.endpoint, listed.path, listed.query, priority=Priority.COMMAND)

    async def close(self) -> None:
        """Release connections; idempotent."""
        await self._transport.close()


def build(
    settings: DinteroSettings,
    transport: Transport,
    clock: Clock,
    observer: RequestObserver,
    spread: Callable[[], float] = random.random,
) -> DinteroSource:
    """Everything one account needs; sends nothing yet. `spread`: a number in [0, 1) for jitter."""
    budget = RequestBudget(settings.request_rate, clock)
    exchange = Exchange(transport, budget, clock, observer, spread)
    token = OAuthToken(exchange, lambda: _login(settings), clock)
    client = ApiClient(exchange, token, clock, ClientSettings(request_timeout_s=settings.request_timeout_s))
    return DinteroSource(settings, transport, client, token, f"/accounts/{settings.account}")


def _login(settings: DinteroSettings) -> Request:
    user = f"{settings.client_id}:{settings.client_secret.get_secret_value()}".encode()
    audience = f"{API}/accounts/{settings.account}"
    return Request(
        "POST",
        f"/accounts/{settings.owner or settings.account}/auth/token",
        headers={
            "Authorization": "Basic " + base64.b64encode(user).decode("ascii"),
            "Content-Type": "application/json",
        },
        body=orjson.dumps({"grant_type": "client_credentials", "audience": audience}),
        timeout_s=settings.request_timeout_s,
        body_bytes_max=64 * 1024,
    )
