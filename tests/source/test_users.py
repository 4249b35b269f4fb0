"""Management users: what a row becomes, what makes no difference, and whose list it is."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.detect.diff import detect
from bridge.errors import AccessDenied
from bridge.event.documents import User
from bridge.model import Body, Collection, Document, Gone, Path, Reject, instant
from bridge.source.dintero.models import user
from tests.source.providing import ACCOUNT, TAGS, Provider, answer, source_over
from tests.source.rows import UID, tag_row, uid_of
from tests.support.clock import WALL_START, VirtualClock, run_virtual

ENTITY = {"created_at": "2024-01-01T00:00:00Z", "created_by": "root", "updated_at": "2024-01-02T00:00:00Z"}
FULL: dict[str, Any] = {
    "id": UID,
    **ENTITY,
    "email": "Ada@Example.com",
    "name": "Ada",
    "authentication_type": "external",
    "scope": ["write:customers", "read:customers"],
    "roles": [
        {"id": uid_of(2), "name": "Support", "scope": ["b", "a"], **ENTITY},
        {"id": uid_of(1), "name": "Finance", "description": "Money", "scope": ["c"], "metadata": {}, **ENTITY},
    ],
    "agreement": {"name": "terms", "version": "3", "attachments": [{"name": "b"}, {"name": "a", "version": "1"}]},
    "configuration": {"mfa": {"sms": {"enabled": True, "updated_at": "2024-01-02T01:00:00+01:00"}, "totp": None}},
    "last_seen_at": "2026-01-01T00:00:00Z",
    "brand_new_field": {"x": 1},
}
READER: dict[str, Any] = {"collections": frozenset({Collection.USERS})}


def document(**fields: Any) -> Document:
    result = user(FULL | fields, "users.list")
    assert isinstance(result, Document), result
    return result


def shuffled(value: Any, rng: random.Random) -> Any:
    """With every list and every object in another order; `Any`: JSON."""
    if isinstance(value, list):
        return [shuffled(entry, rng) for entry in rng.sample(value, len(value))]
    if isinstance(value, dict):
        return {name: shuffled(value[name], rng) for name in rng.sample(sorted(value), len(value))}
    return value


def users_path(owner: str) -> str:
    return f"/accounts/{owner}/management/users"


def test_a_user_in_our_words() -> None:
    result = document()
    assert result.version == instant("2024-01-02T00:00:00Z")
    assert result.body == {
        "uid": UID,
        "email": "Ada@Example.com",
        "name": "Ada",
        "authentication_type": "external",
        "scope": ["read:customers", "write:customers"],
        "roles": [
            {"id": uid_of(1), "name": "Finance", "description": "Money", "scope": ["c"]},
            {"id": uid_of(2), "name": "Support", "scope": ["a", "b"]},
        ],
        "created_at": "2024-01-01T00:00:00Z",
        "updated_at": "2024-01-02T00:00:00Z",
        "extra": {
            "created_by": "root",
            "agreement": {
                "name": "terms",
                "version": "3",
                "attachments": [{"name": "a", "version": "1"}, {"name": "b"}],
            },
            "configuration": {"mfa": {"sms": {"enabled": True, "updated_at": "2024-01-02T00:00:00Z"}}},
            "brand_new_field": {"x": 1},
        },
    }
    User.model_validate(result.body)


@given(st.randoms(use_true_random=False))
def test_no_order_makes_a_difference(rng: random.Random) -> None:
    assert user(shuffled(FULL, rng), "users.list") == document()


def changed(**fields: Any) -> tuple[str, ...] | None:
    """What an event about the change of these fields would name; None for no event."""
    before: Body = document().body
    change = detect(before, document(**fields).body)
    return None if change is None else change.changed


@pytest.mark.parametrize(
    "fields",
    [
        {"last_seen_at": "2026-05-05T05:05:05Z"},
        {"last_seen_at": None},
        {"updated_at": "2026-05-05T05:05:05Z"},
        {"email": "ada@example.COM"},
        {"status": None, "metadata": {}, "more": []},
        {"scope": ["read:customers", "write:customers", "read:customers"]},
        {"roles": [*FULL["roles"], FULL["roles"][0]]},
        {"roles": [role | {"updated_at": "2026-05-05T05:05:05Z", "created_by": "x"} for role in FULL["roles"]]},
        {"configuration": {"mfa": {"sms": {"enabled": True, "updated_at": "2024-01-02T00:00:00.000Z"}}}},
    ],
)
def test_noise_makes_no_event(fields: dict[str, Any]) -> None:
    assert changed(**fields) is None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"name": "Ada Lovelace"}, ("/name",)),
        ({"scope": ["read:customers"]}, ("/scope",)),
        ({"scope": []}, ("/scope",)),
        ({"roles": FULL["roles"][:1]}, ("/roles",)),
        ({"roles": [FULL["roles"][0] | {"scope": ["a"]}, FULL["roles"][1]]}, ("/roles",)),
        ({"roles": [FULL["roles"][0] | {"name": "Help"}, FULL["roles"][1]]}, ("/roles",)),
        (
            {"configuration": {"mfa": {"sms": {"enabled": False, "updated_at": "2024-01-02T00:00:00Z"}}}},
            ("/extra/configuration/mfa/sms/enabled",),
        ),
        (
            {"agreement": {"name": "terms", "version": "4"}},
            ("/extra/agreement/attachments", "/extra/agreement/version"),
        ),
        ({"status": "blocked"}, ("/status",)),
    ],
)
def test_what_counts_makes_an_event(fields: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert changed(**fields) == expected


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"email": None}, "email: missing"),
        ({"email": ""}, "email: missing"),
        ({"email": 7}, "email: not a text"),
        ({"name": ["x"]}, "name: not a text"),
        ({"scope": "all"}, "scope: not a list of texts"),
        ({"scope": ["a", 7]}, "scope: not a list of texts"),
        ({"roles": {"id": "x"}}, "roles: not a list"),
        ({"roles": ["x"]}, "roles: an entry: not an object"),
        ({"roles": [{"name": "x"}]}, "roles: an entry has no id"),
        ({"roles": [{"id": "x", "scope": "all"}]}, "roles: scope: not a list of texts"),
        ({"agreement": "yes"}, "agreement: not an object"),
        ({"agreement": {"attachments": "x"}}, "agreement: attachments: not a list"),
        ({"configuration": []}, None),
        ({"configuration": "x"}, "configuration: not an object"),
        ({"configuration": {"mfa": {"sms": {"updated_at": "soon"}}}}, "configuration: updated_at: not a date-time"),
        ({"updated_at": "yesterday"}, "updated_at: not a date-time"),
        ({"created_at": 7}, "created_at: not a text"),
        ({"id": "x"}, "id: not a UUID"),
    ],
)
def test_a_malformed_row_is_refused_with_field_and_rule(fields: dict[str, Any], reason: str | None) -> None:
    result = user(FULL | fields, "users.list")
    assert isinstance(result, Reject) == (reason is not None)
    if isinstance(result, Reject):
        assert result.reason.startswith(reason or "")
        assert "Ada" not in result.reason


def test_a_user_with_the_mark_of_deletion_is_gone() -> None:
    assert user(FULL | {"deleted_at": "2026-01-01T00:00:00Z"}, "users.list") == Gone(
        UID, instant("2026-01-01T00:00:00Z")
    )


@pytest.mark.parametrize(
    ("settings", "owner"),
    [({}, ACCOUNT), ({"owner": "P123"}, "P123"), ({"owner": "T87654321"}, "T87654321"), ({"account": "T123"}, "T123")],
)
def test_the_list_is_asked_with_roles_of_the_owner(settings: dict[str, Any], owner: str) -> None:
    async def main(clock: VirtualClock) -> None:
        provider = Provider(lambda request: answer([FULL]))
        source = source_over(provider, clock, **READER, **settings)
        assert source.feeds.keys() == {Collection.USERS}
        page = await source.feeds[Collection.USERS].page(None)
        assert (page.path, page.whole, [document.uid for document in page.documents]) == (Path.SNAPSHOT, True, [UID])
        assert await source.feeds[Collection.USERS].fetch(page.documents) == {UID: document()}
        await source.login()
        assert {request.path for request in provider.requests} == {users_path(owner)}
        assert {request.query for request in provider.requests} == {(("expand", "roles"),)}
        assert provider.logins[0].path == f"/accounts/{owner}/auth/token"

    run_virtual(main)


@pytest.mark.parametrize(
    ("collections", "expected"),
    [
        ({Collection.CUSTOMERS}, [TAGS]),
        ({Collection.CUSTOMERS, Collection.TAGS}, [TAGS]),
        ({Collection.USERS}, [users_path(ACCOUNT)]),
        ({Collection.TAGS, Collection.USERS}, [TAGS, users_path(ACCOUNT)]),
    ],
)
def test_logging_in_tries_each_right_that_is_needed_and_no_other(
    collections: set[Collection], expected: list[str]
) -> None:
    async def main(clock: VirtualClock) -> None:
        provider = Provider()
        await source_over(provider, clock, collections=frozenset(collections)).login()
        assert [request.path for request in provider.requests] == expected
        provider.play = lambda request: answer({}, 403 if request.path == expected[-1] else 200)
        with pytest.raises(AccessDenied):
            await source_over(provider, clock, collections=frozenset(collections)).login()

    run_virtual(main)


@pytest.mark.parametrize("collection", [Collection.USERS, Collection.TAGS])
def test_a_change_time_ahead_of_the_server_does_not_outrank_what_comes_later(collection: Collection) -> None:
    async def main(clock: VirtualClock) -> None:
        row = FULL if collection is Collection.USERS else tag_row()
        rows = [row | {"id": uid_of(1), "updated_at": "9999-01-01T00:00:00Z"}, row | {"id": uid_of(2)}]
        source = source_over(Provider(lambda request: answer(rows)), clock, collections=frozenset({collection}))
        first, second = (await source.feeds[collection].page(None)).documents
        assert first.version == 0
        assert first.body["updated_at"] == "9999-01-01T00:00:00Z"
        assert second.version < WALL_START * 1_000_000

    run_virtual(main)
