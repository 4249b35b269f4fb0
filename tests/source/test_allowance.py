"""Allowance: what headers say of a provider's limit, in every usual form, and what a client makes of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.errors import RetryLater
from bridge.sandbox.api import CLIENT_ID, CLIENT_SECRET, SandboxApi
from bridge.sandbox.switches import Switches
from bridge.sandbox.world import Rates, World
from bridge.source.allowance import RESET_S_MAX, Allowance, allowance
from bridge.source.budget import HEAD_START_S, PAUSE_S_MAX, RATE_SHARE_MIN, Priority, RequestBudget
from bridge.source.transport import Request, Response
from tests.source.providing import ACCOUNT, Observer, Provider, answer, source_over
from tests.support.clock import VirtualClock, run_virtual

NOW = 1_800_000_000.0


def headers(form: str, remaining: object, reset: object) -> Mapping[str, str]:
    if form == "draft":
        return {"ratelimit": f"limit=100, remaining={remaining}, reset={reset}"}
    if form == "items":
        return {"ratelimit": f'"default";r={remaining};t={reset}'}
    return {f"{form}-limit": "100", f"{form}-remaining": str(remaining), f"{form}-reset": str(reset)}


FORMS = ["x-ratelimit", "x-rate-limit", "ratelimit", "draft", "items"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reset", [30, "30", "30.0", int(NOW) + 30, f"{int(NOW) + 30}000"])
def test_every_usual_form_is_understood(form: str, reset: object) -> None:
    assert allowance(headers(form, 50, reset), NOW) == Allowance(50, 30.0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("remaining", "reset"),
    [
        ("", 30), ("-1", 30), ("many", 30), ("nan", 30), ("1e9", 30), ("9" * 400, 30), (10**10, 30), ("٣", 30),
        (50, ""), (50, "0"), (50, "-5"), (50, "soon"), (50, "inf"), (50, int(NOW) - 1), (50, int(RESET_S_MAX) + 1),
        (50, int(NOW) + 10 * 366 * 86_400), (50, "9" * 5000), (50, "Fri, 15 Jan 2027 08:00:00 GMT"),
    ],
)  # fmt: skip
def test_nonsense_is_as_good_as_absent(form: str, remaining: object, reset: object) -> None:
    assert allowance(headers(form, remaining, reset), NOW) is None


def test_no_header_says_nothing() -> None:
    assert allowance({"content-type": "application/json", "x-ratelimit-limit": "100"}, NOW) is None


def test_of_several_limits_the_tightest_counts() -> None:
    told = {"ratelimit": '"burst";r=9;t=1, "day";r=100;t=50000', "x-ratelimit-remaining": "5", "x-ratelimit-reset": "1"}
    assert allowance(told, NOW) == Allowance(100, 50_000.0)


def test_the_window_of_the_only_policy_stands_in_for_a_missing_reset() -> None:
    told = {"ratelimit-remaining": "7", "ratelimit-policy": "100;w=60"}
    assert allowance(told, NOW) == Allowance(7, 60.0)
    assert allowance(told | {"ratelimit-policy": "100;w=60, 5000;w=3600"}, NOW) is None


@given(
    st.dictionaries(
        st.sampled_from(["ratelimit", "ratelimit-policy", *(f"{form}-{end}" for form in FORMS[:3] for end in
                         ("remaining", "reset"))]),
        st.text(max_size=60) | st.from_regex(r"[0-9;=,rtw\. \"]{0,60}", fullmatch=True),
    ),
    st.floats(0, 4e9),
)  # fmt: skip
def test_whatever_a_header_says_the_result_is_bounded(told: Mapping[str, str], now: float) -> None:
    found = allowance(told, now)
    assert found is None or (0 <= found.remaining <= 10**9 and 0 < found.reset_s <= RESET_S_MAX)


# What the budget makes of it.


async def paced(budget: RequestBudget, clock: VirtualClock, count: int) -> float:
    begin = clock.monotonic()
    for _ in range(count):
        await budget.acquire(Priority.POLL)
    return clock.monotonic() - begin


def test_what_is_left_is_spread_over_the_time_until_the_reset() -> None:
    async def main(clock: VirtualClock) -> None:
        budget = RequestBudget(10, clock)
        await paced(budget, clock, 10)
        budget.told(30, 30)
        assert await paced(budget, clock, 20) == pytest.approx(20, rel=0.06)

    run_virtual(main)


def test_the_reset_ends_what_was_told() -> None:
    async def main(clock: VirtualClock) -> None:
        budget = RequestBudget(10, clock)
        await paced(budget, clock, 10)
        budget.told(5, 10)
        await paced(budget, clock, 5)
        await clock.sleep(10 - clock.monotonic())
        begin = clock.monotonic()
        await paced(budget, clock, 20)
        assert clock.monotonic() - begin == pytest.approx(2, abs=0.5)

    run_virtual(main)


def test_who_waits_for_a_slow_turn_is_served_when_the_reset_comes() -> None:
    async def main(clock: VirtualClock) -> None:
        budget = RequestBudget(10, clock)
        await paced(budget, clock, 10)
        budget.told(1, 1.5)
        assert await paced(budget, clock, 2) == pytest.approx(1.6, abs=0.05)

    run_virtual(main)


@pytest.mark.parametrize(("remaining", "reset_s"), [(10**9, 1.0), (1000, 10.0)])
def test_a_generous_limit_makes_nobody_faster_than_configured(remaining: int, reset_s: float) -> None:
    async def main(clock: VirtualClock) -> None:
        budget = RequestBudget(10, clock)
        await paced(budget, clock, 10)
        budget.told(remaining, reset_s)
        assert await paced(budget, clock, 50) == pytest.approx(5, rel=0.05)

    run_virtual(main)


def test_a_stingy_limit_leaves_the_least_share() -> None:
    async def main(clock: VirtualClock) -> None:
        budget = RequestBudget(10, clock)
        await paced(budget, clock, 10)
        budget.told(1, RESET_S_MAX)
        assert await paced(budget, clock, 10) <= 10 / (10 * RATE_SHARE_MIN) + 1

    run_virtual(main)


@pytest.mark.parametrize(("reset_s", "pause_s"), [(20.0, 20.0), (RESET_S_MAX, PAUSE_S_MAX)])
def test_nothing_left_is_a_pause_until_the_reset_within_bounds(reset_s: float, pause_s: float) -> None:
    async def main(clock: VirtualClock) -> None:
        budget = RequestBudget(10, clock)
        assert budget.told(0, reset_s) == pause_s
        assert await paced(budget, clock, 1) == pytest.approx(pause_s, rel=0.01)

    run_virtual(main)


TELLING = st.lists(st.tuples(st.floats(0, 20), st.integers(0, 500), st.floats(0.001, 60)), max_size=12)


@settings(max_examples=60, deadline=None)
@given(TELLING, st.sampled_from([0.5, 10.0]))
def test_whatever_is_told_nobody_is_faster_than_configured_nor_slower_than_the_least_share(
    telling: list[tuple[float, int, float]], rate: float
) -> None:
    async def main(clock: VirtualClock) -> None:
        budget = RequestBudget(rate, clock)
        served, paused_s, over = 0, 0.0, False

        async def tell() -> None:
            nonlocal paused_s, over
            for pause_s, remaining, reset_s in telling:
                await clock.sleep(pause_s)
                paused_s += budget.told(remaining, reset_s)
            await clock.sleep(60)
            over = True

        async with asyncio.TaskGroup() as group:
            group.create_task(tell())
            while not over:
                await budget.acquire(Priority.POLL)
                served += 1
        end = clock.monotonic()
        assert served <= max(1.0, rate) + rate * end + 1
        assert served >= (end - paused_s) * rate * RATE_SHARE_MIN - len(telling) - 1

    run_virtual(main)


def test_being_throttled_counts_beside_what_was_told() -> None:
    async def main(clock: VirtualClock) -> None:
        budget = RequestBudget(10, clock)
        for _ in range(20):
            budget.throttled()
        budget.told(10**6, 1000)
        assert await paced(budget, clock, 5) > 4

    run_virtual(main)


# What a client makes of a provider with a limit.


def test_a_429_without_retry_after_is_waited_out_until_the_reset_that_it_names() -> None:
    async def main(clock: VirtualClock) -> None:
        replies = [answer({}, 429, ratelimit="limit=10, remaining=0, reset=45")]
        provider, observer = Provider(lambda request: replies.pop() if replies else answer([])), Observer()
        client = source_over(provider, clock, observer)._client
        with pytest.raises(RetryLater):
            await client.get("tags.list", "/x")
        await client.get("tags.list", "/x")
        assert clock.monotonic() == pytest.approx(45, abs=0.1)
        assert observer.throttled_s == pytest.approx(45, abs=0.1)

    run_virtual(main)


def test_of_a_hint_and_a_reset_the_hint_counts() -> None:
    async def main(clock: VirtualClock) -> None:
        replies = [answer({}, 429, retry_after="2", ratelimit="limit=10, remaining=0, reset=45")]
        provider = Provider(lambda request: replies.pop() if replies else answer([]))
        client = source_over(provider, clock)._client
        with pytest.raises(RetryLater):
            await client.get("tags.list", "/x")
        await client.get("tags.list", "/x")
        assert clock.monotonic() == pytest.approx(2, abs=0.1)

    run_virtual(main)


async def ten_minutes(clock: VirtualClock, **switches: Any) -> Counter[int]:
    """Statuses of a client that asks as fast as its budget lets it, of a provider with 60 requests a minute."""
    world = World(1, 10, 3, Rates(), clock, ACCOUNT)
    api = SandboxApi(world, Switches().changed({"limit_per_minute": 60, **switches}), clock)
    statuses: Counter[int] = Counter()

    class Counted:
        async def send(self, request: Request) -> Response:
            response = await api.send(request)
            statuses[response.status] += 1
            return response

        async def close(self) -> None: ...

    source = source_over(Counted(), clock, client_id=CLIENT_ID, client_secret=CLIENT_SECRET)
    while clock.monotonic() < 600:
        try:
            await source._client.get("tags.list", f"/accounts/{ACCOUNT}/customers/tags")
        except RetryLater:
            await clock.sleep(0.5)
    return statuses


@pytest.mark.parametrize("form", ["x", "ratelimit", "draft"])
def test_a_client_that_is_told_the_limit_keeps_it_and_uses_it(form: str) -> None:
    statuses = run_virtual(lambda clock: ten_minutes(clock, limit_headers=form))
    assert statuses[429] <= 10  # one a minute: the last of a window may meet the next one's clock
    assert statuses[200] >= 0.85 * 600


@pytest.mark.parametrize("hint", ["none", "date"])
def test_a_client_that_is_not_told_learns_from_being_refused(hint: str) -> None:
    statuses = run_virtual(lambda clock: ten_minutes(clock, fault_429_retry_after=hint))
    assert 0 < statuses[429] <= 70
    assert statuses[200] >= 0.5 * 600


# A08: every second request is refused.

CROWD = st.lists(st.tuples(st.sampled_from(Priority), st.floats(0, 60), st.floats(0, 20)), min_size=0, max_size=18)


@settings(max_examples=15, deadline=None)
@given(CROWD)
def test_no_class_starves_when_every_second_request_is_refused_for_an_hour(
    crowd: list[tuple[Priority, float, float]],
) -> None:
    """Callers of all six classes come again and again; the longest wait of each is bounded by what its class says."""
    rate, hour_s = 10.0, 3600.0

    async def main(clock: VirtualClock) -> None:
        number = 0
        waits: dict[Priority, list[float]] = {priority: [] for priority in Priority}

        def every_second(request: Request) -> Response:
            nonlocal number
            number += 1
            return answer({}, 429) if number % 2 else answer([])

        client = source_over(Provider(every_second), clock, request_rate=rate)._client

        async def caller(priority: Priority, at: float, pause_s: float) -> None:
            await clock.sleep(at)
            while clock.monotonic() < hour_s:
                begin = clock.monotonic()
                with contextlib.suppress(RetryLater):
                    await client.get("tags.list", "/x", priority=priority)
                waits[priority].append(clock.monotonic() - begin)
                await clock.sleep(pause_s)

        everybody = [*((priority, 0.0, 0.0) for priority in Priority), *crowd]
        async with asyncio.TaskGroup() as group:
            for each in everybody:
                group.create_task(caller(*each))
        slowest_s = 2 / (rate * RATE_SHARE_MIN)  # of one turn, the pause after a refusal included
        for priority, seen in waits.items():
            bound = priority * HEAD_START_S + len(everybody) * slowest_s
            assert max(seen) <= bound
            assert len(seen) >= hour_s / bound - 1
        assert number <= hour_s * rate / 2  # it has learnt

    run_virtual(main)


def test_the_pace_comes_back_slowly_when_nobody_refuses_any_more() -> None:
    async def main(clock: VirtualClock) -> None:
        asked: list[float] = []

        def play(request: Request) -> Response:
            asked.append(clock.monotonic())
            return answer({}, 429) if clock.monotonic() < 600 and len(asked) % 2 else answer([])

        client = source_over(Provider(play), clock)._client
        while clock.monotonic() < 2000:
            with contextlib.suppress(RetryLater):
                await client.get("tags.list", "/x")
        rates = [sum(begin <= at < end for at in asked) / (end - begin) for begin, end in
                 pairwise((300, 600, 750, 900, 1050, 1400, 2000))]  # fmt: skip
        assert rates == sorted(rates)
        assert rates[0] < 1.5
        assert rates[-1] == pytest.approx(10, rel=0.05)

    run_virtual(main)
