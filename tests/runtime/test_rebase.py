"""A release that makes another document of the same row: no storm of events, and no change is lost for it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.detect.diff import detect
from bridge.detect.essence import essence_digest
from bridge.model import Body, Collection, Document, Gone, Path, Reject
from bridge.runtime.reading import ReadingPlan
from bridge.runtime.rebase import Window, unpublished
from bridge.runtime.sweep import Sweep, joined
from bridge.source.dintero import models, rows
from bridge.source.feed import Page
from bridge.store import record as records
from bridge.store.base import Store
from bridge.store.record import StateRecord, decode_record, encode_record, essence_key
from bridge.verify.online import TakeState, compare
from tests.runtime.shards import House
from tests.runtime.test_step import Desk, customer, page
from tests.support.clock import VirtualClock, run_virtual
from tests.verify.history import Written, check, kinds

OPEN = Window(2, 100.0, open=True)
CLOSED = Window(2, 100.0, open=False)
OLD, NEW, OTHER = {"name": "A"}, {"name": "A", "tier": "gold"}, {"name": "B", "tier": "gold"}
MAPPING = models.customer


def judged(record: StateRecord, body: Body, version: int, window: Window) -> StateRecord | None:
    return unpublished(record, Document("1", body, version), detect(record.document, body), window)


# One document.


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second release: its number, nothing else."""
    monkeypatch.setattr(records, "ESSENCE", 2)


FOREIGN = StateRecord(OLD, 5, 1, essence=1)
REBASED = StateRecord(OLD, 5, 1, base=essence_digest(NEW), essence=2)


@pytest.mark.usefixtures("second")
class TestOneDocument:
    @pytest.mark.parametrize("version", [5, 0])
    def test_a_difference_without_a_change_time_of_its_own_is_one_of_the_projection(self, version: int) -> None:
        assert judged(FOREIGN, NEW, version, OPEN) == REBASED

    def test_a_record_of_a_newer_release_is_of_another_projection_too(self) -> None:
        assert judged(FOREIGN._replace(essence=3), NEW, 5, OPEN) == REBASED

    @pytest.mark.parametrize(
        ("record", "version", "window"),
        [
            (FOREIGN, 6, OPEN),  # the customer has changed
            (FOREIGN, 5, CLOSED),  # everything was looked at before
            (FOREIGN._replace(essence=2), 5, OPEN),  # written under this projection
            (StateRecord(None, 0, 0, essence=1), 0, OPEN),  # never published
        ],
    )
    def test_any_other_difference_is_a_change(self, record: StateRecord, version: int, window: Window) -> None:
        assert judged(record, NEW, version, window) is None

    def test_what_does_not_differ_is_left_alone(self) -> None:
        assert judged(FOREIGN, OLD, 5, OPEN) is FOREIGN

    def test_the_base_is_unchanged_from_then_on_and_only_its_time_is_noted(self) -> None:
        assert judged(REBASED, NEW, 5, CLOSED) is REBASED
        assert judged(REBASED, NEW, 0, OPEN) is REBASED
        assert judged(REBASED, NEW, 7, CLOSED) == REBASED._replace(version=7)

    @pytest.mark.parametrize("version", [0, 5, 6])
    @pytest.mark.parametrize("window", [OPEN, CLOSED])
    def test_a_difference_from_the_base_is_a_change(self, version: int, window: Window) -> None:
        assert judged(REBASED, OTHER, version, window) is None

    def test_who_goes_back_to_what_was_published_has_no_base_any_more(self) -> None:
        assert judged(REBASED, OLD, 5, CLOSED) == StateRecord(OLD, 5, 1, essence=2)

    def test_the_base_of_another_release_says_nothing(self) -> None:
        foreign = REBASED._replace(essence=1)
        assert judged(foreign, OTHER, 5, OPEN) == REBASED._replace(base=essence_digest(OTHER))
        assert judged(foreign, NEW, 5, CLOSED) is None
        assert judged(foreign, OLD, 5, OPEN) is foreign

    def test_the_record_keeps_its_number_through_a_rewrite_that_compared_nothing(self) -> None:
        kept = decode_record(encode_record(FOREIGN._replace(refused="x")))
        assert (kept.essence, kept.foreign) == (1, True)
        assert decode_record(encode_record(StateRecord(OLD, 5, 1))).essence == 2
        assert decode_record(encode_record(REBASED)) == REBASED


# One collection.


def ended(began_at: float | None, **fields: Any) -> Page:
    sweep = None if began_at is None else Sweep(began_at)
    return Page((), joined({"after": "x"}, sweep), False, Path.SWEEP, **fields)


def test_the_window_ends_with_a_whole_page_or_a_sweep_that_began_in_it() -> None:
    assert OPEN.after(ended(99.0, complete=True)).open
    assert OPEN.after(ended(100.0)).open
    assert not OPEN.after(ended(100.0, complete=True)).open
    assert not OPEN.after(ended(None, whole=True)).open
    assert OPEN.missed_by(99.0)
    assert not OPEN.missed_by(100.0)
    assert not CLOSED.missed_by(99.0)


def test_a_window_begins_with_each_number_that_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Window.read(None, 10, 7.0).open
    monkeypatch.setattr(records, "ESSENCE", 2)
    assert Window.read(None, 10, 7.0) == Window(2, 7.0, open=True)
    assert not Window.read(None, 0, 7.0).open
    assert Window.read(CLOSED.encoded(), 10, 7.0) == CLOSED
    assert Window.read(OPEN.encoded(), 10, 7.0) == OPEN
    monkeypatch.setattr(records, "ESSENCE", 1)
    assert Window.read(CLOSED.encoded(), 10, 7.0) == Window(1, 7.0, open=True)


# One step.


def test_a_step_publishes_from_the_published_body_to_the_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Desk()
    first.absorb(page(customer("1", 1, first_name="A"), customer("2", 1)))
    first.commit()
    monkeypatch.setattr(records, "ESSENCE", 2)
    second = Desk(first.store)
    step = second.step.absorb(Collection.CUSTOMERS, page(customer("1", 1, first_name="A", x=1), customer("2", 1)))
    assert (step.events, step.unchanged, step.rebased) == (0, 2, 1)
    assert second.commit() == []
    assert second.body("1") == customer("1", first_name="A").body
    second.absorb(page(customer("1", 2, first_name="B", x=1)))
    [(_, event, _)] = second.commit()
    assert event["before"] == customer("1", first_name="A").body
    assert event["after"] == customer("1", first_name="B", x=1).body
    assert event["changed"] == ["/first_name", "/x"]
    stored = orjson.loads(second.store.get_many(["acme/customers/1"])["acme/customers/1"])
    assert "base" not in stored


def test_the_first_release_writes_nothing_about_its_projection() -> None:
    desk = Desk()
    desk.absorb(page(customer("1")))
    desk.commit()
    assert essence_key("acme", "customers") not in dict(desk.store.scan(""))


def test_a_rebased_document_is_deleted_as_it_was_published(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Desk()
    first.absorb(page(customer("1")))
    first.commit()
    monkeypatch.setattr(records, "ESSENCE", 2)
    second = Desk(first.store)
    second.absorb(page(customer("1", x=1)))
    second.absorb(page(), gone={"1": 0})
    [(_, event, _)] = second.commit()
    assert (event["before"], event["after"]) == (customer("1").body, None)


# Whatever happens, in whatever order.

UIDS = "abcd"
HAPPENINGS = st.lists(
    st.tuples(st.just("edit"), st.sampled_from(UIDS), st.booleans())
    | st.tuples(st.just("delete"), st.sampled_from(UIDS), st.just(True))
    | st.tuples(st.sampled_from(["poll", "sweep"]), st.just(""), st.just(True))
    | st.tuples(st.just("release"), st.sampled_from("123"), st.just(True)),
    max_size=40,
)


class Course:
    """A provider with a few documents, and releases that make different things of most of them."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[int, int]] = {}  # name, version
        self.told: dict[str, Body] = {}
        self.undated: set[str] = set()
        self.now = 1
        self.begin(1)

    def begin(self, release: int, store: Store | None = None) -> None:
        records.ESSENCE = release
        self.release, self.swept = release, store is None
        self.desk = Desk(store)
        self.show([])

    def shown(self, uid: str) -> Document:
        name, version = self.rows[uid]
        mapped = {} if uid == "a" else {"mapped": self.release * (uid != "b" or self.release > 1)}
        return Document(uid, {"uid": uid, "customer_id": uid, "name": name, **mapped}, version)

    def show(self, uids: Iterable[str], *, sweep: bool = False, gone: str = "") -> None:
        cursor = joined({"after": "x"}, Sweep(time.time()) if sweep else None)
        documents = [self.shown(uid) for uid in uids]
        path = Path.SWEEP if sweep else Path.POLL
        self.desk.absorb(Page(documents, cursor, False, path, complete=sweep), gone=dict.fromkeys(gone, 0))
        for _, event, headers in self.desk.commit():
            uid = event["key"].removeprefix("acme/")
            assert event["before"] == self.told.get(uid)
            kind = headers["ce_type"].decode().split(".")[2]
            assert kind != "updated" or "/name" in event["changed"], "told a difference of the projection"
            if event["after"] is None:
                del self.told[uid]
            else:
                self.told[uid] = event["after"]
        assert {uid: self.desk.body(uid) for uid in self.told} == self.told

    def happen(self, what: str, which: str, dated: bool) -> None:
        self.now += 1
        if what == "edit":
            # Without a date it may be taken for one of the projection, until everything was looked at.
            seen = self.rows.get(which)
            dated = dated or seen is None or not self.swept
            self.rows[which] = (self.now, self.now if dated or seen is None else seen[1])
            self.undated |= set() if dated else {which}
        elif what == "delete" and which in self.told and which in self.rows:
            del self.rows[which]
            self.show([], gone=which)
        elif what == "poll":
            self.show(self.rows)
        elif what == "sweep":
            self.show(self.rows, sweep=True)
            self.swept = True
        elif what == "release" and int(which) != self.release:
            self.show(self.undated & self.rows.keys())  # unseen they could not be told from the projection's doing
            self.begin(int(which), self.desk.store)


@settings(max_examples=200, deadline=None)
@given(HAPPENINGS)
def test_every_change_is_told_and_nothing_else_is(happenings: list[tuple[str, str, bool]]) -> None:
    essence = records.ESSENCE
    try:
        course = Course()
        for happening in happenings:
            course.happen(*happening)
        course.show(course.rows, sweep=True)
        assert {uid: body["name"] for uid, body in course.told.items()} == {
            uid: name for uid, (name, _) in course.rows.items()
        }
    finally:
        records.ESSENCE = essence


# Whole lives.


class Releases:
    """One house, lived in by several releases."""

    def __init__(self, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, sweep_s: float = 3600.0) -> None:
        self.house = House(clock, 50 if sweep_s > 60 else 500)
        self._monkeypatch = monkeypatch
        plan = ReadingPlan(5.0, sweep_s)
        plans = dict.fromkeys((Collection.CUSTOMERS, Collection.TAGS), plan)
        self.house.reader = replace(self.house.reader, plans=plans)

    def release(self, number: int) -> None:
        """From now on; each makes something more of the rows of half the customers."""

        def mapped(row: object, endpoint: str) -> Document | Gone | Reject:
            found = MAPPING(row, endpoint)
            if number == 1 or not isinstance(found, Document) or found.uid < "8":
                return found
            return found._replace(body={**found.body, "extra": {**found.body.get("extra", {}), "release": number}})

        self._monkeypatch.setattr(records, "ESSENCE", number)
        self._monkeypatch.setattr(models, "customer", mapped)
        self._monkeypatch.setattr(rows, "_RELEASE", str(number).encode())

    @property
    def uids(self) -> list[str]:
        """Of those whose document depends on the release."""
        return [uid for uid in self.house.world.customers.uids if uid >= "8"]

    def edit(self, uid: str, name: str) -> None:
        self.house.world.update_customer(self.customer_id(uid), {"first_name": name})

    def customer_id(self, uid: str) -> str:
        customers = self.house.world.customers
        return next(name for name, row in customers.live_row_of.items() if customers.uids[row] == uid)

    def record(self, uid: str) -> StateRecord:
        key = f"acme/customers/{uid}"
        return decode_record(self.house.store.get_many([key])[key])

    def prove(self) -> None:
        events = [
            Written(f"t.{topic}", 0, offset, 0, event.key, event.value, tuple(event.headers))
            for topic in ("customers", "tags")
            for offset, event in enumerate(self.house.kafka.events(topic))
        ]
        verdict = check(events, dict(self.house.store.scan("")))
        assert verdict.ok, kinds(verdict)

    async def prove_online(self) -> None:
        verdict = await compare(
            "acme", self.house.source.customers, lambda: self, self.house.clock, lambda *_: None, wait_s=1
        )
        assert verdict.ok, kinds(verdict)

    async def read(self, take: TakeState) -> None:
        prefix = "acme/customers/"
        for key, value in self.house.store.scan(prefix):
            take(key[len(prefix) :], decode_record(value))


def test_a_new_release_publishes_nothing_and_then_each_change_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(clock: VirtualClock) -> None:
        releases = Releases(clock, monkeypatch)
        house = releases.house
        await house.live(20)
        releases.release(2)
        await house.live(30)
        assert house.types("customers")[50:] == []
        assert [releases.record(uid).base is not None for uid in releases.uids] == [True] * len(releases.uids)
        releases.prove()
        await releases.prove_online()

        uid = releases.uids[0]
        releases.edit(uid, "Ada")
        await house.live(20)
        assert house.types("customers")[50:] == ["customer.updated.v1"]
        event = orjson.loads(house.kafka.events("customers")[-1].value or b"")
        assert event["changed"] == ["/extra/release", "/first_name"]
        assert releases.record(uid).base is None
        releases.prove()
        await releases.prove_online()

    run_virtual(main)


def test_what_did_not_differ_is_not_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(clock: VirtualClock) -> None:
        releases = Releases(clock, monkeypatch)
        await releases.house.live(20)
        before = dict(releases.house.store.scan("acme/customers/"))
        releases.release(2)
        await releases.house.live(30)
        after = dict(releases.house.store.scan("acme/customers/"))
        moved = {key.rpartition("/")[2] for key in before if after[key] != before[key]}
        assert moved == set(releases.uids)

    run_virtual(main)


def test_a_change_that_the_provider_does_not_date_is_told_once_everything_was_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also of documents that did not differ, whose records are still of the old number."""

    async def main(clock: VirtualClock) -> None:
        releases = Releases(clock, monkeypatch)
        house = releases.house
        house.api.switches = house.api.switches.changed({"rename_bumps_updated_at": False})
        await house.live(20)
        releases.release(2)
        await house.live(30)
        plain = next(uid for uid in house.world.customers.uids if uid not in releases.uids)
        for uid in (plain, releases.uids[0]):
            house.world.rename_customer(releases.customer_id(uid), f"new-{uid}")
        await house.live(3700)
        assert house.types("customers")[50:] == ["customer.renamed.v1"] * 2
        releases.prove()
        await releases.prove_online()

    run_virtual(main)


def test_a_downgrade_and_the_way_back_publish_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(clock: VirtualClock) -> None:
        releases = Releases(clock, monkeypatch)
        house = releases.house
        await house.live(20)
        for number in (2, 1, 2, 3, 1):
            releases.release(number)
            await house.live(30)
            releases.prove()
            await releases.prove_online()
        assert house.types("customers")[50:] == []
        releases.edit(releases.uids[1], "Bo")
        await house.live(20)
        assert house.types("customers")[50:] == ["customer.updated.v1"]
        releases.release(2)
        await house.live(30)
        assert house.types("customers")[50:] == ["customer.updated.v1"]
        releases.prove()
        await releases.prove_online()

    run_virtual(main)


def test_a_release_that_knows_no_base_publishes_nothing_of_what_was_rebased(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads the published body, and compares that with its own projection."""

    async def main(clock: VirtualClock) -> None:
        releases = Releases(clock, monkeypatch)
        house = releases.house
        await house.live(20)
        releases.release(2)
        await house.live(30)
        releases.release(1)
        plain = {
            key: encode_record(decode_record(value)._replace(base=None, essence=1))
            for key, value in house.store.scan("acme/customers/")
        }
        house.store.apply([*plain.items(), (essence_key("acme", "customers"), None)], house.store.position)
        await house.live(30)
        assert house.types("customers")[50:] == []

    run_virtual(main)


def test_a_sweep_under_way_when_the_release_came_is_not_taken_for_a_look_at_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main(clock: VirtualClock) -> None:
        releases = Releases(clock, monkeypatch, sweep_s=15.0)
        house = releases.house
        await house.live(5)
        house.api.switches = house.api.switches.changed({"page_latency_ms": 2000})
        await house.live(20)
        key = records.cursor_key("acme", "customers")
        assert "cursor" in records.decode_json(house.store.get_many([key])[key])["@sweep"]
        releases.release(2)
        house.api.switches = house.api.switches.changed({"page_latency_ms": 0})
        await house.live(60)
        assert house.types("customers")[500:] == []
        assert all(releases.record(uid).base is not None for uid in releases.uids)

    run_virtual(main)
