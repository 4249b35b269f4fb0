"""DinteroSettings and the built source: what is refused before anything is sent, and that no secret is shown."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from bridge.errors import AccessDenied
from bridge.model import Account, Collection
from bridge.source.dintero import DinteroSettings
from tests.source.providing import ACCOUNT, SECRET, Provider, answer, source_over
from tests.support.clock import VirtualClock, run_virtual

GOOD: dict[str, Any] = {"source": "acme", "account": ACCOUNT, "client_id": "client-1", "client_secret": SECRET}


@pytest.mark.parametrize(
    "fields",
    [
        {"account": "T1234567"},
        {"account": "X12345678"},
        {"account": "T12345678\n"},
        {"account": "T١٢٣٤٥٦٧٨"},
        {"account": "T123"},
        {"account": "T12345678/../x"},
        {"owner": "T1234"},
        {"owner": "T123\n"},
        {"source": "Acme"},
        {"source": "a/b"},
        {"source": "acme\n"},
        {"client_id": "a:b"},
        {"client_id": "a\nb"},
        {"client_id": ""},
        {"base_url": "http://api.example.com/v1"},
        {"base_url": "http://127.0.0.1.evil.example/"},
        {"base_url": "http://localhost@evil.example/"},
        {"base_url": "ftp://localhost/"},
        {"cursor_kind": "uuid"},
        {"snapshot_parallelism": 0},
        {"snapshot_parallelism": 33},
        {"page_limit": 101},
        {"page_limit": 0},
        {"poll_overlap_s": 0},
        {"request_rate": 0},
        {"unknown": 1},
        {"client_secret": [SECRET]},
        {"client_secrets": SECRET},
    ],
)
def test_a_bad_setting_is_refused_without_being_shown(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        DinteroSettings(**GOOD | fields)
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"account": "P00000000"},
        {"owner": "P123"},
        {"owner": "T12345678"},
        {"base_url": "http://127.0.0.1:8080/v1"},
        {"base_url": "http://localhost:8080"},
        {"base_url": "http://[::1]:8080/v1"},
        {"cursor_kind": "customer_id"},
    ],
)
def test_a_good_setting_is_taken_and_the_secret_is_hidden(fields: dict[str, Any]) -> None:
    settings = DinteroSettings(**GOOD | fields)
    for text in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.model_dump())):
        assert SECRET not in text


def test_a_source_knows_its_account_and_its_feeds_and_closes_its_transport() -> None:
    async def main(clock: VirtualClock) -> None:
        provider = Provider()
        source = source_over(provider, clock)
        assert source.account == Account("acme", "dintero", ACCOUNT)
        assert {collection: feed.collection for collection, feed in source.feeds.items()} == {
            Collection.CUSTOMERS: Collection.CUSTOMERS,
            Collection.TAGS: Collection.TAGS,
        }
        assert not provider.requests
        await source.close()
        assert provider.closed == 1

    run_virtual(main)


def test_logging_in_also_tries_the_right_to_read() -> None:
    async def main(clock: VirtualClock) -> None:
        provider = Provider()
        await source_over(provider, clock).login()
        assert (len(provider.logins), len(provider.requests)) == (1, 1)
        provider.play = lambda request: answer({}, 403)
        with pytest.raises(AccessDenied):
            await source_over(provider, clock).login()

    run_virtual(main)


def test_a_partner_logs_in_under_its_own_id() -> None:
    async def main(clock: VirtualClock) -> None:
        provider = Provider()
        await source_over(provider, clock, owner="P123").login()
        assert provider.logins[0].path == "/accounts/P123/auth/token"
        assert b"/accounts/T12345678" in (provider.logins[0].body or b"")

    run_virtual(main)
