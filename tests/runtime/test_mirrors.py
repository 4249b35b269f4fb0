"""Mirrors: an edge of one source makes one in the other, once; nothing comes back; who has nobody there is named."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import orjson
import pytest

from bridge.commands.command import VALUE_BYTES_MAX, Tagging, mirror_of, parse
from bridge.commands.outcome import UIDS_LISTED_MAX
from bridge.detect.edges import EdgeMove
from bridge.errors import PublishFailed
from bridge.event.envelope import EventBuilder, TagName
from bridge.model import Body, Cause, Path
from bridge.publish.inbox import InboxRecord
from bridge.runtime.glances import GlancePlan
from bridge.runtime.ledger import Ledger
from bridge.runtime.mirrors import MirrorRule, Mirrors
from bridge.runtime.reader import SourceReader
from bridge.runtime.reading import ReadingPlan
from bridge.runtime.shard import Shard
from bridge.sandbox.answer import Answer
from bridge.sandbox.population.dialect import REBILLY
from bridge.sandbox.rebilly.api import API_KEY, RebillyApi
from bridge.sandbox.rebilly.switches import RebillySwitches
from bridge.sandbox.world import World
from bridge.source.rebilly import RebillySettings, build
from bridge.source.transport import Request
from bridge.store.memory import MemoryStore
from bridge.store.record import decode_record
from tests.observability.observing import StandingClock
from tests.runtime.estates import ACCOUNT, STILL, Door
from tests.runtime.members import Club
from tests.runtime.shards import NUMBER, TOPICS
from tests.source.providing import Observer
from tests.support.clock import VirtualClock, run_virtual

CUSTOMERS = 60
STRANGERS = 3
"""Customers of acme who have nobody at billing."""


class Twins(Club):
    """acme, a Dintero, and billing, a Rebilly, with the same people; what is sent to the inbox arrives.

    Who is who is said by their e-mail addresses, which billing keeps in capitals.
    """

    def __init__(self, clock: VirtualClock, *, back: bool = True, **switches: Any) -> None:
        """back: whether there is a mirror the other way, too. `Any`: values of Rebilly's switches."""
        super().__init__(clock, CUSTOMERS, 4, switches={})
        wanted = RebillySwitches().changed(switches)
        self.other = World(2, CUSTOMERS, 4, STILL, clock, ACCOUNT, rules=wanted.rules(), dialect=REBILLY)
        self.billing = RebillyApi(self.other, wanted, clock)
        source = build(
            RebillySettings(source="billing", account=ACCOUNT, api_key=API_KEY, request_rate=1000),
            Door(self.billing),
            clock,
            Observer(),
            lambda: 0.0,
        )
        assert source.glances is not None
        for number, (mine, theirs) in enumerate(self.pairs()):
            self.world.update_customer(mine, {"email": f"p{number}@example.com"})
            address = f"P{number}@Example.com" if number >= STRANGERS else f"x{number}@example.com"
            self.other.update_customer(theirs, {"email": address})
        self.vip, self.loyal = next(iter(self.world.tags)), self.tags_of_billing()[0]
        there = MirrorRule("there", "acme", self.world.tags[self.vip]["tag"], "billing", self.loyal, "email", "email")
        again = MirrorRule("back", "billing", self.loyal, "acme", self.vip, "email", "email")
        self.reader = replace(self.reader, mirrors=[there])
        billing = SourceReader(
            account=source.account,
            builder=EventBuilder(source.account),
            feeds=list(source.feeds.values()),
            plans=dict.fromkeys(source.feeds, ReadingPlan(5.0, 600.0)),
            silent_snapshot=False,
            clock=clock,
            metrics=self.metrics,
            spread=lambda: 0.0,
            glances=GlancePlan(source.glances, 10.0),
            commander=source.commander,
            mirrors=[again] if back else [],
        )
        self.readers = [self.reader, billing]
        self.delivered = 0

    def pairs(self) -> list[tuple[str, str]]:
        """customer_id here and there of the same people."""
        return list(zip(self.world.customers.live_row_of, self.other.customers.live_row_of, strict=True))

    def tags_of_billing(self) -> list[str]:
        return [uid for uid, tag in self.other.tags.items() if "type" not in tag]

    def here(self) -> set[int]:
        """Numbers of those who have the tag at acme."""
        rows = self.world.customers.members[self.vip]
        return {
            number for number, (mine, _) in enumerate(self.pairs()) if self.world.customers.live_row_of[mine] in rows
        }

    def there(self) -> set[int]:
        """Numbers of those who have it at billing."""
        rows = self.other.customers.members[self.loyal]
        return {number for number, (_, its) in enumerate(self.pairs()) if self.other.customers.live_row_of[its] in rows}

    def stored_there(self) -> set[str]:
        """Uids of those who have it at billing as the state says."""
        rows = self.store.scan("billing/customers/")
        bodies = {key.rpartition("/")[2]: decode_record(value).document or {} for key, value in rows}
        return {uid for uid, body in bodies.items() if self.loyal in body.get("tags", ())}

    def set_here(self, numbers: Iterable[int], *, present: bool) -> None:
        for number in numbers:
            self._set(self.world, self.pairs()[number][0], self.vip, present)

    def set_there(self, numbers: Iterable[int], *, present: bool) -> None:
        for number in numbers:
            self._set(self.other, self.pairs()[number][1], self.loyal, present)

    def _set(self, world: World, name: str, tag: str, present: bool) -> None:
        tags = set(world.customers.tags[world.customers.live_row_of[name]]) - {tag}
        world.set_customer_tags(name, sorted({*tags, tag} if present else tags))

    @property
    def sent(self) -> list[dict[str, Any]]:
        """Commands of mirrors."""
        return [orjson.loads(record.value or b"") for record in self.kafka.events("inbox")]

    @property
    def outcomes(self) -> list[dict[str, Any]]:
        return [orjson.loads(record.value or b"") for record in self.kafka.events("outcomes")]

    def told_edges(self) -> list[dict[str, Any]]:
        """Data of the events about edges, of both."""
        data = [orjson.loads(record.value or b"") for record in self.kafka.events("customers")]
        return [{**each, "source": each["key"].partition("/")[0]} for each in data if "tag" in each]

    @asynccontextmanager
    async def living(self) -> AsyncIterator[Shard]:
        """A life to which the inbox is delivered, from where it was read last."""
        shard = self.shard()

        async def deliver() -> None:
            sent = self.kafka.offset or 0
            while True:
                await asyncio.sleep(0.05)
                records = self.kafka.events("inbox")
                if records[sent:] and shard.readings:
                    shard.deliver(
                        [
                            InboxRecord(NUMBER, offset, record.key, record.value, (), int(self.clock.wall() * 1000))
                            for offset, record in enumerate(records[sent:], sent)
                        ]
                    )
                    sent = len(records)

        async with asyncio.TaskGroup() as group:
            living = group.create_task(shard.serve())
            courier = group.create_task(deliver())
            try:
                yield shard
                shard.drain()
                await living
            finally:
                courier.cancel()


def play(story: Callable[[Twins, VirtualClock], Any], **ways: Any) -> None:
    async def main(clock: VirtualClock) -> None:
        await story(Twins(clock, **ways), clock)

    run_virtual(main)


def test_who_is_tagged_here_is_tagged_there_once_and_nothing_comes_back() -> None:
    async def story(twins: Twins, clock: VirtualClock) -> None:
        async with twins.living():
            await asyncio.sleep(40)
            assert twins.sent == []  # what the first reading shows has not moved
            before, others = twins.here(), twins.there()
            new = sorted({0, 1, *range(10, 20)} - before)
            twins.set_here(new, present=True)
            await asyncio.sleep(60)
            assert twins.there() == others | {number for number in new if number >= STRANGERS}
            assert {mirror_of(command["id"]) for command in twins.sent} == {"there"}
            unmatched = [other for outcome in twins.outcomes for other in outcome.get("others", [])]
            uids = [twins.uid(twins.pairs()[number][0]) for number in new if number < STRANGERS]
            assert sorted(uid for other in unmatched for uid in other["uids"]) == sorted(uids)
            assert {other["why"] for other in unmatched} == ({"unmatched"} if uids else set())
            count = len(twins.sent)
            twins.set_here(new, present=False)
            await asyncio.sleep(60)
            assert twins.there() == others - set(new)
            assert twins.here() == before
            assert {command["kind"] for command in twins.sent[count:]} == {"untag"}
            assert {mirror_of(command["id"]) for command in twins.sent} == {"there"}
        assert len(twins.outcomes) == len(twins.sent)
        rendered = twins.metrics.render()[1].decode()
        assert f'bridge_mirrored_total{{mirror="there"}} {2 * len(new)}.0' in rendered

    play(story)


@pytest.mark.parametrize("delay_s", [0.0, 25.0])
def test_it_goes_both_ways_also_where_what_a_command_did_is_seen_by_somebody_else_first(delay_s: float) -> None:
    async def story(twins: Twins, clock: VirtualClock) -> None:
        async with twins.living():
            await asyncio.sleep(40)
            here, there = twins.here(), twins.there()
            mine = sorted(set(range(STRANGERS, CUSTOMERS)) - here - there)
            half = len(mine) // 2
            twins.set_here(mine[:half], present=True)
            twins.set_there(mine[half:], present=True)
            await asyncio.sleep(150)
            assert twins.here() - here == set(mine)
            assert twins.there() - there == set(mine)
            by = Counter(mirror_of(command["id"]) for command in twins.sent for _ in command["where"]["values"])
            assert by == {"there": half, "back": len(mine) - half}
        causes = Counter(
            (data["source"], mirror_of(data["cause"].get("ref")))
            for data in twins.told_edges()
            if data["cause"]["path"] != "snapshot"
        )
        assert causes == {
            ("acme", None): half,
            ("acme", "back"): len(mine) - half,
            ("billing", None): len(mine) - half,
            ("billing", "there"): half,
        }

    play(story, bulk_delay=delay_s)


def test_the_same_tag_taken_and_given_again_is_mirrored_in_order() -> None:
    async def story(twins: Twins, clock: VirtualClock) -> None:
        async with twins.living():
            await asyncio.sleep(40)
            other = twins.there()
            one = min(set(range(STRANGERS, CUSTOMERS)) - twins.here() - other)
            for present in (True, False, True, False, True):
                twins.set_here([one], present=present)
                await asyncio.sleep(15)
            await asyncio.sleep(60)
            assert [command["kind"] for command in twins.sent] == ["tag", "untag"] * 2 + ["tag"]
            assert twins.there() == other | {one}

    play(story, back=False)


@pytest.mark.parametrize("seed", range(6))
def test_lives_that_end_anywhere_mirror_each_edge_once(seed: int) -> None:
    async def story(twins: Twins, clock: VirtualClock) -> None:
        async with twins.living():
            await asyncio.sleep(40)
        here, there = twins.here(), twins.there()
        new = sorted(set(range(STRANGERS, CUSTOMERS)) - here - there)
        calls = twins.kafka.published
        twins.kafka.fail = lambda published: (
            PublishFailed("broken") if (published - calls) % (2 + seed) == 1 and published < calls + 40 else None
        )
        pieces = [new[at::8] for at in range(8)]
        for life in range(40):
            if life < len(pieces):
                twins.set_here(pieces[life], present=True)
            try:
                async with twins.living(), asyncio.timeout(12.0):
                    await asyncio.sleep(3.0 + (seed + life) % 8)
            except* (PublishFailed, TimeoutError):
                pass
        twins.kafka.fail = lambda _: None
        async with twins.living():
            await asyncio.sleep(120)
        assert twins.there() == there | set(new)
        assert twins.here() == here | set(new)
        ids = [command["id"] for command in twins.sent]
        assert len(ids) == len(set(ids))
        assert {mirror_of(id_) for id_ in ids} == {"there"}
        assert Counter(outcome["id"] for outcome in twins.outcomes) == Counter(ids)
        assert sum(len(command["where"]["values"]) for command in twins.sent) == len(new)
        uids = {twins.other.customers.uids[row] for row in twins.other.customers.members[twins.loyal]}
        assert twins.stored_there() == uids

    play(story)


def test_a_tag_that_goes_away_is_taken_from_everybody_there() -> None:
    async def story(twins: Twins, clock: VirtualClock) -> None:
        async with twins.living():
            await asyncio.sleep(40)
            twins.set_here(range(STRANGERS, CUSTOMERS), present=True)
            await asyncio.sleep(60)
            twins.world.delete_tag(twins.vip)
            await asyncio.sleep(90)
            assert not {number for number in twins.there() if number >= STRANGERS}

    play(story, back=False)


def test_what_somebody_else_moves_just_then_is_mirrored_all_the_same() -> None:
    """The look behind a mirror's own command sees it first, and it is not the mirror's."""

    async def story(twins: Twins, clock: VirtualClock) -> None:
        gold = twins.tags_of_billing()[1]
        mine = list(twins.world.tags)[1]
        [acme, billing] = twins.readers
        rule = MirrorRule("gold", "billing", gold, "acme", mine, "email", "email")
        twins.readers = [acme, replace(billing, mirrors=[rule])]
        one = min(set(range(STRANGERS, CUSTOMERS)) - twins.here() - twins.there())
        name, its = twins.pairs()[one]
        twins._set(twins.world, name, mine, False)
        twins._set(twins.other, its, gold, False)
        answer = twins.billing.answer

        def answering(request: Request) -> Answer:
            said = answer(request)
            if request.method == "POST" and request.path.endswith("/customers"):
                twins._set(twins.other, its, gold, True)
            return said

        async with twins.living():
            await asyncio.sleep(40)
            twins.billing.answer = answering  # type: ignore[method-assign]
            twins.set_here([one], present=True)
            await asyncio.sleep(60)
            tags = twins.world.customers.tags[twins.world.customers.live_row_of[name]]
            assert {twins.vip, mine} <= set(tags)
        causes = {
            (data["tag"]["uid"], mirror_of(data["cause"].get("ref")))
            for data in twins.told_edges()
            if data["cause"]["path"] != "snapshot" and data["source"] == "billing"
        }
        assert causes == {(twins.loyal, "there"), (gold, None)}

    play(story)


def sent(rules: list[MirrorRule], moves: Iterable[tuple[EdgeMove, Body, TagName]]) -> list[dict[str, Any]]:
    """Commands that rules make of moves. `Any`: JSON."""
    ledger = Ledger(MemoryStore())
    mirrors = Mirrors(rules, ledger, TOPICS, StandingClock())
    for sequence, (move, body, tag) in enumerate(moves, 1):
        mirrors.moved(move, body, tag, Cause(Path.POLL), sequence)
    mirrors.send()
    for record in ledger.open.records:
        assert len(record.value or b"") < VALUE_BYTES_MAX
        assert isinstance(parse(record.key, record.value), Tagging)
    commands = [orjson.loads(record.value or b"") for record in ledger.open.records]
    assert len({command["id"] for command in commands}) == len(commands)
    return commands


def rule(name: str, tag: str, target_tag: str, **more: Any) -> MirrorRule:
    return MirrorRule(name, "acme", tag, "billing", target_tag, "email", "email")._replace(**more)


def people(count: int, joined: bool = True, tag: str = "vip", email: str = "e") -> list[tuple[EdgeMove, Body, TagName]]:
    return [
        (EdgeMove(f"u{number}", tag, joined), {"email": f"{email}{number}"}, TagName(tag, tag.upper()))
        for number in range(count)
    ]


def test_mirrors_of_one_tag_do_not_tear_each_others_commands_apart() -> None:
    commands = sent([rule("one", "vip", "a"), rule("two", "vip", "b")], people(100))
    assert [(command["tag_name"], len(command["where"]["values"])) for command in commands] == [("a", 100), ("b", 100)]


def test_what_goes_to_one_tag_stays_in_its_order_whatever_rule_it_is_of() -> None:
    moves = people(1) + people(1, False, "gold") + people(1, True, "gold")
    commands = sent([rule("one", "vip", "a"), rule("two", "gold", "a")], moves)
    assert [(command["id"].split(".")[1], command["kind"]) for command in commands] == [
        ("one", "tag"),
        ("two", "untag"),
        ("two", "tag"),
    ]


def test_a_command_of_a_mirror_fits_into_the_inbox_and_its_outcome_lists_all() -> None:
    commands = sent([rule("one", "vip", "a")], people(2 * UIDS_LISTED_MAX + 1))
    assert [len(command["where"]["values"]) for command in commands] == [UIDS_LISTED_MAX, UIDS_LISTED_MAX, 1]
    long = sent([rule("one", "vip", "a")], people(1_200, email="\U0001f600" * 250))
    assert [name for command in long for name in command["where"]["names"]] == [f"u{number}" for number in range(1_200)]


def test_capitals_tell_tags_apart_where_they_do_at_the_provider() -> None:
    assert sent([rule("one", "Vip", "a")], people(1)) == []
    assert len(sent([rule("one", "Vip", "a", ignore_case=True)], people(1))) == 1
    assert len(sent([rule("one", "VIP", "a")], people(1))) == 1
    assert len(sent([rule("one", "vip", "a")], people(1))) == 1, "by its uid"
