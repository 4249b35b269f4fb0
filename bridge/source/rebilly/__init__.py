"""Rebilly: customers, their tags and the tags of one organization, in our words.

`build` makes the feeds of one organization from its settings, a transport, the clock and an observer. All requests of
the organization share one budget; its key goes into every one of them.

What the feeds put into `Document.body`, always without null, `{}` and `[]`:

customer
    uid and customer_id: the provider's id (which a caller may choose, and nobody can change). email, first_name,
    last_name: text as given. phone_number, date_of_birth, addresses: from the primary address; the latter is one
    object, in the words that addresses have for every provider. company: the provider's object. attributes: its
    `customFields`. created_at, updated_at: `YYYY-MM-DDTHH:MM:SS[.fff[fff]]Z`, the shortest form. extra: everything
    else under the provider's own names (websiteId, locale, taxNumbers and notificationEmails as sets,
    `primaryAddress` without what is told elsewhere, `revision` as of the last event, fields that are new).
    Left out: amounts and counters that move by themselves (payments, invoices, revenue), links, and `tags`, which are
    edges of their own.
tag
    uid, name, created_at, updated_at, extra.

`Document.version` is `updatedTime` in microseconds, 0 when it is missing or later than the server's own clock.
`Document.revision` is the customer's `revision`. Times alone are not enough, because they are whole seconds: of two
copies of one second the higher revision is the newer one. Revisions alone are not enough either: they begin anew when
an id is used again, and an event has to say when something changed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from bridge.clock import Clock
from bridge.model import Account, Collection
from bridge.source.api import ApiClient, ClientSettings, Exchange, RequestObserver
from bridge.source.apikey import ApiKey
from bridge.source.budget import Priority, RequestBudget
from bridge.source.feed import Feed
from bridge.source.rebilly import customers, tags
from bridge.source.rebilly.commands import RebillyCommander
from bridge.source.rebilly.customers import CustomersFeed, ListSettings
from bridge.source.rebilly.listing import LIMIT_MAX
from bridge.source.rebilly.models import is_id
from bridge.source.rebilly.tags import TagsFeed
from bridge.source.settings import base_url, source_id
from bridge.source.transport import Transport

PROVIDER: Final = "rebilly"

API: Final = "https://api.rebilly.com"
"""Base URL of the service; `https://api-sandbox.rebilly.com` has the same for trying things out."""

HEADER: Final = "REB-APIKEY"

COLLECTIONS: Final = frozenset({Collection.CUSTOMERS, Collection.TAGS, Collection.MEMBERSHIPS})
"""What can be read."""


class RebillySettings(BaseModel):
    """One organization. Errors of validation never show a value."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    source: str = Field(description="the source's id in the bridge")
    collections: frozenset[Collection] = COLLECTIONS
    account: str = Field(description="the organization's id")
    api_key: SecretStr = Field(description="a secret key that may read customers and tags")
    base_url: str = API
    request_rate: float = Field(10.0, gt=0, le=10_000, description="requests per second, all together")
    request_timeout_s: float = Field(60.0, gt=0, le=600)
    poll_overlap_s: float = Field(10.0, ge=1, le=3600, description="how late a change may become visible")
    page_limit: int = Field(LIMIT_MAX, ge=1, le=LIMIT_MAX)

    @field_validator("source")
    @classmethod
    def _source_id(cls, value: str) -> str:
        return source_id(value)

    @field_validator("account")
    @classmethod
    def _organization(cls, value: str) -> str:
        if not is_id(value):
            raise ValueError("must be an organization's id, 1 to 50 of letters, digits and @~-._")
        return value

    @field_validator("api_key")
    @classmethod
    def _fits_a_header(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        if not text or len(text) > 1024 or not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError("must be printable ASCII without spaces")
        return value

    @field_validator("base_url")
    @classmethod
    def _origin(cls, value: str) -> str:
        return base_url(value)

    @field_validator("collections")
    @classmethod
    def _readable(cls, value: frozenset[Collection]) -> frozenset[Collection]:
        if unread := value - COLLECTIONS:
            raise ValueError(f"has no {', '.join(sorted(unread))} that could be read")
        return value


class RebillySource:
    """The feeds of one organization; its users are the shard that owns it, and `bridge check`. Implements `Source`."""

    memberships: Final = None
    """Customers say which tags they have."""

    def __init__(self, settings: RebillySettings, transport: Transport, client: ApiClient, path: str) -> None:
        """Use `build`. `path` of the organization, encoded."""
        self.account = Account(settings.source, PROVIDER, settings.account)
        self._transport = transport
        self._client = client
        tells_tags = Collection.MEMBERSHIPS in settings.collections
        list_settings = ListSettings(settings.page_limit, settings.poll_overlap_s, tells_tags)
        self.customers = CustomersFeed(client, f"{path}/customers", list_settings)
        self.glances = self.customers if tells_tags else None
        self.commander = RebillyCommander(client, path, self.customers)
        feeds: dict[Collection, Feed] = {
            Collection.CUSTOMERS: self.customers,
            Collection.TAGS: TagsFeed(client, f"{path}/tags", settings.page_limit),
        }
        self.feeds: Mapping[Collection, Feed] = MappingProxyType(
            {collection: feed for collection, feed in feeds.items() if collection in settings.collections}
        )
        self._tried = [
            (endpoint, f"{path}/{name}")
            for collection, endpoint, name in (
                (Collection.CUSTOMERS, customers.ENDPOINT, "customers"),
                (Collection.TAGS, tags.ENDPOINT, "tags"),
            )
            if collection in self.feeds
        ]

    async def login(self) -> None:
        """Use the key for one small read per right that is needed; raises any `SourceError`."""
        for endpoint, path in self._tried:
            await self._client.get(endpoint, path, (("limit", "1"),), priority=Priority.COMMAND)

    async def close(self) -> None:
        """Release connections; idempotent."""
        await self._transport.close()


def build(
    settings: RebillySettings,
    transport: Transport,
    clock: Clock,
    observer: RequestObserver,
    spread: Callable[[], float] = random.random,
) -> RebillySource:
    """Everything one organization needs; sends nothing yet. `spread`: a number in [0, 1) for jitter."""
    budget = RequestBudget(settings.request_rate, clock)
    exchange = Exchange(transport, budget, clock, observer, spread)
    key = ApiKey(HEADER, settings.api_key)
    client = ApiClient(exchange, key, clock, ClientSettings(request_timeout_s=settings.request_timeout_s))
    return RebillySource(settings, transport, client, f"/organizations/{settings.account}")
