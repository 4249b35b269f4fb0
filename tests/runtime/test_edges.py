"""Edges in a step: one event each, the customer's document keeps them, nothing else of it moves."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from bridge.clock import Clock
from bridge.detect.edges import EdgeMove
from bridge.event.envelope import EventBuilder
from bridge.model import Account, Cause, Collection, Document, Gone, Path
from bridge.publish.topics import TopicPlan
from bridge.runtime.ledger import Ledger
from bridge.runtime.step import SourceStep, StepLimits
from bridge.source.feed import Page
from bridge.store.memory import MemoryStore
from bridge.store.record import counters_key, decode_counters, decode_record

ACCOUNT = Account("acme", "dintero", "T12345678")
CUSTOMERS, TAGS = Collection.CUSTOMERS, Collection.TAGS


class Desk:
    """A step over a store with customers 1 and 2 and tags a and b; `commit` does what the shard does."""

    def __init__(self, clock: Clock, **limits: Any) -> None:
        self.store = MemoryStore()
        self.ledger = Ledger(self.store)
        settings = StepLimits(**{"record_bytes_max": 100_000, **limits})
        self.step = SourceStep(EventBuilder(ACCOUNT), self.ledger, TopicPlan("b", 4), settings, clock)
        self.page(TAGS, *(Document(uid, {"uid": uid, "name": f"name of {uid}"}, 1) for uid in "ab"))
        self.page(CUSTOMERS, customer("1"), customer("2"), path=Path.SNAPSHOT)
        self.commit()

    def page(
        self, collection: Collection, *documents: Document, path: Path = Path.POLL, gone: tuple[str, ...] = ()
    ) -> tuple[str, ...]:
        result = self.step.absorb(collection, Page(documents, {"at": 1}, False, path))
        self.step.settle(collection, {uid: Gone(uid, 0) for uid in gone}, path)
        return tuple(result.touched)

    def move(self, *moves: tuple[str, str, bool], path: Path = Path.SWEEP) -> int:
        return self.step.absorb_edges([EdgeMove(*move) for move in moves], Cause(path))

    def commit(self) -> list[dict[str, Any]]:
        """The events, with their verb."""
        batch = self.ledger.take()
        self.ledger.settle(self.store.position + len(batch.state) + 1)
        return [
            {**orjson.loads(r.value or b""), "verb": dict(r.headers).get("ce_type", b"..").decode().split(".")[2]}
            for r in batch.records
        ]

    def tags(self, uid: str) -> list[str] | None:
        (value,) = self.store.get_many([f"acme/customers/{uid}"]).values()
        document = decode_record(value).document
        assert document is not None
        return document.get("tags")


def customer(uid: str, version: int = 1, **fields: Any) -> Document:
    return Document(uid, {"uid": uid, "customer_id": f"c-{uid}", **fields}, version)


class Still:
    """A clock that stands."""

    def wall(self) -> float:
        return 1_800_000_000.0

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None: ...


@pytest.fixture
def still() -> Desk:
    return Desk(Still())


def test_each_edge_is_an_event_with_the_documents_before_and_after_it(still: Desk) -> None:
    assert still.move(("1", "b", True), ("1", "a", True), ("2", "a", True), ("1", "b", False)) == 4
    events = still.commit()
    assert [(e["verb"], e["key"], e["tag"]) for e in events] == [
        ("tagged", "acme/1", {"uid": "b", "name": "name of b"}),
        ("tagged", "acme/1", {"uid": "a", "name": "name of a"}),
        ("tagged", "acme/2", {"uid": "a", "name": "name of a"}),
        ("untagged", "acme/1", {"uid": "b", "name": "name of b"}),
    ]
    assert [e["after"].get("tags") for e in events] == [["b"], ["a", "b"], ["a"], ["a"]]
    assert [e["before"].get("tags") for e in events] == [None, ["b"], None, ["a", "b"]]
    assert [e["sequence"] for e in events] == [5, 6, 7, 8]
    assert [e["prior"] for e in events] == [3, 5, 4, 6]
    assert {(tuple(e["changed"]), e["collection"], e["changed_at"]) for e in events} == {
        (("/tags",), "customers", "2027-01-15T08:00:00Z")
    }
    assert (still.tags("1"), still.tags("2")) == (["a"], ["a"])
    counters = decode_counters(still.store.get_many([counters_key("acme")])[counters_key("acme")])
    assert counters == (8, 0, {"tags": 2, "customers": 2})
    assert still.step.edges_moved == 2


def test_an_edge_that_is_so_already_is_nothing(still: Desk) -> None:
    still.move(("1", "a", True))
    still.commit()
    assert still.move(("1", "a", True), ("2", "b", False)) == 0
    assert still.ledger.open.empty


def test_edges_of_unknown_customers_and_unknown_or_doomed_tags_are_dropped(still: Desk) -> None:
    assert still.move(("9", "a", True), ("1", "z", True)) == 0
    still.move(("1", "b", True))
    still.step.doom("b")
    assert still.move(("2", "b", True)) == 0
    assert still.move(("1", "b", False)) == 1
    assert [(e["verb"], e["tag"]["name"]) for e in still.commit()] == [
        ("tagged", "name of b"),
        ("untagged", "name of b"),
    ]


def test_an_edge_whose_tag_is_not_known_any_more_leaves_under_the_tags_uid(still: Desk) -> None:
    still.move(("1", "b", True))
    still.page(TAGS, gone=("b",))
    still.commit()
    assert still.move(("1", "b", False)) == 1
    assert [e["tag"] for e in still.commit()] == [{"uid": "b", "name": "b"}]


def test_a_customers_row_keeps_the_tags_through_updates_renames_and_new_change_times(still: Desk) -> None:
    still.move(("1", "a", True))
    still.commit()
    assert still.page(CUSTOMERS, customer("1", 2)) == ("1",)
    assert still.commit() == []
    assert still.page(CUSTOMERS, customer("1", 3, first_name="A")) == ("1",)
    still.page(CUSTOMERS, Document("1", {"uid": "1", "customer_id": "new", "first_name": "A"}, 4))
    events = still.commit()
    assert [e["verb"] for e in events] == ["updated", "renamed"]
    assert all(e["before"]["tags"] == e["after"]["tags"] == ["a"] for e in events)
    assert [e["changed"] for e in events] == [["/first_name"], ["/customer_id"]]
    assert still.tags("1") == ["a"]
    assert still.page(CUSTOMERS, customer("1", 3)) == ()


def test_a_deleted_customer_loses_its_tags_and_comes_back_without_any(still: Desk) -> None:
    still.move(("1", "a", True))
    still.page(CUSTOMERS, gone=("1",))
    still.page(CUSTOMERS, customer("1", 9))
    events = still.commit()
    assert [e["verb"] for e in events] == ["tagged", "deleted", "created"]
    assert events[1]["before"]["tags"] == ["a"]
    assert "tags" not in events[2]["after"]
    assert still.step.edges_moved == 0
    assert list(still.store.members("acme", "a")) == []


def test_an_edge_found_by_a_silent_first_reading_is_kept_without_an_event_unless_there_was_one() -> None:
    desk = Desk(Still(), silent_snapshot=True)
    desk.page(CUSTOMERS, customer("2", 2, first_name="B"))
    desk.commit()
    assert desk.move(("1", "a", True), ("2", "a", True), path=Path.SNAPSHOT) == 2
    assert [(e["verb"], e["key"], e["cause"]["path"]) for e in desk.commit()] == [("tagged", "acme/2", "snapshot")]
    assert (desk.tags("1"), desk.tags("2")) == (["a"], ["a"])
    desk.move(("1", "b", True))
    assert [(e["verb"], e["prior"]) for e in desk.commit()] == [("tagged", 0)]


def test_an_edge_that_would_make_a_customer_too_large_is_refused_once() -> None:
    desk = Desk(Still(), record_bytes_max=2_500)
    desk.page(CUSTOMERS, customer("1", 2, first_name="x" * 900))
    desk.commit()
    assert desk.move(("1", "a", True)) == 0
    assert desk.ledger.open.deadletters == ["too_large"]
    desk.ledger.take()
    desk.ledger.settle(99)
    assert desk.move(("1", "a", True)) == 0
    assert desk.ledger.open.empty
    assert desk.tags("1") is None
