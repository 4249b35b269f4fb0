"""The first reading in slices: everything is read, sooner, or it is walked; never is anything taken on trust."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.errors import CursorRejected, Malformed, RetryLater
from bridge.model import Body, Document, instant, iso
from bridge.sandbox.api import CLIENT_ID, CLIENT_SECRET, SandboxApi
from bridge.sandbox.switches import Switches
from bridge.sandbox.world import Rates, World
from bridge.source.api import Answer
from bridge.source.dintero import cursor as walks
from bridge.source.dintero import models, slices
from bridge.source.dintero.cursor import SECOND, Poll, Sweep
from bridge.source.dintero.rows import mapped_rows
from bridge.source.dintero.slices import MODE, Shown, Slice, Slices, Unsliceable
from bridge.source.dintero.survey import ROUNDS_MAX, Mark, cut, in_order, questions, wanted
from bridge.source.feed import Page
from bridge.source.transport import Request, Response
from tests.source.mirror import PAGES_MAX, Mirror
from tests.source.providing import USERS, query_of, source_over
from tests.source.rows import customer_row
from tests.support.clock import WALL_START, VirtualClock, run_virtual

LIMIT = 7
LANES = 4

CHANGES = 200
"""In one reading; with more than a page of them between two requests none would end."""

Rows = list[dict[str, Any]]


class Watched:
    """The simulated provider, watched, and tampered with. Implements `Transport`."""

    def __init__(self, clock: VirtualClock, customers: int, seed: int = 1, **switches: Any) -> None:
        self.clock = clock
        self.world = World(seed, customers, 0, Rates().changed(dict.fromkeys(Rates.model_fields, 0)), clock)
        self.api = SandboxApi(self.world, Switches().changed(switches), clock)
        self.before: Callable[[], None] = lambda: None
        self.rows: Callable[[dict[str, str], Rows], Rows] | None = None
        self.total: Callable[[dict[str, str], int], int | None] = lambda query, total: total
        self.fails: Callable[[dict[str, str]], bool] = lambda query: False
        self.queries: list[dict[str, str]] = []
        self.busy = self.busiest = 0

    async def send(self, request: Request) -> Response:
        if request.path != USERS:
            return await self.api.send(request)
        query = dict(query_of(request))
        self.queries.append(query)
        self.before()
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        try:
            if self.fails(query):
                raise RetryLater("as told")
            return self.tampered(query, await self.api.send(request))
        finally:
            self.busy -= 1

    def tampered(self, query: dict[str, str], response: Response) -> Response:
        headers, body = dict(response.headers), response.body
        if "total-count" in headers:
            total = self.total(query, int(headers.pop("total-count")))
            headers |= {} if total is None else {"total-count": str(total)}
        if self.rows is not None:
            body = orjson.dumps(self.rows(query, orjson.loads(body)))
        return Response(response.status, headers, body)

    async def close(self) -> None:
        pass

    def mirror(self, lanes: int = LANES, limit: int = LIMIT) -> Mirror:
        source = source_over(
            self,
            self.clock,
            client_id=CLIENT_ID,
            client_secret=CLIENT_SECRET,
            request_rate=10_000,
            page_limit=limit,
            snapshot_parallelism=lanes,
        )
        return Mirror(source.customers, self.clock)

    def change(self, rng: random.Random) -> None:
        """Something, anywhere."""
        names = self.world.customers.customer_ids
        name = names[rng.randrange(len(names))]
        if name not in self.world.customers.live_row_of:
            return
        match rng.randrange(8):
            case 0:
                self.world.delete_customer(name)
            case 1:
                self.world.rename_customer(name, f"new-{rng.random()}")
            case 2 | 3:
                self.world.invent_customer(rng)
            case _:
                self.world.update_customer(name, {"status": f"{rng.random()}"})

    def living(self) -> dict[str, Body]:
        customers = self.world.customers
        documents = (models.customer(orjson.loads(customers.bodies[row]), "") for row in customers.live_row_of.values())
        return {document.uid: document.body for document in documents if isinstance(document, Document)}


def known(mirror: Mirror) -> dict[str, Body]:
    return {uid: document.body for uid, document in mirror.documents.items()}


def modes(mirror: Mirror) -> list[str]:
    """How the reading went on, each only once in a row."""
    found: list[str] = []
    for page in mirror.pages:
        mode = page.cursor["mode"]
        if found[-1:] != [mode]:
            found.append(mode)
    return found


SLICED, WALKED, FELL_BACK = [MODE, "poll"], ["sweep", "poll"], [MODE, "sweep", "poll"]


def reading(case: Callable[[VirtualClock], Any]) -> Callable[[], None]:
    def test() -> None:
        run_virtual(case)

    test.__name__, test.__doc__ = getattr(case, "__name__", "test"), case.__doc__
    return test


# What it is for.


@reading
async def test_eight_lanes_are_six_times_as_fast_as_the_walk(clock: VirtualClock) -> None:
    took = {}
    for lanes in (1, 8):
        provider = Watched(clock, 4_000, page_latency_ms=100, timestamp_precision="milliseconds")
        mirror = provider.mirror(lanes, 10)
        began = clock.monotonic()
        await mirror.settle()
        took[lanes] = clock.monotonic() - began
        assert known(mirror) == provider.living()
        assert provider.busiest == lanes
        assert len(provider.queries) < 1.2 * 400
    assert took[1] > 6 * took[8]


@reading
async def test_no_more_requests_are_under_way_than_there_are_lanes(clock: VirtualClock) -> None:
    for lanes in (2, 3, 5, 32):
        provider = Watched(clock, 400, page_latency_ms=100)
        mirror = provider.mirror(lanes)
        await mirror.settle()
        assert known(mirror) == provider.living()
        assert modes(mirror) == SLICED
        assert 1 < provider.busiest <= lanes
        assert max(len(page.documents) for page in mirror.pages) <= lanes * 2 * LIMIT


@reading
async def test_a_list_whose_changes_are_bunched_is_shared_out_all_the_same(clock: VirtualClock) -> None:
    """Nine tenths of all customers within two hours of two years, which a cut by time alone would leave to one lane."""
    provider = Watched(clock, 60, page_latency_ms=100)
    for _ in range(540):
        provider.world.invent_customer(random.Random(1))
        await clock.sleep(13)
    mirror = provider.mirror()
    began = clock.monotonic()
    await mirror.settle()
    assert known(mirror) == provider.living()
    assert modes(mirror) == SLICED
    assert clock.monotonic() - began < 600 / LIMIT * 0.1 / 2.5


@reading
async def test_all_lanes_stay_busy_when_the_survey_found_nothing(clock: VirtualClock) -> None:
    provider = Watched(clock, 1_000, page_latency_ms=100)
    oldest = min(provider.world.customers.stamps)
    # Of all that is asked, only the whole and one boundary close to the beginning are answered.
    provider.fails = lambda query: (
        query["limit"] == "1"
        and "since_datetime" in query
        and instant(query["since_datetime"]) > oldest + 200 * 86_400 * SECOND
    )
    mirror = provider.mirror()
    await mirror.step()
    began = clock.monotonic()
    while load(mirror).slices:
        await mirror.step()
    at_best = len(mirror.documents) / LIMIT / LANES * 0.1
    assert clock.monotonic() - began < 1.5 * at_best


def load(mirror: Mirror) -> Slices:
    assert mirror.cursor is not None
    return slices.load(mirror.cursor)


# When it is not worth it, or not wanted.


@reading
async def test_a_small_list_is_walked(clock: VirtualClock) -> None:
    provider = Watched(clock, 4 * LIMIT)
    mirror = provider.mirror()
    await mirror.settle()
    assert modes(mirror) == WALKED
    assert [query for query in provider.queries if query.get("total")] == [
        {"type": "any", "limit": "1", "total": "true"}
    ]


@reading
async def test_one_lane_is_the_walk_and_asks_for_no_count(clock: VirtualClock) -> None:
    provider = Watched(clock, 200)
    mirror = provider.mirror(1)
    await mirror.settle()
    assert modes(mirror) == WALKED
    assert not any("total" in query for query in provider.queries)


@reading
async def test_a_walk_that_has_begun_goes_on(clock: VirtualClock) -> None:
    provider = Watched(clock, 200)
    mirror = provider.mirror(1)
    await mirror.step()
    mirror.feed = provider.mirror(8).feed
    await mirror.settle()
    assert modes(mirror) == WALKED
    assert known(mirror) == provider.living()


@reading
async def test_fewer_lanes_after_a_restart_finish_what_more_have_begun(clock: VirtualClock) -> None:
    for lanes in (1, 2):
        provider = Watched(clock, 400)
        mirror = provider.mirror(8)
        for _ in range(3):
            await mirror.step()
        provider.busiest, mirror.feed = 0, provider.mirror(lanes).feed
        await mirror.settle()
        assert modes(mirror) == SLICED
        assert provider.busiest <= max(2, lanes)  # the counting at the end asks two things at once
        assert known(mirror) == provider.living()


HARMLESS: list[dict[str, Any]] = [
    {},
    {"since_bound": "exclusive"},
    {"since_bound": "exclusive", "timestamp_precision": "milliseconds"},
    {"timestamp_precision": "microseconds"},
    {"late_visibility_s": 5},
    {"tombstones_in_since": "never"},
    {"list_order": "created_descending"},
    {"cursor_kind": "customer_id"},
    {"fault_500": 0.1, "fault_cut": 0.1},
]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("switches", HARMLESS, ids=str)
def test_what_slices_can_bear_is_not_walked_even_while_customers_change(switches: dict[str, Any], seed: int) -> None:
    async def main(clock: VirtualClock) -> None:
        provider = Watched(clock, 400, seed, page_latency_ms=500, **switches)
        mirror, rng = provider.mirror(), random.Random(seed)
        provider.before = lambda: provider.change(rng) if rng.random() < 0.1 else None
        while not (mirror.pages and isinstance(walks_of(mirror.pages[-1]), Poll | Sweep)):
            try:
                await mirror.step()
            except RetryLater:
                await clock.sleep(1)
        assert modes(mirror) == SLICED

    run_virtual(main)


# A step of several requests.


@reading
async def test_a_request_that_fails_leaves_its_slice_where_it_was_and_the_others_go_on(clock: VirtualClock) -> None:
    provider = Watched(clock, 400)
    mirror = provider.mirror()
    for _ in range(3):
        await mirror.step()
    before = load(mirror).slices
    victim = iso(before[1].since)
    provider.fails = lambda query: query.get("since_datetime") == victim
    for _ in range(4):
        await mirror.step()
    assert before[1] in load(mirror).slices
    assert load(mirror).slices[0] != before[0]
    provider.fails = lambda query: False
    await mirror.settle()
    assert known(mirror) == provider.living()
    assert modes(mirror) == SLICED


@reading
async def test_when_all_requests_of_a_step_fail_so_does_the_step(clock: VirtualClock) -> None:
    provider = Watched(clock, 400)
    mirror = provider.mirror()
    for _ in range(3):
        await mirror.step()
    cursor = mirror.cursor
    provider.fails = lambda query: True
    with pytest.raises(RetryLater):
        await mirror.step()
    assert mirror.cursor == cursor


@reading
async def test_a_page_that_is_empty_by_mistake_ends_no_slice(clock: VirtualClock) -> None:
    provider = Watched(clock, 400)
    mirror = provider.mirror()
    provider.rows = lambda query, rows: [] if query["limit"] != "1" and len(provider.queries) % 9 == 0 else rows
    await mirror.settle()
    assert modes(mirror) == SLICED
    assert known(mirror) == provider.living()


def test_what_is_no_cursor_is_rejected() -> None:
    async def main(clock: VirtualClock) -> None:
        mirror = Watched(clock, 10).mirror()
        for fields in ({}, {"slices": 7}, {"slices": [[1]]}, {"slices": [], "x": 1}):
            mirror.cursor = {"mode": MODE, **fields}
            with pytest.raises(CursorRejected):
                await mirror.step()

    run_virtual(main)


# What slices need, and what happens without it.


async def falls_back(provider: Watched, *expected: list[str]) -> None:
    mirror = provider.mirror()
    await mirror.settle()
    assert modes(mirror) in expected
    assert known(mirror) == provider.living()


@reading
async def test_a_list_without_counts_is_walked(clock: VirtualClock) -> None:
    provider = Watched(clock, 400)
    provider.total = lambda query, total: None
    await falls_back(provider, WALKED)


@reading
async def test_a_list_that_counts_only_as_a_whole_is_walked(clock: VirtualClock) -> None:
    provider = Watched(clock, 400)
    provider.total = lambda query, total: None if "since_datetime" in query else total
    await falls_back(provider, WALKED)


@reading
async def test_a_list_in_descending_order_is_walked(clock: VirtualClock) -> None:
    await falls_back(Watched(clock, 400, since_order="descending"), WALKED, FELL_BACK)


@reading
async def test_a_list_that_ignores_the_instant_is_walked(clock: VirtualClock) -> None:
    provider = Watched(clock, 400)
    customers = provider.world.customers
    send = provider.api.send

    async def ignoring(request: Request) -> Response:
        query = tuple(pair for pair in request.query if pair[0] != "since_datetime")
        return await send(Request(request.method, request.path, query, request.headers, request.body))

    provider.api.send = ignoring  # type: ignore[method-assign]
    mirror = provider.mirror()
    for _ in range(PAGES_MAX):
        page = await mirror.step()
        if isinstance(walks_of(page), Poll):
            break
    assert modes(mirror) in (WALKED, FELL_BACK)
    assert len(mirror.documents) == len(customers)


def walks_of(page: Page) -> object:
    return slices.load(page.cursor) if page.cursor["mode"] == MODE else walks.load(page.cursor)


@reading
async def test_more_customers_of_one_instant_than_a_page_holds_are_walked(clock: VirtualClock) -> None:
    provider = Watched(clock, 300)
    for _ in range(3 * LIMIT):
        provider.world.invent_customer(random.Random(1))
    await clock.sleep(60)
    for _ in range(100):
        provider.world.invent_customer(random.Random(1))
        await clock.sleep(60)
    await falls_back(provider, FELL_BACK)


@reading
async def test_customers_without_a_change_time_are_walked(clock: VirtualClock) -> None:
    """Asked for what changed, the provider neither shows nor counts them."""
    provider = Watched(clock, 400)
    timeless = set(provider.world.customers.uids[::100])

    def rows(query: dict[str, str], found: Rows) -> Rows:
        if "since_datetime" in query:
            return [row for row in found if row["id"] not in timeless]
        return [{name: row[name] for name in row if name != "updated_at" or row["id"] not in timeless} for row in found]

    provider.rows = rows
    provider.total = lambda query, total: total - 4 if "since_datetime" in query and total > 390 else total
    mirror = provider.mirror()
    await mirror.settle()
    assert modes(mirror) == WALKED
    assert mirror.documents.keys() == provider.living().keys()


@reading
async def test_a_row_that_is_left_out_of_a_page_is_missed_in_the_count(clock: VirtualClock) -> None:
    provider = Watched(clock, 400)
    hidden = provider.world.customers.uids[200]
    provider.rows = lambda query, rows: [row for row in rows if "since_datetime" not in query or row["id"] != hidden]
    await falls_back(provider, FELL_BACK)


@reading
async def test_a_short_page_is_no_end(clock: VirtualClock) -> None:
    """A provider that gives three rows where seven are asked for."""
    provider = Watched(clock, 300, linked_users="inside_limit")
    provider.rows = lambda query, rows: rows[:3]
    mirror = provider.mirror()
    while not (mirror.pages and isinstance(walks_of(mirror.pages[-1]), Poll | Sweep)):
        await mirror.step()
    assert modes(mirror) == SLICED
    assert known(mirror) == provider.living()
    poll = walks_of(mirror.pages[-1])
    assert isinstance(poll, Poll)
    assert poll.width == 3


@reading
async def test_a_refused_instant_is_walked(clock: VirtualClock) -> None:
    provider = Watched(clock, 400)
    refusing = True
    send = provider.api.send

    async def refuse(request: Request) -> Response:
        if "since_datetime" in query_of(request) and refusing and query_of(request)["limit"] != "1":
            return Response(400, {"content-type": "application/json"}, b"{}")
        return await send(request)

    provider.api.send = refuse  # type: ignore[method-assign]
    mirror = provider.mirror()
    for _ in range(3):
        await mirror.step()
    assert modes(mirror) == [MODE, "sweep"]
    refusing = False
    await mirror.settle()
    assert known(mirror) == provider.living()


# Under changes.


@reading
async def test_a_date_that_is_ahead_of_the_change_times_skips_nothing(clock: VirtualClock) -> None:
    """Customers that were read change, then one that was not: its change time must not count for theirs."""
    provider = Watched(clock, 400, page_latency_ms=2_000)
    send = provider.api.send

    async def ahead(request: Request) -> Response:
        response = await send(request)
        return Response(response.status, {**response.headers, "date": "Fri, 15 Jan 2027 12:00:00 GMT"}, response.body)

    provider.api.send = ahead  # type: ignore[method-assign]
    mirror = provider.mirror()
    names = list(provider.world.customers.live_row_of)
    while not (mirror.pages and isinstance(walks_of(mirror.pages[-1]), Poll)):
        await mirror.step()
        for name in names[len(mirror.pages) * 7 :: 101]:
            provider.world.update_customer(name, {"status": f"after page {len(mirror.pages)}"})
    await mirror.settle()
    assert modes(mirror) == SLICED
    assert known(mirror) == provider.living()


@reading
async def test_who_leaves_amid_slices_that_are_walked_afterwards_is_shown_by_polls(clock: VirtualClock) -> None:
    """Found by the simulator as a broken I7: polls began where the walk did, and the customer had left before."""
    provider = Watched(clock, 400, page_latency_ms=100)
    mirror = provider.mirror()
    for _ in range(6):
        await mirror.step()
    assert mirror.cursor is not None
    assert mirror.cursor["mode"] == MODE
    told = next(iter(mirror.documents.values()))
    provider.world.delete_customer(told.body["customer_id"])
    await clock.sleep(3600)
    provider.world.update_customer(next(iter(provider.world.customers.live_row_of)), {"status": "later"})
    provider.rows = lambda query, rows: rows[::-1] if "since_datetime" in query else rows
    while mirror.cursor["mode"] == MODE:
        await mirror.step()
    provider.rows = None
    await mirror.settle()
    assert modes(mirror) == FELL_BACK
    assert told.uid not in mirror.documents


SWITCHES: list[dict[str, Any]] = [
    {},
    {"list_order": "created_descending"},
    {"since_bound": "exclusive"},
    {"since_order": "descending"},
    {"linked_users": "inside_limit"},
    {"timestamp_precision": "milliseconds"},
    {"timestamp_precision": "microseconds", "since_bound": "exclusive"},
    {"late_visibility_s": 5},
    {"late_visibility_s": 25},
    {"tombstones_in_since": "never"},
    {"deleted_read": "tombstone"},
    {"duplicate_rows": 0.02},
    {"duplicate_rows": 0.5},
    {"empty_page": 0.05},
    {"bad_shape": 0.2},
    {"fault_cut": 0.2},
    {"fault_500": 0.2},
    {"fault_429": 0.1, "fault_429_retry_after": "1"},
    {"token_lifetime": 1, "latency_ms": 300},
]
MIXED: dict[str, tuple[Any, ...]] = {
    "since_bound": ("inclusive", "exclusive"),
    "since_order": ("ascending", "ascending", "ascending", "descending"),
    "late_visibility_s": (0, 0, 2, 7, 25),
    "timestamp_precision": ("seconds", "milliseconds", "microseconds"),
    "linked_users": ("appended", "appended", "inside_limit"),
    "tombstones_in_since": ("by_deleted_at", "by_deleted_at", "never"),
    "rename_bumps_updated_at": (True, True, False),
    "duplicate_rows": (0, 0, 0.01, 0.1),
    "fault_500": (0, 0.2),
    "fault_cut": (0, 0.1),
    "empty_page": (0, 0.02),
    "bad_shape": (0, 0.05),
    "list_order": ("created", "id", "created_descending"),
    "page_latency_ms": (0, 100, 1_000),
}


def is_hiding(switches: dict[str, Any]) -> bool:
    """Whether polls cannot see every change, so that only a sweep shows the last of them."""
    return (
        switches.get("late_visibility_s", 0) > 10
        or switches.get("tombstones_in_since") == "never"
        or switches.get("linked_users") == "inside_limit"
        or switches.get("rename_bumps_updated_at") is False
        or switches.get("empty_page", 0) > 0
    )


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_under_changes_the_mirror_ends_up_equal(switches: dict[str, Any], seed: int) -> None:
    run_virtual(lambda clock: ends_up_equal(clock, switches, seed))


@pytest.mark.parametrize("seed", range(24))
def test_whatever_comes_together_the_mirror_ends_up_equal(seed: int) -> None:
    rng = random.Random(seed)
    switches = {name: rng.choice(values) for name, values in MIXED.items()}
    run_virtual(lambda clock: ends_up_equal(clock, switches, seed))


async def ends_up_equal(clock: VirtualClock, switches: dict[str, Any], seed: int) -> None:
    rng = random.Random(seed)
    provider = Watched(clock, rng.choice([60, 300]), seed, **switches)
    mirror = provider.mirror(rng.choice([2, 4, 8]), rng.choice([4, 7]))
    per_request = rng.choice([0.05, 0.3, 1.0])
    changes = iter(range(CHANGES))

    def before() -> None:
        if rng.random() < per_request and next(changes, None) is not None:
            provider.change(rng)

    provider.before = before

    async def patiently() -> None:
        for _ in range(4 * PAGES_MAX):
            kept = mirror.cursor, dict(mirror.documents)
            try:
                page = await mirror.step()
            except (RetryLater, Malformed):
                await clock.sleep(1)
                continue
            if rng.random() < 0.1:  # the process died before the step was written
                mirror.cursor, mirror.documents = kept
                mirror.pages.pop()
                continue
            if not page.more:
                return
            await clock.sleep(rng.choice([0, 0.01, 0.3]))
        raise AssertionError("the reading does not end")

    await patiently()
    for _ in range(5):
        await clock.sleep(5)
        await patiently()
    provider.before = lambda: None
    faults = [name for name in switches if name.startswith("fault_") and "retry" not in name]
    faults += [name for name in ("bad_shape", "empty_page", "duplicate_rows") if name in switches]
    provider.api.switches = provider.api.switches.changed(dict.fromkeys(faults, 0))
    for _ in range(6):
        await clock.sleep(20)
        await patiently()
    if is_hiding(switches):
        assert mirror.cursor is not None
        mirror.cursor = mirror.feed.sweep(mirror.cursor)
        await patiently()
    assert known(mirror) == provider.living()


@reading
async def test_what_becomes_visible_late_and_out_of_turn_is_left_to_the_polls(clock: VirtualClock) -> None:
    """It was dated before the position, and nobody saw it while its slice was read: no reason to walk."""
    provider = Watched(clock, 400)
    late = provider.world.create_customer({"first_name": "Late"})
    await clock.sleep(3)
    provider.world.create_customer({"first_name": "Next"})
    hidden = True

    def is_asked(query: dict[str, str]) -> bool:
        since = query.get("since_datetime")
        return hidden and (since is None or instant(since) <= instant(late["updated_at"]))

    provider.rows = lambda query, rows: [row for row in rows if not (hidden and row["id"] == late["id"])]
    provider.total = lambda query, total: total - is_asked(query)
    mirror = provider.mirror()
    while not (mirror.pages and isinstance(walks_of(mirror.pages[-1]), Poll | Sweep)):
        await mirror.step()
        hidden = len(mirror.pages) < 6
    assert modes(mirror) == SLICED
    await mirror.settle()
    assert known(mirror) == provider.living()


# Arithmetic.


def page_of(*changed_at: int, limit: int = 3, total: int | None = None, shift: int = 0) -> Shown:
    """Rows that changed at these seconds of 1970; shift: of their numbers."""
    rows = [customer_row(number + shift, at) for number, at in enumerate(changed_at)]
    answer = Answer(rows, None, WALL_START, WALL_START, total=total)
    return Shown(rows, mapped_rows(rows, answer, limit), limit, total, None, WALL_START, WALL_START)


@pytest.mark.parametrize(
    "shown",
    [
        page_of(30, 20, 40),
        page_of(10, 10, 10),
        page_of(10, 10),
        page_of(2, 20, 30),
        page_of(2, 90),
    ],
    ids=["out of order", "one instant", "short of its end", "older than asked for", "older, and the end"],
)
def test_a_page_that_slices_cannot_go_by_is_refused(shown: Shown) -> None:
    with pytest.raises(Unsliceable):
        Slice(10 * SECOND - 1_000, 80 * SECOND, 9, 10 * SECOND).after(shown)


def test_a_slice_ends_with_a_row_from_its_end_or_later() -> None:
    piece = Slice(10 * SECOND - 1_000, 80 * SECOND, 9, 10 * SECOND)
    assert piece.after(page_of(10, 20, 80)) is None
    assert piece.after(page_of(10, 90)) is None
    following = piece.after(page_of(10, 20))
    assert following == Slice(20 * SECOND - 1_000, 80 * SECOND, 8, 20 * SECOND, 2)


def test_the_open_slice_ends_with_as_many_rows_as_there_are() -> None:
    piece = Slice(10 * SECOND - 1_000, None, 9, 10 * SECOND)
    assert piece.after(page_of(10, 20, total=2)) is None
    following = piece.after(page_of(10, 20, total=3))
    assert following is not None
    with pytest.raises(Unsliceable):
        following.after(page_of(20, total=2, shift=1))
    with pytest.raises(Unsliceable):
        piece.after(page_of(10, 20))


@given(st.lists(st.integers(0, 2_000_000), min_size=60, max_size=300), st.integers(2, 12), st.integers(1, 10))
@settings(max_examples=60, deadline=None)
def test_a_survey_asks_little_and_cuts_everything_into_slices(times: list[int], lanes: int, limit: int) -> None:
    times = sorted(at * SECOND for at in times)
    want = wanted(len(times), lanes, limit)
    marks = [Mark(times[0], len(times)), Mark(2_000_001 * SECOND, 0)]
    for _ in range(ROUNDS_MAX):
        asked = questions(marks, want, lanes)
        assert len(asked) <= lanes
        assert all(times[0] < at < marks[-1].at for at in asked)
        marks = in_order([*marks, *(Mark(at, sum(time >= at for time in times)) for at in asked)])
    pieces = cut(marks, want)
    assert pieces[0].since == 0
    assert pieces[-1].end is None
    assert len(pieces) <= lanes + 1
    assert sum(piece.left for piece in pieces) == len(times)
    for piece, following in pairwise(pieces):
        assert piece.end == following.counted
        assert following.since < following.counted
        assert following.left == sum(following.counted <= at < (following.end or at + 1) for at in times)


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.one_of(st.none(), st.integers(0, 10**9)), st.integers(0, 99))
def test_halves_of_a_slice_are_the_slice(begin: int, end: int, latest: int | None, left: int) -> None:
    for piece in (Slice(begin, end, left, begin), Slice(begin, None, left, begin)):
        halves = piece.split(latest)
        if halves is None:
            continue
        lower, upper = halves
        assert (lower.since, lower.counted, upper.end) == (piece.since, piece.counted, piece.end)
        assert lower.end == upper.counted
        assert lower.counted < upper.counted < (piece.end or (latest or 0) + 1)
        assert upper.since < upper.counted
        assert lower.left + upper.left == left


def test_the_state_survives_json() -> None:
    state = Slices(
        slices=(Slice(0, 5, 7, 0), Slice(4, None, 1, 5, 3, empty=True)), began=9, position=8, seen=9, at=1.5, read=4
    )
    assert slices.load(orjson.loads(orjson.dumps(slices.dump(state)))) == state
    assert slices.load(slices.dump(Slices())) == Slices()


def test_polling_begins_where_slicing_began() -> None:
    state = Slices(position=5, counted_to=3, seen=9, at=WALL_START, width=7, read=2)
    assert state.polling() == Poll(position=5, seen=9, at=WALL_START, width=7)
    assert state.proves(everybody=10, dated=10, moved=8)
    assert not state.proves(everybody=11, dated=10, moved=8)
    assert not state.proves(everybody=10, dated=10, moved=7)
