"""Who has which tags, as Dintero's lists and customers tell it: nobody else's, and nobody left out in silence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from bridge.errors import CursorRejected, Malformed, RetryLater
from bridge.model import Document
from bridge.sandbox.api import CLIENT_ID, CLIENT_SECRET, SandboxApi
from bridge.sandbox.population.customers import CONTACT
from bridge.sandbox.population.life import Rates
from bridge.sandbox.switches import Switches
from bridge.sandbox.world import World
from bridge.source.dintero.memberships import MembershipList
from bridge.source.memberships import MemberPage, Untold
from bridge.source.transport import Request, Response
from tests.source.providing import USERS, Provider, answer, query_of, source_over
from tests.support.clock import VirtualClock, run_virtual

UID = "11111111-1111-4111-8111-111111111111"
OTHER = "22222222-2222-4222-8222-222222222222"
TAG = "33333333-3333-4333-8333-333333333333"
RENAME = "dintero_change_customer_id_1.ab"


def known(customer_id: str = "a", **fields: Any) -> Document:
    return Document(UID, {"uid": UID, "customer_id": customer_id, "email": "a@example.com", **fields}, 1)


def row(uid: str = UID, customer_id: str = "a", **fields: Any) -> dict[str, Any]:
    return {"id": uid, "customer_id": customer_id, "type": "customer", **fields}


class Desk:
    """A provider of a few customers; each answer can be changed while it is asked."""

    def __init__(self) -> None:
        self.by_name: dict[str, dict[str, Any]] = {"a": row()}
        self.tags: dict[str, list[Any]] = {"a": [{"id": TAG, "tag": "VIP"}]}
        self.listed: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.before: dict[int, Callable[[], None]] = {}

    def play(self, request: Request) -> Response:
        self.before.get(len(self.asked), lambda: None)()
        self.asked.append(request.path.removeprefix(USERS))
        if request.path == USERS:
            return answer(self.listed)
        name, _, rest = request.path.removeprefix(f"{USERS}/").partition("/")
        if name not in self.by_name:
            return answer({"error": {"message": "none"}}, 404)
        return answer(self.tags.get(name, []) if rest == "tags" else self.by_name[name])

    def ask(self, document: Document) -> frozenset[str] | Untold:
        async def main(clock: VirtualClock) -> frozenset[str] | Untold:
            reader = source_over(Provider(self.play), clock, request_rate=1000).memberships
            return await reader.tags(document, urgent=True)

        return run_virtual(main)


def test_a_customers_tags_count_when_it_is_the_same_customer_behind_them() -> None:
    desk = Desk()
    assert desk.ask(known()) == frozenset({TAG})
    assert desk.asked == ["/a/tags", "/a"]


def test_no_tags_where_some_are_known_are_believed_when_they_come_twice() -> None:
    desk = Desk()
    desk.tags["a"] = []
    assert desk.ask(known(tags=[TAG])) == frozenset()
    assert desk.asked == ["/a/tags", "/a/tags", "/a"]
    desk.tags["a"] = [{"id": TAG, "tag": "VIP"}]
    desk.asked.clear()
    desk.before[0] = lambda: desk.tags.update(a=[])
    desk.before[1] = lambda: desk.tags.update(a=[{"id": TAG, "tag": "VIP"}])
    assert desk.ask(known(tags=[TAG])) == frozenset({TAG})


def test_another_customer_under_the_old_name_says_nothing_about_this_one() -> None:
    desk = Desk()
    desk.by_name["a"] = row(OTHER)
    desk.listed = [row(customer_id="b")]
    desk.by_name["b"], desk.tags["b"] = row(customer_id="b"), []
    assert desk.ask(known()) == frozenset()
    assert "/b/tags" in desk.asked


def test_a_name_that_changed_hands_and_came_back_in_between_is_noticed() -> None:
    desk = Desk()
    trail = {RENAME: {"created_at": "2026-01-01T00:00:00Z", "old": "a", "new": "x"}}
    desk.tags["a"] = [{"id": OTHER, "tag": "of somebody else"}]

    def came_back() -> None:
        desk.by_name["a"] = row(metadata=trail)
        desk.tags["a"] = [{"id": TAG, "tag": "VIP"}]

    desk.before[1] = came_back
    assert desk.ask(known()) == frozenset({TAG})
    assert desk.asked == ["/a/tags", "/a", "/a/tags", "/a"]


@pytest.mark.parametrize("name", [".", "..", ""])
def test_a_name_that_vanishes_from_a_path_is_never_asked_for(name: str) -> None:
    desk = Desk()
    assert desk.ask(known(name)) is Untold.NEVER
    assert desk.asked == []


def test_a_customer_that_is_gone_is_gone_and_not_one_without_tags() -> None:
    desk = Desk()
    desk.by_name.clear()
    assert desk.ask(known()) is Untold.GONE


def test_a_customer_that_cannot_be_found_for_sure_is_left_for_later() -> None:
    desk = Desk()
    desk.by_name["a"] = row(OTHER)
    desk.listed = [row(OTHER, f"n{n}") for n in range(100)]  # full pages prove nothing
    assert desk.ask(known()) is Untold.NOT_NOW


def test_a_tombstone_is_no_customer_and_a_deleted_tag_no_tag() -> None:
    desk = Desk()
    desk.tags["a"] = [{"id": TAG, "tag": "VIP", "deleted_at": "2026-01-01T00:00:00Z"}]
    assert desk.ask(known()) == frozenset()
    desk.by_name["a"] = row(deleted_at="2026-01-01T00:00:00Z")
    assert desk.ask(known()) is Untold.GONE


def test_tags_that_cannot_be_read_are_an_error_and_not_nothing() -> None:
    desk = Desk()
    for bad in ([{"tag": "without id"}], [17], [None]):
        desk.tags["a"] = bad
        with pytest.raises(Malformed):
            desk.ask(known())


# The list of a tag's members.


def read(reader: MembershipList, tag: str) -> Any:
    """Pages up to the end. `Any`: a coroutine."""

    async def walk() -> list[MemberPage]:
        pages = [await reader.members(tag, None)]
        while pages[-1].following is not None:
            assert len(pages) < 100, "it has no end"
            pages.append(await reader.members(tag, pages[-1].following))
        return pages

    return walk()


LISTS: list[Mapping[str, Any]] = [
    {},
    {"list_order": "created_descending"},
    {"list_order": "id"},
    {"linked_users": "inside_limit"},
    {"cursor_kind": "customer_id"},
    {"duplicate_rows": 0.5},
    {"duplicate_rows": 0.5, "linked_users": "inside_limit", "list_order": "created_descending"},
]


@pytest.mark.parametrize("switches", LISTS, ids=str)
def test_every_member_is_shown_in_its_own_right_and_nobody_else(switches: Mapping[str, Any]) -> None:
    async def main(clock: VirtualClock) -> None:
        world = World(3, 1500, 2, Rates(), clock)
        api = SandboxApi(world, Switches(**switches), clock)
        login = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
        kind = switches.get("cursor_kind", "id")
        reader = source_over(api, clock, None, cursor_kind=kind, request_rate=1000, **login).memberships
        for tag, rows in list(world.customers.members.items()):
            pages = await read(reader, tag)
            shown = [uid for page in pages for uid in page.shown]
            members = {world.customers.uids[row] for row in rows}
            doubtful = {uid for page in pages for uid in page.doubtful}
            assert set(shown) <= members <= set(shown) | doubtful
            # The few in doubt are contacts that a contact is a contact for.
            assert len(doubtful) <= 10
            assert all(world.customers.kinds[world.customers.row_of[uid]] == CONTACT for uid in doubtful)
            assert pages[-1].total == len(rows) == await reader.count(tag)
            assert all(page.whole for page in pages)

    run_virtual(main)


def listed(*pages: list[dict[str, Any]], contacts: tuple[dict[str, Any], ...] = (), total: str | None = None) -> Any:
    """Reads a provider that shows these pages in turn. `Any`: what comes of it."""
    left = list(pages)

    def play(request: Request) -> Response:
        if query_of(request).get("type") == "contact":
            rows = [] if "starting_after" in query_of(request) else list(contacts)
        else:
            rows = left.pop(0) if left else []
        return answer(rows) if total is None else answer(rows, total_count=total)

    async def main(clock: VirtualClock) -> list[MemberPage]:
        reader = source_over(Provider(play), clock, request_rate=1000).memberships
        found: list[MemberPage] = await read(reader, TAG)
        return found

    return run_virtual(main)


def uid_of(number: int) -> str:
    return f"{number:08d}-1111-4111-8111-111111111111"


def full(first: int) -> list[dict[str, Any]]:
    return [row(uid_of(n), f"c{n}") for n in range(first, first + 100)]


def test_an_empty_page_behind_a_full_one_is_believed_when_it_comes_twice() -> None:
    pages = listed(full(0), [], full(100))
    assert len({uid for page in pages for uid in page.shown}) == 200


def test_a_short_page_is_no_end() -> None:
    pages = listed(full(0)[:30], full(100)[:5])
    assert len({uid for page in pages for uid in page.shown}) == 35


def test_full_pages_that_repeat_are_no_end() -> None:
    with pytest.raises(Malformed):
        listed(full(0), full(0))


def test_a_row_that_cannot_be_identified_is_said_and_a_tombstone_counts_for_nothing() -> None:
    pages = listed([row(), {"customer_id": "x"}, row(OTHER, "b", deleted_at="2026-01-01T00:00:00Z")])
    assert pages[0].shown == [UID]
    assert not pages[0].whole


def test_only_contacts_count_where_contacts_are_asked_for() -> None:
    contact = row(OTHER, "k", type="contact", contact_for=[{"customer_id": "a"}])
    pages = listed([], contacts=(contact, row()))
    assert [page.shown for page in pages if page.shown] == [[OTHER]]


def test_who_may_be_there_because_of_a_contact_is_in_doubt() -> None:
    contact = row(OTHER, "k", type="contact", contact_for=[{"customer_id": "a"}])
    pages = listed([contact, row()])
    assert (pages[0].shown, pages[0].doubtful) == ([OTHER], [UID])


def test_without_a_count_there_is_none_and_a_count_that_moved_is_none() -> None:
    assert listed(full(0)[:3])[-1].total is None
    assert listed(full(0)[:3], total="3")[-1].total == 6  # said of both walks


def test_a_cursor_that_is_forgotten_ends_the_reading() -> None:
    def play(request: Request) -> Response:
        return answer({}, 400) if "starting_after" in query_of(request) else answer(full(0))

    async def main(clock: VirtualClock) -> None:
        await read(source_over(Provider(play), clock, request_rate=1000).memberships, TAG)

    with pytest.raises(CursorRejected):
        run_virtual(main)


def test_a_provider_that_fails_says_nothing() -> None:
    async def main(clock: VirtualClock) -> None:
        await source_over(Provider(lambda _: answer({}, 503)), clock).memberships.tags(known(), urgent=False)

    with pytest.raises(RetryLater):
        run_virtual(main)
