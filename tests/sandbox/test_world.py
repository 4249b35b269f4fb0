"""The simulated population: what it promises to the API above it and to whoever checks against its truth log."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.errors import ConfigurationError, RequestRefused
from bridge.sandbox.population.instants import Precision, Stamper, render
from bridge.sandbox.population.truth import TruthLog
from bridge.sandbox.world import RENAME_RECORD, Rates, Rules, World, live, replay

BEGIN_S = 1_770_000_000.25
END_S = BEGIN_S + 30
LIVELY = Rates(sign_up=60, edit=240, tag=120, untag=120, rename=60, delete=60, tag_create=12, tag_delete=12)


class EndOfTimeError(Exception):
    """A virtual clock has run long enough."""


class VirtualClock:
    """Time that passes only when somebody sleeps, or when the test says so."""

    def __init__(self, now: float = BEGIN_S) -> None:
        self.now = now

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += max(0.0, seconds)
        if self.now > END_S:
            raise EndOfTimeError
        await asyncio.sleep(0)


def make(seed: int = 7, customers: int = 60, tags: int = 5, rates: Rates | None = None, **rules: Any) -> World:
    return World(seed, customers, tags, rates or Rates(), VirtualClock(), rules=Rules(**rules))


def documents(world: World) -> dict[str, Any]:
    """Everything there is, by id."""
    customers = world.customers
    rows = {uid: world.register.document(row) for uid, row in customers.row_of.items()}
    return {
        **rows,
        **{uid: dict(tag) for uid, tag in world.tags.items()},
        **orjson.loads(orjson.dumps(world.staff.users)),
    }


def memberships(world: World) -> set[tuple[str, str]]:
    customers = world.customers
    return {(tag, customers.uids[row]) for tag, rows in customers.members.items() for row in rows}


def someone(world: World, number: int = 0) -> str:
    return list(world.customers.live_row_of)[number]


# The beginning.


def test_the_same_seed_gives_the_same_world() -> None:
    one, two = make(seed=3), make(seed=3)
    assert documents(one) == documents(two)
    assert memberships(one) == memberships(two)


def test_another_seed_gives_another_world() -> None:
    assert documents(make(seed=3)).keys().isdisjoint(documents(make(seed=4)))


def test_a_population_has_all_types_unique_ids_and_unique_mails() -> None:
    world = make(customers=3000)
    rows = [document for uid, document in documents(world).items() if uid in world.customers.row_of]
    assert {row["type"] for row in rows} == {"customer", "company", "contact", "employee", "other"}
    for name in ("id", "customer_id"):
        assert len({row[name] for row in rows}) == 3000
    assert max(Counter((row["type"], row["email"].lower()) for row in rows).values()) == 1
    assert any("/" in row["customer_id"] for row in rows), "some ids need encoding"
    assert all(("company" in row) for row in rows if row["type"] == "company")
    assert all(row["contact_for"] for row in rows if row["type"] == "contact")
    assert all(row["created_at"] <= row["updated_at"] <= render(int(BEGIN_S * 1e6), "seconds") for row in rows)


def test_an_empty_world_is_a_world() -> None:
    world = make(customers=0, tags=0, rates=LIVELY)
    world.advance(BEGIN_S + 10)
    assert len(world.customers) > 0


# Changes by themselves.


@given(st.lists(st.floats(0, 20), max_size=8))
@settings(max_examples=15, deadline=None)
def test_history_does_not_depend_on_the_steps_in_which_time_advances(steps: list[float]) -> None:
    whole, stepwise = make(rates=LIVELY), make(rates=LIVELY)
    whole.advance(BEGIN_S + 20)
    for step in sorted(steps):
        stepwise.advance(BEGIN_S + step)
    stepwise.advance(BEGIN_S + 20)
    assert list(whole.truth) == list(stepwise.truth)
    assert documents(whole) == documents(stepwise)


@given(st.integers(0, 1000), st.booleans(), st.booleans())
@settings(max_examples=25, deadline=None)
def test_the_truth_log_replayed_over_the_beginning_gives_the_end(
    seed: int, tag_bumps: bool, rename_bumps: bool
) -> None:
    world = make(seed=seed, rates=LIVELY, tag_bumps_updated_at=tag_bumps, rename_bumps_updated_at=rename_bumps)
    things, edges = documents(world), memberships(world)
    world.advance(BEGIN_S + 30)
    world.create_tag("VIP", {"colour": "gold"})
    world.create_customer({"first_name": "Åse", "customer_id": "c 1/2"})
    world.update_customer("c 1/2", {"first_name": None, "metadata": {"a": "1"}})
    world.set_customer_tags("c 1/2", world.tags)
    world.rename_customer("c 1/2", "c-3")
    world.staff.update_user(next(iter(world.staff.users)), {"name": "Somebody"})
    world.staff.delete_user(list(world.staff.users)[1])
    world.staff.create_user({"email": "new@backoffice.example"})
    world.delete_tag(next(iter(world.tags)))
    world.mass_delete(0.2)
    replay(things, edges, world.truth)
    assert things == documents(world)
    assert edges == memberships(world)


def test_memberships_stay_the_same_from_both_sides() -> None:
    world = make(customers=300, rates=LIVELY)
    world.advance(BEGIN_S + 60)
    customers = world.customers
    from_customers = {(tag, customers.uids[row]) for row, tags in enumerate(customers.tags) for tag in tags}
    assert from_customers == memberships(world)
    for rows in customers.members.values():
        assert list(rows) == sorted(rows, key=customers.creation)
    assert list(customers.order) == sorted(customers.order, key=customers.creation)


def test_every_kind_of_change_happens_at_about_its_rate() -> None:
    world = make(customers=2000, tags=30, rates=LIVELY)
    world.advance(BEGIN_S + 300)
    seen = Counter((entry.collection.value, entry.kind) for entry in world.truth)
    assert seen["customers", "created"] == pytest.approx(300, rel=0.3)
    assert seen["customers", "updated"] == pytest.approx(1200, rel=0.2)
    assert seen["customers", "renamed"] == pytest.approx(300, rel=0.3)
    assert seen["customers", "deleted"] == pytest.approx(300, rel=0.3)
    assert seen["tags", "created"] == pytest.approx(60, rel=0.5)
    assert seen["tags", "deleted"] == pytest.approx(60, rel=0.5)
    assert seen["customers", "tagged"] == pytest.approx(600, rel=0.2)


def test_rates_hold_from_the_moment_they_are_set() -> None:
    world = make()
    assert world.due_at is None
    assert world.advance(BEGIN_S + 3600) == 0
    world.clock.now = BEGIN_S + 100  # type: ignore[attr-defined]
    world.rates = Rates(edit=600)
    world.advance(BEGIN_S + 160)
    assert len(world.truth) == pytest.approx(600, rel=0.2)
    assert all(entry.at > BEGIN_S + 100 for entry in world.truth)
    world.rates = Rates()
    assert world.advance(BEGIN_S + 7200) == 0


async def test_a_living_world_changes_as_its_clock_goes() -> None:
    world = make(rates=LIVELY)
    twin = make(rates=LIVELY)
    with pytest.raises(EndOfTimeError):
        await live(world)
    twin.advance(END_S)
    assert len(world.truth) > 100
    assert list(world.truth) == list(twin.truth)


def test_an_unknown_rate_names_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'sign_up'"):
        Rates.parse(["signup=3"])
    with pytest.raises(ConfigurationError, match="Rate edit="):
        Rates.parse(["edit=-1"])
    assert Rates.parse(["edit=1.5"]).edit == 1.5


# Changes on request.


def test_an_update_replaces_only_what_it_names() -> None:
    world = make()
    before = world.find(someone(world))
    assert before is not None
    world.clock.now += 5  # type: ignore[attr-defined]
    after = world.update_customer(before["customer_id"], {"first_name": "Kari", "gender": None})
    assert after.pop("updated_at") > before.pop("updated_at")
    assert "gender" not in after
    assert after == {**{k: v for k, v in before.items() if k != "gender"}, "first_name": "Kari"}


def test_an_update_that_changes_nothing_leaves_no_trace() -> None:
    world = make()
    before = world.find(someone(world))
    assert before is not None
    same = {"first_name": before["first_name"], "favorite_store": before["favorite_store"], "company": None}
    assert world.update_customer(before["customer_id"], same) == before
    assert len(world.truth) == 0


def test_metadata_is_merged_key_by_key_and_null_removes() -> None:
    world = make()
    world.create_customer({"customer_id": "m", "metadata": {"a": "1", "b": "2"}})
    assert world.update_customer("m", {"metadata": {"a": None, "c": "3"}})["metadata"] == {"b": "2", "c": "3"}
    assert "metadata" not in world.update_customer("m", {"metadata": None})


def test_a_rename_keeps_the_id_frees_the_old_customer_id_and_leaves_one_record() -> None:
    world = make()
    old = someone(world)
    before = world.find(old)
    assert before is not None
    after = world.rename_customer(old, "new name")
    assert after["id"] == before["id"]
    assert after["customer_id"] == "new name"
    records = {key: value for key, value in after["metadata"].items() if key.startswith(RENAME_RECORD)}
    (record,) = records.values()
    assert record.keys() == {"created_at", "created_by", "old", "new"}
    assert (record["old"], record["new"]) == (old, "new name")
    assert world.find(old) is None
    assert world.create_customer({"customer_id": old})["id"] != before["id"]


def test_two_customers_can_swap_their_ids() -> None:
    world = make()
    a, b = someone(world, 0), someone(world, 1)
    ids = [(world.find(name) or {})["id"] for name in (a, b)]
    world.rename_customer(a, "between")
    world.rename_customer(b, a)
    world.rename_customer("between", b)
    assert [(world.find(name) or {})["id"] for name in (b, a)] == ids


def test_a_deleted_customer_keeps_six_fields_and_no_memberships() -> None:
    world = make()
    name = someone(world)
    uid = (world.find(name) or {})["id"]
    world.set_customer_tags(name, world.tags)
    tombstone = world.delete_customer(name)
    assert tombstone.keys() == {"id", "customer_id", "created_at", "created_by", "deleted_at", "deleted_by"}
    assert all(uid != customer for _, customer in memberships(world))
    assert world.find(name) is None
    world.create_customer({"customer_id": name})


@pytest.mark.parametrize(
    ("operation", "status"),
    [
        (lambda world: world.update_customer("nobody", {}), 404),
        (lambda world: world.delete_customer("nobody"), 404),
        (lambda world: world.rename_customer("nobody", "x"), 404),
        (lambda world: world.rename_customer(someone(world), someone(world, 1)), 400),
        (lambda world: world.create_customer({"customer_id": someone(world)}), 400),
        (lambda world: world.set_customer_tags(someone(world), ["no such tag"]), 400),
        (lambda world: world.set_customer_tags("nobody", []), 404),
        (lambda world: world.delete_tag("no such tag"), 404),
        (lambda world: world.staff.delete_user("nobody"), 404),
    ],
)
def test_a_refused_operation_changes_nothing(operation: Any, status: int) -> None:
    world = make()
    before = documents(world)
    with pytest.raises(RequestRefused) as refusal:
        operation(world)
    assert refusal.value.status == status
    assert documents(world) == before
    assert len(world.truth) == 0


def test_deleting_a_tag_takes_it_from_everybody_first() -> None:
    world = make()
    tag = next(iter(world.tags))
    carriers = {uid for held, uid in memberships(world) if held == tag}
    before = {uid: documents(world)[uid] for uid in carriers}
    world.delete_tag(tag)
    *untagged, deleted = world.truth
    assert {entry.uid for entry in untagged} == carriers
    assert {entry.kind for entry in untagged} == {"untagged"}
    assert (deleted.kind, deleted.collection, deleted.uid) == ("deleted", "tags", tag)
    assert before == {uid: documents(world)[uid] for uid in carriers}, "customers do not move"


def test_tags_move_a_customer_only_if_the_rules_say_so() -> None:
    for bumps in (False, True):
        world = make(tag_bumps_updated_at=bumps)
        name = someone(world)
        before = (world.find(name) or {})["updated_at"]
        world.set_customer_tags(name, [])
        world.set_customer_tags(name, world.tags)
        assert ((world.find(name) or {})["updated_at"] > before) is bumps


def test_a_mass_deletion_takes_its_share() -> None:
    world = make(customers=200)
    assert world.mass_delete(0.3) == 60
    assert len(world.customers) == 140


# Time stamps and the truth log.


@given(st.lists(st.tuples(st.floats(0, 4e9), st.sampled_from(["seconds", "milliseconds", "microseconds"]))))
def test_stamps_never_decrease_and_keep_their_precision(moments: list[tuple[float, Precision]]) -> None:
    stamper, last = Stamper(), 0
    for moment, precision in moments:
        micros = stamper.stamp(moment, precision)
        assert micros >= last
        assert render(micros, precision) >= render(last, precision)
        assert micros % {"seconds": 1_000_000, "milliseconds": 1_000, "microseconds": 1}[precision] == 0
        last = micros


@pytest.mark.parametrize(("precision", "length"), [("seconds", 20), ("milliseconds", 24), ("microseconds", 27)])
def test_all_stamps_of_a_world_have_its_precision(precision: Precision, length: int) -> None:
    world = make(precision=precision)
    world.create_customer({"customer_id": "x"})
    for document in documents(world).values():
        assert len(document["created_at"]) == len(document["updated_at"]) == length


@given(st.integers(1, 20), st.integers(0, 40), st.integers(0, 45), st.integers(0, 10))
def test_the_truth_log_forgets_the_oldest_and_counts_it(entries_max: int, entries: int, after: int, limit: int) -> None:
    world = make(customers=1, tags=0)
    log = TruthLog(entries_max)
    for number in range(entries):
        world.limit_truth(1)
        world.create_tag(str(number))
        (entry,) = world.truth
        log.append(entry.at, entry.kind, entry.collection, entry.uid, entry.detail)
    assert len(log) == min(entries, entries_max)
    assert log.dropped == max(0, entries - entries_max)
    expected = [entry for entry in log if entry.number > after]
    assert log.after(after) == expected
    assert log.after(after, limit) == expected[:limit]
