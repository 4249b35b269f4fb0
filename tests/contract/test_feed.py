"""The contract of `Feed`: from any cursor the pages lead to everything, and nothing is called gone that is not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, Protocol

import orjson
import pytest

from bridge.errors import CursorRejected, Malformed, SourceError
from bridge.model import Body, Collection, Document, Fate, Gone, Path
from bridge.sandbox.api import CLIENT_ID, CLIENT_SECRET, SandboxApi
from bridge.sandbox.population.life import Rates
from bridge.sandbox.switches import Switches
from bridge.sandbox.virtual import VirtualClock, run_virtual
from bridge.sandbox.world import World
from bridge.source import dintero
from bridge.source.feed import Cursor, Feed, Page
from bridge.source.rebilly.boxes import SECOND
from tests.source.providing import Observer, answer
from tests.source.rebilly.organization import START, Organization, Row, Ways

PAGES_MAX = 200


class Provider(Protocol):
    """A provider with one collection under test."""

    clock: VirtualClock

    def feed(self) -> Feed:
        """A new one each time: a feed keeps no position of its own."""
        ...

    def uids(self) -> set[str]: ...

    def add(self) -> str: ...

    def remove(self, uid: str) -> None: ...

    def break_shape(self) -> None: ...


@dataclass
class Rebilly:
    """Implements `Provider`. Pages of seven, like the other's."""

    collection: Collection
    clock: VirtualClock
    organization: Organization = field(init=False)

    def __post_init__(self) -> None:
        self.organization = Organization(self.clock, Ways(limit_max=7))
        for number in range(12):
            self.organization.add_tag(f"tag_{number}", f"name {number}", at=START - (900 - 7 * number) * SECOND)
        for number in range(40):
            self.organization.create(f"cus_{number}", START - (900 - 7 * number) * SECOND)

    def feed(self) -> Feed:
        return self.organization.source().feeds[self.collection]

    def uids(self) -> set[str]:
        return set(self._rows)

    def add(self) -> str:
        if self.collection is Collection.TAGS:
            self.organization.add_tag("new", "new")
        else:
            self.organization.create("new")
        return "new"

    def remove(self, uid: str) -> None:
        del self._rows[uid]

    def break_shape(self) -> None:
        shapes = cycle([answer({}), answer([1], pagination_total="1"), answer("x"), answer([]), answer(None)])
        self.organization.answers.append(lambda request: next(shapes))

    @property
    def _rows(self) -> dict[str, Row]:
        return self.organization.tags if self.collection is Collection.TAGS else self.organization.customers


@dataclass
class Dintero:
    """Implements `Provider`."""

    collection: Collection
    world: World
    api: SandboxApi
    clock: VirtualClock
    lanes: int = 1

    def feed(self) -> Feed:
        settings = dintero.DinteroSettings.model_validate(
            {
                "source": "acme",
                "collections": frozenset({self.collection}),
                "account": self.world.account,
                "client_id": CLIENT_ID,
                "client_secret": CLIENT_SECRET,
                "page_limit": 7,
                "request_rate": 10_000,
                "snapshot_parallelism": self.lanes,
            }
        )
        return dintero.build(settings, self.api, self.clock, Observer(), lambda: 0.0).feeds[self.collection]

    def uids(self) -> set[str]:
        if self.collection is Collection.USERS:
            return set(self.world.staff.users)
        if self.collection is Collection.TAGS:
            return set(self.world.tags)
        customers = self.world.customers
        return {customers.uids[row] for row in customers.live_row_of.values()}

    def add(self) -> str:
        if self.collection is Collection.USERS:
            return str(self.world.staff.create_user({"email": "new@backoffice.example"})["id"])
        if self.collection is Collection.TAGS:
            return str(self.world.create_tag("new")["id"])
        return str(self.world.create_customer({"first_name": "New"})["id"])

    def remove(self, uid: str) -> None:
        if self.collection is Collection.USERS:
            self.world.staff.delete_user(uid)
            return
        if self.collection is Collection.TAGS:
            self.world.delete_tag(uid)
            return
        customers = self.world.customers
        self.world.delete_customer(customers.customer_ids[customers.row_of[uid]])

    def break_shape(self) -> None:
        self.api.switches = self.api.switches.changed({"bad_shape": 1.0})


Case = Callable[[Provider], Awaitable[None]]


def of_each(case: Case) -> Callable[[str, Collection], None]:
    """A case as a test of each feed, in virtual time."""

    def test(provider: str, collection: Collection) -> None:
        async def main(clock: VirtualClock) -> None:
            if provider == "rebilly":
                await case(Rebilly(collection, clock))
                return
            world = World(1, 40, 12, Rates(), clock)
            lanes = 4 if provider == "dintero in lanes" else 1  # places in which customers are first read at once
            await case(Dintero(collection, world, SandboxApi(world, Switches(), clock), clock, lanes))

        run_virtual(main)

    test.__name__, test.__doc__ = getattr(case, "__name__", "test"), case.__doc__
    cases = [
        ("dintero", Collection.CUSTOMERS),
        ("dintero in lanes", Collection.CUSTOMERS),
        ("dintero", Collection.TAGS),
        ("dintero", Collection.USERS),
        ("rebilly", Collection.CUSTOMERS),
        ("rebilly", Collection.TAGS),
    ]
    return pytest.mark.parametrize(("provider", "collection"), cases)(test)


async def read(provider: Provider, cursor: Cursor | None) -> list[Page]:
    """Pages until there is none at once, each by a feed that knows nothing of the one before."""
    pages: list[Page] = []
    while len(pages) < PAGES_MAX:
        page = await provider.feed().page(cursor)
        pages.append(page)
        cursor = page.cursor
        if not page.more:
            return pages
    raise AssertionError("the pages do not end")


async def sweep(provider: Provider, cursor: Cursor) -> list[Page]:
    """A complete reading."""
    begin = provider.feed().sweep(cursor)
    assert begin is not None
    pages = [await provider.feed().page(begin)]
    while not pages[-1].complete:
        assert len(pages) < PAGES_MAX
        pages.append(await provider.feed().page(pages[-1].cursor))
    return pages


def documents(pages: list[Page]) -> dict[str, Document]:
    return {document.uid: document for page in pages for document in page.documents}


@of_each
async def test_the_first_reading_shows_everything_as_a_snapshot(provider: Provider) -> None:
    began = provider.clock.wall()
    pages = await read(provider, None)
    assert documents(pages).keys() == provider.uids()
    assert {page.path for page in pages[:-1]} <= {Path.SNAPSHOT}
    assert all(page.caught_up_to is None for page in pages if page.more)
    assert pages[-1].caught_up_to is not None
    assert began <= pages[-1].caught_up_to <= provider.clock.wall()


@of_each
async def test_the_cursor_is_a_value_that_survives_json(provider: Provider) -> None:
    cursor: Cursor | None = None
    for _ in range(5):
        page = await provider.feed().page(cursor)
        cursor = orjson.loads(orjson.dumps(page.cursor))
        assert cursor == page.cursor


@of_each
async def test_the_same_cursor_shows_the_same_page_again(provider: Provider) -> None:
    first = (await read(provider, None))[0]
    page = await provider.feed().page(first.cursor)
    again = await provider.feed().page(first.cursor)
    assert (page.documents, page.cursor) == (again.documents, again.cursor)


@of_each
async def test_what_is_new_is_found_from_the_cursor_and_is_no_snapshot(provider: Provider) -> None:
    cursor = (await read(provider, None))[-1].cursor
    await provider.clock.sleep(30)
    uid = provider.add()
    pages = await read(provider, cursor)
    assert uid in documents(pages)
    assert all(page.path is not Path.SNAPSHOT for page in pages)


@of_each
async def test_what_is_gone_is_suspected_and_confirmed(provider: Provider) -> None:
    pages = await read(provider, None)
    known = documents(pages)
    await provider.clock.sleep(30)
    victim = min(provider.uids())
    provider.remove(victim)
    later = await read(provider, pages[-1].cursor)
    suspected = {gone.uid for page in later for gone in page.gone}
    for page in later:
        if page.whole:
            suspected |= known.keys() - {document.uid for document in page.documents}
    if victim not in suspected:  # nobody says so, so it is absent from a complete reading
        swept = await sweep(provider, pages[-1].cursor)
        suspected = known.keys() - documents(swept).keys()
    assert victim in suspected
    answers = await provider.feed().fetch([known[uid] for uid in sorted(suspected)])
    assert answers.keys() == suspected
    assert isinstance(answers[victim], Gone)


@of_each
async def test_a_second_look_shows_what_is_alive_as_it_is_now(provider: Provider) -> None:
    known = documents(await read(provider, None))
    answers = await provider.feed().fetch(list(known.values()))
    assert {uid: _body(answer) for uid, answer in answers.items()} == {uid: doc.body for uid, doc in known.items()}
    assert await provider.feed().fetch([]) == {}


@of_each
async def test_a_shape_that_nobody_declared_is_an_error_and_never_an_end_or_a_deletion(provider: Provider) -> None:
    known = documents(await read(provider, None))
    cursor = (await read(provider, None))[-1].cursor
    provider.break_shape()
    for _ in range(10):
        try:
            page = await provider.feed().page(cursor)
        except Malformed:
            continue
        # A list whose one row is no object: a reject that could be anything.
        assert not (page.documents)
        assert not (page.gone)
        assert not (page.whole)
    for document in known.values():
        try:
            answers = await provider.feed().fetch([document])
        except SourceError:
            continue
        assert isinstance(answers[document.uid], Document)


async def test_a_cursor_of_something_else_is_rejected() -> None:
    """Only where a cursor means anything: tags and users are read as a whole each time."""
    clock: Any = VirtualClock()
    world = World(1, 5, 2, Rates(), clock)
    provider = Dintero(Collection.CUSTOMERS, world, SandboxApi(world, Switches(), clock), clock)
    for each in (provider, Rebilly(Collection.CUSTOMERS, clock)):
        with pytest.raises(CursorRejected):
            await each.feed().page({"mode": "nonsense"})


def _body(fate: Fate) -> Body | None:
    return fate.body if isinstance(fate, Document) else None
