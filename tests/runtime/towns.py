"""A town for tests: one simulated process, provider and broker, a life as eventful as we know one, calm, the reckoning.

The pieces are those of `bridge.sandbox.simulation`; here nothing befalls the process, and everything the customers.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from bridge.detect.scan import DeleteLimit
from bridge.model import Collection
from bridge.sandbox.broker.reader import message_of
from bridge.sandbox.population.life import Rates
from bridge.sandbox.simulation.check import Done, check
from bridge.sandbox.simulation.plan import Plan, draw
from bridge.sandbox.simulation.story import Story
from bridge.sandbox.simulation.town import CALM_S_MAX, Town, build
from bridge.sandbox.simulation.vendors import Api, late_s
from bridge.sandbox.world import World
from bridge.verify.event import SeenEvent, decode
from tests.support.clock import VirtualClock, run_virtual

SOURCE = "source-0"
COLLECTIONS = tuple(Collection)

POLL_S = 3.0
SWEEP_S = 20.0
"""Between sweeps, so that what polls cannot see is found while the test lasts."""

CUSTOMERS = 100
PAGE_LIMIT = 25
TIE = 75
"""Rows that change in one instant: three pages."""

FIRST_READING_S = 40.0
LIFE_S = 42.0
TURN_S = 4.0
"""Between two happenings of a life."""

RATES = Rates(sign_up=12, edit=60, tag=20, untag=10, rename=8, delete=6, tag_create=4, tag_delete=3)
"""Changes per minute, beside what `Life` does on purpose."""


@dataclass(frozen=True)
class Case:
    """Switches of the provider, and what is known about them.

    passing: faults; they end with the life, and what they spoilt has to be made good then.
    blind: polls cannot see every change then, or are lied to, so nobody can say at once what is published.
    sweeps: complete readings after which everything has been found. requests_per_s: what the bridge may ask.
    collections: what is read.
    """

    switches: Mapping[str, Any]
    passing: bool = False
    blind: bool = False
    sweeps: int = 2
    requests_per_s: float = 50.0
    collections: Sequence[Collection] = COLLECTIONS


@dataclass
class Life:
    """What happens to the customers of one account, on purpose: all that is hard to follow from outside."""

    world: World
    chance: Random
    turns: int = 0
    names: int = 0

    def turn(self, now: float) -> None:
        """The next happening."""
        happenings: tuple[Callable[[float], None], ...] = (
            self.swap,
            self.chain,
            self.taken_over,
            self.tie,
            self.born_again,
            self.briefly,
            self.taken_by_another,
        )
        self.world.advance(now)
        happenings[self.turns % len(happenings)](now)
        self.turns += 1

    def swap(self, now: float) -> None:
        """a ↔ b, through a third id."""
        a, b = self._living(2)
        third = self._name()
        for old, new in ((a, third), (b, a), (third, b)):
            self.world.rename_customer(old, new, at=now)

    def chain(self, now: float) -> None:
        """a → b → c between two polls."""
        name = self._living(1)[0]
        for _ in range(3):
            new = self._name()
            self.world.rename_customer(name, new, at=now)
            name = new

    def taken_over(self, now: float) -> None:
        """a → b, and c → a."""
        a, c = self._living(2)
        self.world.rename_customer(a, self._name(), at=now)
        self.world.rename_customer(c, a, at=now)

    def taken_by_another(self, now: float) -> None:
        """a → b, and somebody new signs up as a."""
        (a,) = self._living(1)
        self.world.rename_customer(a, self._name(), at=now)
        self.world.create_customer({"customer_id": a, "first_name": "Another"}, at=now)

    def born_again(self, now: float) -> None:
        """Deleted, and the id is used again."""
        (a,) = self._living(1)
        self.world.delete_customer(a, at=now)
        self.world.create_customer({"customer_id": a, "first_name": "Anew"}, at=now)

    def briefly(self, now: float) -> None:
        """Renamed, edited and deleted between two polls; and one that nobody can ever see."""
        (a,) = self._living(1)
        new = self._name()
        self.world.rename_customer(a, new, at=now)
        self.world.update_customer(new, {"last_name": "Gone"}, at=now)
        self.world.delete_customer(new, at=now)
        unseen = self.world.create_customer({"customer_id": self._name()}, at=now)
        self.world.delete_customer(unseen["customer_id"], at=now)

    def tie(self, now: float) -> None:
        """More rows in one instant than a page holds."""
        for name in self._living(TIE):
            self.world.update_customer(name, {"status": f"tie {self.turns}"}, at=now)

    def _living(self, count: int) -> list[str]:
        return self.chance.sample(list(self.world.customers.live_row_of), count)

    def _name(self) -> str:
        self.names += 1
        return f"name-{self.names}"


def plan_of(case: Case, seed: int) -> Plan:
    """One process, one provider, and nothing that befalls them."""
    return replace(
        draw(seed),
        seed=seed,
        processes=1,
        shards=1,
        collections={SOURCE: tuple(case.collections)},
        silent=False,
        cursor_kind="id",
        delete_limit=DeleteLimit(),
        lie={},
        snapshot_parallelism=4,
        poll_interval_s_max=0.0,
        rounds_interval_s=SWEEP_S,
        customers=CUSTOMERS,
        tags=6,
        rates=Rates(),
        switches=dict(case.switches),
        faults={},
        page_limit=PAGE_LIMIT,
        poll_interval_s=POLL_S,
        sweep_interval_s=SWEEP_S,
        request_rate=case.requests_per_s,
        weights={},
        disk="memory",
        slow_markers=0.0,
        latency_s=0.005,
        old_rows=0.0,
        epilogue=False,
        blind=case.blind,
        providers={SOURCE: "dintero"},
        mirrored=False,
    )


def live_through(case: Case, seed: int = 1) -> list[str]:
    """The story of a case; what is wrong at its end."""

    async def main(clock: VirtualClock) -> list[str]:
        story = Story(clock)
        with story.hearing_logs():
            async with asyncio.TaskGroup() as group:
                town = build(plan_of(case, seed), clock, story, group, None)
                findings = await _story(town, case, seed)
        return findings and [*list(story.lines)[-60:], *findings[:20]]

    return run_virtual(main)


async def _story(town: Town, case: Case, seed: int) -> list[str]:
    clock, api = town.outside.clock, town.outside.apis[SOURCE]
    given, usual = api.switches, api.switches.changed(_defaults(api, case))
    town.happenings.start(town.slots[0])
    await clock.sleep(FIRST_READING_S)
    api.world.rates = RATES
    life = Life(api.world, Random(f"{seed}/on purpose"))
    # Thrown back and forth while life goes on: nothing may depend on how the provider was when the bridge began.
    for switches in (given, usual, given):
        api.switches = switches
        await _live(town, life)
    api.world.advance(clock.wall())
    api.world.rates = Rates()
    api.switches = usual if case.passing else given
    findings = await _calm(town, case)
    town.slots[0].process.supervisor.stop()  # type: ignore[union-attr]  # it was started above
    await clock.sleep(30.0)
    for history in town.histories.values():
        history.update()
    findings += await check(town.outside, town.histories, Done({}))
    return findings + list(_identities(town, api.world))


async def _live(town: Town, life: Life) -> None:
    clock = town.outside.clock
    end = clock.monotonic() + LIFE_S / 3
    while clock.monotonic() < end:
        await clock.sleep(TURN_S * life.chance.uniform(0.5, 1.5))
        life.turn(clock.wall())


async def _calm(town: Town, case: Case) -> list[str]:
    """Until everything is said to be published, and then for as many sweeps as may find what nobody could know."""
    clock, api = town.outside.clock, town.outside.apis[SOURCE]
    still = clock.wall() + late_s(api) + 1.0  # time stamps may be cut to seconds
    deadline = clock.monotonic() + CALM_S_MAX
    while True:
        said = {claim.collection for claim in town.outside.claims if claim.until > still}
        if said.issuperset(case.collections):
            break
        if clock.monotonic() > deadline:
            missing = sorted(set(case.collections) - said)
            return [f"progress: {missing} not caught up {CALM_S_MAX:.0f} s after the last fault"]
        await clock.sleep(POLL_S)
    await clock.sleep(case.sweeps * SWEEP_S + api.switches.page_latency_ms / 1000 * 10)
    return []


def _defaults(api: Api, case: Case) -> dict[str, Any]:
    fields = type(api.switches).model_fields
    return {name: fields[name].default for name in case.switches}


def events_of(town: Town) -> Iterator[SeenEvent]:
    """Everything that was published."""
    broker = town.outside.broker
    for topic in town.outside.topics.event_topics:
        for number in range(broker.partitions(topic)):
            for entry in broker.read((topic, number), 0):
                yield decode(message_of((topic, number), entry))


def _identities(town: Town, world: World) -> Iterator[str]:
    """A customer comes once, goes once at most, and a rename is neither."""
    truth = Counter((entry.uid, entry.kind) for entry in world.truth.after(0))
    told: Counter[tuple[str, str]] = Counter()
    first: dict[str, Any] = {}
    last: dict[str, Any] = {}
    for event in sorted(events_of(town), key=lambda event: event.sequence):
        if event.collection != Collection.CUSTOMERS:
            continue
        uid = event.uid
        told[uid, event.verb] += 1
        if event.after is not None:
            first.setdefault(uid, event.after["customer_id"])
            last[uid] = event.after["customer_id"]
    for uid, name in first.items():
        births = told[uid, "created"] + told[uid, "snapshot"]
        if births != 1:
            yield f"identity: {uid} came {births} times"
        if told[uid, "deleted"] > truth[uid, "deleted"]:
            yield f"identity: {uid} was deleted {told[uid, 'deleted']} times, really {truth[uid, 'deleted']}"
        if told[uid, "renamed"] > truth[uid, "renamed"]:
            yield f"identity: {uid} was renamed {told[uid, 'renamed']} times, really {truth[uid, 'renamed']}"
        if name != last[uid] and not told[uid, "renamed"]:
            yield f"identity: {uid} has another name and was never renamed"
