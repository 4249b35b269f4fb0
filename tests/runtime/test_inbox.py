"""Signals: what each of them does, that it lasts, that it is done once, and that everybody is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from bridge.commands.command import VALUE_BYTES_MAX
from bridge.errors import CommitUnknown
from bridge.model import Collection
from bridge.publish.inbox import InboxRecord
from bridge.runtime.answers import DAY_S, DONE_S, EXPIRES_S, PRUNE_S
from bridge.runtime.ledger import Ledger
from bridge.runtime.shard import Shard
from bridge.runtime.step import SourceStep, StepLimits
from bridge.source.feed import Cursor, Familiar, Page, none_familiar
from bridge.store.memory import MemoryStore
from bridge.store.record import ROUNDS, cursor_key, decode_json, encode_json
from tests.runtime.posting import Post, living
from tests.runtime.shards import TOPICS, House
from tests.support.clock import VirtualClock, run_virtual


def asked(house: House, endpoint: str = "") -> int:
    """How many requests the provider has seen."""
    return sum(count for name, count in house.api.statistics().requests.items() if name.startswith(endpoint))


def hide(house: House, number: int = 0) -> None:
    """Change a customer in a way that the provider does not date."""
    house.api.switches = house.api.switches.changed({"rename_bumps_updated_at": False})
    house.world.rename_customer(list(house.world.customers.live_row_of)[number], "another-name")


def modes(shard: Shard) -> dict[str, str]:
    return {str(reading.collection): reading.status.mode for reading in shard.readings["acme"]}


def staleness(house: House, collection: str) -> float:
    return dict(((c, s) for _, c, s in house.metrics.staleness_all()))[collection]


def state(house: House, key: str) -> bytes | None:
    return house.store.get_many([key]).get(key)


def test_a_paused_collection_asks_the_provider_nothing_until_it_goes_on() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        post = Post(house)
        async with living(house) as shard:
            shard.deliver([post.signal("pause", "customers")])
            await asyncio.sleep(1)
            assert post.last == ("id-0", "applied", "paused")
            assert modes(shard)["customers"] == "paused"
            assert all(reading.ready for reading in shard.readings["acme"])
            house.world.create_tag("new")
            house.world.update_customer(next(iter(house.world.customers.live_row_of)), {"first_name": "New"})
            before = asked(house, "customers")
            await asyncio.sleep(100)
            assert asked(house, "customers") == before
            assert house.types("tags")[8:] == ["tag.created.v1"], "the other collection goes on"
            assert "customer.updated.v1" not in house.types("customers")
            assert staleness(house, "customers") == pytest.approx(101, abs=6)
            assert staleness(house, "tags") < 7
            shard.deliver([post.signal("resume", "customers")])
            await asyncio.sleep(0.5)
            assert post.last == ("id-1", "applied", "it goes on")
            assert "customer.updated.v1" in house.types("customers"), "at once"
            assert modes(shard)["customers"] == "poll"

    run_virtual(main)


def test_a_source_is_paused_as_a_whole_and_stays_so_in_the_lives_that_follow() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        post = Post(house)
        async with living(house) as shard:
            shard.deliver([post.signal("pause")])
            await asyncio.sleep(1)
        before = asked(house)
        async with living(house) as shard:
            await asyncio.sleep(60)
            assert asked(house) == before
            assert set(modes(shard).values()) == {"paused"}
            shard.deliver([post.signal("pause"), post.signal("resume")])
            await asyncio.sleep(1)
            assert asked(house) > before
        assert [outcome["detail"] for outcome in post.outcomes] == ["paused", "it was paused already", "it goes on"]
        async with living(house) as shard:
            assert "paused" not in modes(shard).values()

    run_virtual(main)


def test_pause_breaks_off_a_request_that_hangs_and_resume_wakes_a_feed_that_backs_off() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock, fault_500="1", fault_on="customers")
        post = Post(house)
        async with living(house) as shard:
            await asyncio.sleep(300)
            assert shard.readings["acme"][0].status.last_error is not None
            house.api.switches = house.api.switches.changed({"fault_500": 0.0})
            shard.deliver([post.signal("pause"), post.signal("resume")])
            await asyncio.sleep(2)
            assert len(house.kafka.events("customers")) == 50
            house.api.switches = house.api.switches.changed({"latency_ms": 50_000.0})
            await asyncio.sleep(10)
            shard.deliver([post.signal("pause")])
            await asyncio.sleep(0.5)
            assert set(modes(shard).values()) == {"paused"}

    run_virtual(main)


def test_resync_reads_every_customer_again_at_once() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock, customers=500)
        post = Post(house)
        async with living(house) as shard:
            hide(house)
            await asyncio.sleep(30)
            assert "customer.renamed.v1" not in house.types("customers"), "polls do not see it"
            shard.deliver([post.signal("resync", "customers")])
            await asyncio.sleep(3)
            assert post.last == ("id-0", "applied", "a complete reading begins")
            assert house.types("customers").count("customer.renamed.v1") == 1
            assert house.types("customers").count("customer.snapshot.v1") == 500

    run_virtual(main)


def test_resync_in_the_middle_of_a_sweep_begins_it_again() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock, customers=1000)
        post = Post(house)
        async with living(house) as shard:
            await asyncio.sleep(5)
            house.api.switches = house.api.switches.changed({"latency_ms": 2000.0})
            shard.deliver([post.signal("resync", "customers")])
            await asyncio.sleep(12)
            hide(house)  # on a page that this sweep has read already
            stored = decode_json(state(house, cursor_key("acme", "customers")) or b"")
            assert stored["@sweep"]["cursor"]["after"], "in the middle"
            shard.deliver([post.signal("resync", "customers")])
            await asyncio.sleep(60)
            assert house.types("customers").count("customer.renamed.v1") == 1

    run_virtual(main)


def test_resync_during_the_first_reading_is_done_behind_it() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock, customers=1000, lanes=1, latency_ms="2000")
        post = Post(house)
        shard = house.shard()
        async with asyncio.TaskGroup() as group:
            group.create_task(shard.serve())
            await asyncio.sleep(9)
            assert 100 < shard.readings["acme"][0].documents < 1000
            hide(house)  # on a page that has been read already
            house.world.delete_customer(list(house.world.customers.live_row_of)[7])  # from there, too
            shard.deliver([post.signal("resync")])
            await asyncio.sleep(20)
            assert house.types("customers").count("customer.snapshot.v1") == 1000, "the first reading went on"
            await asyncio.sleep(40)
            assert shard.readings["acme"][0].documents == 999
            shard.drain()
        assert house.types("customers").count("customer.renamed.v1") == 1
        assert house.types("customers").count("customer.deleted.v1") == 1

    run_virtual(main)


def test_an_answer_from_before_a_signal_is_not_made_true_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        post = Post(house)
        feed = house.source.feeds[Collection.TAGS]
        page, gate = feed.page, asyncio.get_running_loop().create_future()

        async def gated(cursor: Cursor | None, familiar: Familiar = none_familiar) -> Page:
            found = await page(cursor, familiar)
            await gate
            return found

        async with living(house) as shard:
            monkeypatch.setattr(feed, "page", gated)
            house.world.create_tag("new")
            await asyncio.sleep(10)
            shard.deliver([post.signal("pause", "tags")])
            gate.set_result(None)  # the answer comes through right behind the signal
            await asyncio.sleep(10)
            assert house.types("tags")[8:] == []
            shard.deliver([post.signal("resume", "tags")])
            await asyncio.sleep(1)
            assert house.types("tags")[8:] == ["tag.created.v1"]

    run_virtual(main)


def test_resync_reads_the_list_of_tags_now() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        post = Post(house)
        async with living(house) as shard:
            house.world.create_tag("new")
            before = asked(house, "tags")
            shard.deliver([post.signal("resync", "tags")])
            await asyncio.sleep(0.5)
            assert asked(house, "tags") > before
            assert house.types("tags")[8:] == ["tag.created.v1"]

    run_virtual(main)


def test_resync_of_what_is_paused_waits_for_the_end_of_the_pause() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        post = Post(house)
        async with living(house) as shard:
            shard.deliver([post.signal("pause", "customers"), post.signal("resync", "customers")])
            await asyncio.sleep(1)
            assert "not paused any more" in post.last[2]
            hide(house)
            before = asked(house, "customers")
            await asyncio.sleep(30)
            assert asked(house, "customers") == before
        async with living(house) as shard:
            shard.deliver([post.signal("resume", "customers")])
            await asyncio.sleep(1)
        assert house.types("customers").count("customer.renamed.v1") == 1

    run_virtual(main)


def test_approve_lets_exactly_the_held_deletions_go() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock, tags=120)
        post = Post(house)
        async with living(house) as shard:
            for uid in list(house.world.tags)[:60]:
                house.world.delete_tag(uid)
            await asyncio.sleep(20)
            assert "tag.deleted.v1" not in house.types("tags"), "held"
            shard.deliver([post.signal("approve", "tags")])
            await asyncio.sleep(5)
            assert post.outcomes[-1]["count"] == 60
            assert house.types("tags").count("tag.deleted.v1") == 60
            shard.deliver([post.signal("approve", "tags")])
            await asyncio.sleep(5)
            assert (post.outcomes[-1]["count"], post.last[1]) == (0, "applied")

    run_virtual(main)


def test_what_is_back_when_it_is_approved_stays() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock, tags=120)
        post = Post(house)
        async with living(house) as shard:
            gone = [house.world.tags[uid] for uid in list(house.world.tags)[:60]]
            for tag in gone:
                house.world.delete_tag(tag["id"])
            await asyncio.sleep(20)
            for tag in gone[::2]:
                house.world.register.add_tag(tag)  # the list has not been read since
            shard.deliver([post.signal("approve", "tags"), post.signal("approve", "tags")])
            await asyncio.sleep(20)
        deleted = [
            dict(record.headers)["ce_subject"].decode()
            for record in house.kafka.events("tags")
            if b"deleted" in dict(record.headers)["ce_type"]
        ]
        assert sorted(deleted) == sorted(tag["id"] for tag in gone[1::2])
        assert [outcome["count"] for outcome in post.outcomes] == [60, 0]

    run_virtual(main)


def test_the_same_command_again_has_one_effect_and_one_outcome_also_in_a_replay_after_a_restart() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        post = Post(house)
        async with living(house) as shard:
            shard.deliver([post.signal("pause", id_="one"), post.signal("resume", id_="two")])
            shard.deliver([post.signal("pause", id_="one", sent_at="2027-01-01T00:00:00Z")])
            await asyncio.sleep(1)
            assert "paused" not in modes(shard).values(), "the second pause is the first"
        house.kafka.offset = 0  # the group's offsets are lost
        async with living(house) as shard:
            shard.deliver(post.sent)
            await asyncio.sleep(1)
            assert "paused" not in modes(shard).values()
        assert [outcome["id"] for outcome in post.outcomes] == ["one", "two"]
        assert house.kafka.offset == 3
        assert post.reasons == []
        _, text = house.metrics.render()
        assert 'bridge_commands_total{kind="pause",outcome="applied",source="acme"} 1.0' in text.decode()

    run_virtual(main)


def test_the_same_id_with_another_content_is_a_conflict_and_the_first_stands() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        post = Post(house)
        async with living(house) as shard:
            shard.deliver([post.signal("pause", id_="one"), post.signal("resume", id_="one")])
            shard.deliver([post.signal("pause", "tags", id_="one")])
            await asyncio.sleep(1)
            assert set(modes(shard).values()) == {"paused"}
        assert [(outcome["id"], outcome["kind"]) for outcome in post.outcomes] == [("one", "pause")]
        assert post.reasons == ["conflict", "conflict"]

    run_virtual(main)


def test_a_commit_that_fails_takes_effect_outcome_and_offset_with_it() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        post = Post(house)
        shard = house.shard()
        life = asyncio.get_running_loop().create_task(shard.serve())
        await asyncio.sleep(3)
        house.kafka.fail = lambda _: CommitUnknown("?")
        shard.deliver([post.signal("pause")])
        with pytest.raises(CommitUnknown):
            await life
        house.kafka.fail = lambda _: None
        assert post.outcomes == []
        assert house.kafka.offset == 0
        async with living(house) as shard:
            assert "paused" not in modes(shard).values()
            shard.deliver(post.sent)
            await asyncio.sleep(1)
            assert set(modes(shard).values()) == {"paused"}
        assert post.last == ("id-0", "applied", "paused")

    run_virtual(main)


def of(**fields: Any) -> Callable[[Post], InboxRecord]:
    key = fields.pop("key", b"acme")
    good = {"id": "x", "kind": "pause", "source": "acme", "sent_at": "2026-11-21T08:15:30Z"}
    merged = {name: value for name, value in {**good, **fields}.items() if value is not ...}
    return lambda post: post.raw(orjson.dumps(merged), key)


@pytest.mark.parametrize(
    ("send", "reason", "answered"),
    [
        (lambda post: post.raw(b"\xff not JSON"), "malformed", False),
        (lambda post: post.raw(None), "malformed", False),
        (lambda post: post.raw(b"[]"), "malformed", False),
        (lambda post: post.raw(b" " * (VALUE_BYTES_MAX + 1)), "too_large", False),
        (of(id=...), "malformed", False),
        (of(kind="explode"), "unknown_kind", True),
        (of(format=2), "malformed", True),
        (of(collection="users"), "unknown_source", True),
        (of(source="nobody", key=b"nobody"), "unknown_source", True),
        (of(key=b"other"), "wrong_key", True),
        (of(key=None), "wrong_key", True),
    ],
)
def test_poison_moves_the_offset_has_no_effect_and_is_answered_once(
    send: Callable[[Post], InboxRecord], reason: str, answered: bool
) -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        post = Post(house)
        async with living(house) as shard:
            shard.deliver([send(post), post.signal("pause", "tags")])
            await asyncio.sleep(1)
            assert [name for name, mode in modes(shard).items() if mode == "paused"] == ["tags"]
            assert house.kafka.offset == 2
            assert post.reasons == [reason]
            rejected = [outcome["id"] for outcome in post.outcomes if outcome["outcome"] == "rejected"]
            assert rejected == (["x"] if answered else [])
            shard.deliver([post.raw(post.sent[0].value, post.sent[0].key)])
            await asyncio.sleep(1)
            assert len(post.outcomes) == 1 + answered, "answered once"

    run_virtual(main)


def test_a_command_that_nobody_can_know_to_be_new_is_not_done() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        post = Post(house)
        async with living(house) as shard:
            old = post.raw(post.signal("pause").value, at=clock.wall() - EXPIRES_S - 1)
            shard.deliver([old])
            await asyncio.sleep(1)
            assert "paused" not in modes(shard).values()
        assert post.last[:2] == ("id-0", "rejected")
        assert post.reasons == ["expired"]

    run_virtual(main)


def test_what_is_done_is_remembered_for_as_long_as_it_can_come_back_and_no_longer() -> None:
    async def main(clock: VirtualClock) -> None:
        house = House(clock, customers=0, tags=0)
        post = Post(house)
        record = post.signal("resync")
        async with living(house) as shard:
            shard.deliver([record, post.raw(orjson.dumps({"id": "bad", "kind": "explode"}))])
            await asyncio.sleep(1)
        clock.step(EXPIRES_S)
        async with living(house):
            assert state(house, "acme/done/id-0")
            assert state(house, "@/done/bad")
        clock.step(DONE_S - EXPIRES_S + PRUNE_S)
        async with living(house):
            assert not state(house, "acme/done/id-0")
            assert not state(house, "@/done/bad")

    assert DONE_S > EXPIRES_S + DAY_S / 2, "two clocks are compared"
    run_virtual(main)


def test_resync_of_memberships_forgets_when_each_tag_was_read() -> None:
    async def main(clock: VirtualClock) -> None:
        ledger = Ledger(MemoryStore())
        house = House(clock)
        rounds = [f"acme/{ROUNDS}/t{number}" for number in range(3)]
        for key in (*rounds, "acme/tags/t1", f"other/{ROUNDS}/t1"):
            ledger.put(key, encode_json({}))
        step = SourceStep(house.reader.builder, ledger, TOPICS, StepLimits(10_000), clock)
        step.begin_again(Collection.MEMBERSHIPS)
        assert [ledger.get(key) for key in rounds] == [None] * 3
        assert all(ledger.get(key) for key in ("acme/tags/t1", f"other/{ROUNDS}/t1"))

    run_virtual(main)
