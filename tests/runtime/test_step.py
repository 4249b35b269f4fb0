"""One step: from a page to events, state and cursor, all of it in one batch."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from bridge.clock import SystemClock
from bridge.event.envelope import EventBuilder
from bridge.model import Account, Body, Collection, Document, Gone, Path, Reject
from bridge.publish.topics import TopicPlan
from bridge.runtime.ledger import Ledger
from bridge.runtime.step import SourceStep, StepLimits
from bridge.source.feed import Page
from bridge.store.base import Store
from bridge.store.memory import MemoryStore
from bridge.store.record import counters_key, decode_counters, decode_record

TOPICS = TopicPlan("b", 4)
ACCOUNT = Account("acme", "dintero", "T12345678")
CUSTOMERS = Collection.CUSTOMERS


def customer(uid: str, version: int = 1, **fields: Any) -> Document:
    return Document(uid, {"uid": uid, "customer_id": f"c-{uid}", **fields}, version)


def page(*documents: Document, path: Path = Path.POLL, after: str = "x", rejects: tuple[Reject, ...] = ()) -> Page:
    return Page(documents, {"after": after}, False, path, rejects=rejects)


class Desk:
    """A step over a store; `commit` does what the shard does after Kafka said yes."""

    def __init__(self, store: Store | None = None, **limits: Any) -> None:
        self.store = store or MemoryStore()
        self.ledger = Ledger(self.store)
        settings = StepLimits(**{"record_bytes_max": 100_000, **limits})
        self.step = SourceStep(EventBuilder(ACCOUNT), self.ledger, TOPICS, settings, SystemClock())

    def absorb(self, page: Page, collection: Collection = CUSTOMERS, gone: dict[str, int] | None = None) -> None:
        self.step.absorb(collection, page)
        if gone:
            self.step.settle(collection, {uid: Gone(uid, at) for uid, at in gone.items()}, page.path)

    def commit(self) -> list[tuple[str, Any, dict[str, bytes]]]:
        """What was in the batch for other topics: (topic, JSON, headers)."""
        batch = self.ledger.take()
        self.ledger.settle(self.store.position + len(batch.state))
        return [(r.topic, orjson.loads(r.value or b"null"), dict(r.headers)) for r in batch.records]

    def body(self, uid: str) -> Body | None:
        stored = self.store.get_many([f"acme/customers/{uid}"])
        return decode_record(stored[f"acme/customers/{uid}"]).document if stored else None


def types(events: list[tuple[str, Any, dict[str, bytes]]]) -> list[str]:
    return [headers["ce_type"].decode().removeprefix("bridge.") for _, _, headers in events]


def test_a_life_from_first_sight_to_deletion_and_back() -> None:
    desk = Desk()
    seen: list[tuple[str, int, int]] = []
    for step in (
        page(customer("1"), customer("2"), path=Path.SNAPSHOT),
        page(customer("1", 2, first_name="A")),
        page(Document("1", {"uid": "1", "customer_id": "new", "first_name": "B"}, 3)),
    ):
        desk.absorb(step)
        events = desk.commit()
        seen += [(kind, e["sequence"], e["prior"]) for kind, (_, e, _) in zip(types(events), events, strict=True)]
    desk.absorb(page(after="y"), gone={"1": 5_000_000})
    events = desk.commit()
    assert types(events) == ["customer.deleted.v1"]
    assert events[0][1]["changed_at"] == "1970-01-01T00:00:05Z"
    assert (events[0][1]["prior"], events[0][1]["after"]) == (4, None)
    assert desk.body("1") is None
    desk.absorb(page(customer("1", 6)))
    again = desk.commit()
    assert [(e["sequence"], e["prior"]) for _, e, _ in again] == [(6, 0)]
    assert seen == [
        ("customer.snapshot.v1", 1, 0),
        ("customer.snapshot.v1", 2, 0),
        ("customer.updated.v1", 3, 1),
        ("customer.renamed.v1", 4, 3),
    ]
    counters = decode_counters(desk.store.get_many([counters_key("acme")])[counters_key("acme")])
    assert counters == (6, 1, {"customers": 2})


@pytest.mark.parametrize(
    ("version", "revision", "disputed"),
    [
        (5, 3, True),
        (5, 0, True),
        (0, 3, True),
        (0, 0, True),
        (5, 2, False),  # older
        (5, 4, False),  # newer
        (0, 4, False),
        (4, 3, False),
        (6, 3, False),
    ],
)
def test_only_a_copy_that_nothing_orders_is_disputed(version: int, revision: int, disputed: bool) -> None:
    desk = Desk()
    known = customer("1", 5)._replace(revision=3)
    desk.absorb(page(known))
    assert desk.step.disputed(CUSTOMERS, [known]) == [], "it says nothing else"
    copy = customer("1", version, first_name="A")._replace(revision=revision)
    assert desk.step.disputed(CUSTOMERS, [copy]) == ([known] if disputed else [])


def test_two_collections_count_together() -> None:
    desk = Desk()
    desk.absorb(page(customer("1")))
    desk.absorb(page(Document("t", {"uid": "t", "name": "VIP"}, 1)), Collection.TAGS)
    desk.absorb(page(customer("2")))
    assert [(topic, event["sequence"]) for topic, event, _ in desk.commit()] == [
        ("b.customers", 1),
        ("b.tags", 2),
        ("b.customers", 3),
    ]


def test_a_page_is_compared_with_what_is_still_pending() -> None:
    desk = Desk()
    desk.absorb(page(customer("1")))
    desk.absorb(page(customer("1")))
    flying = desk.ledger.take()
    desk.absorb(page(customer("1")))
    desk.absorb(page(customer("1", 2, first_name="A")))
    assert len(flying.records) == 1
    desk.ledger.settle(1)
    assert types(desk.commit()) == ["customer.updated.v1"]


def test_an_older_copy_is_ignored_and_of_two_in_a_page_the_newer_counts() -> None:
    desk = Desk()
    desk.absorb(page(customer("1", 5, first_name="new"), customer("1", 4, first_name="old")))
    assert [event["after"]["first_name"] for _, event, _ in desk.commit()] == ["new"]
    desk.absorb(page(customer("1", 3, first_name="older")))
    assert desk.commit() == []
    assert (desk.body("1") or {})["first_name"] == "new"


def test_a_change_that_does_not_count_leaves_the_state_as_published() -> None:
    desk = Desk()
    desk.absorb(page(customer("1", 1, updated_at="a")))
    desk.commit()
    desk.absorb(page(customer("1", 2, updated_at="b")))
    assert desk.commit() == []
    assert (desk.body("1") or {})["updated_at"] == "a"


def test_a_copy_from_before_a_change_that_does_not_count_is_not_taken_for_newer() -> None:
    desk = Desk()
    desk.absorb(page(customer("1", 1, first_name="A")))
    desk.commit()
    desk.absorb(page(customer("1", 3, first_name="A", updated_at="3")))
    desk.commit()
    desk.absorb(page(customer("1", 2, first_name="B")))
    assert desk.commit() == []
    desk.absorb(page(customer("1", 4, first_name="B")))
    assert types(desk.commit()) == ["customer.updated.v1"]


def test_after_a_crash_the_same_change_has_the_same_id() -> None:
    ids = []
    for _ in range(2):
        desk = Desk()
        desk.absorb(page(customer("1")))
        ids.append(desk.commit()[0][2]["ce_id"])
    assert ids[0] == ids[1]


def test_a_silent_snapshot_is_stored_and_not_published() -> None:
    desk = Desk(silent_snapshot=True)
    desk.absorb(page(customer("1"), path=Path.SNAPSHOT))
    assert desk.commit() == []
    desk.absorb(page(customer("1", 2, first_name="A"), customer("2")))
    assert [(kind, e["prior"]) for kind, (_, e, _) in zip(*both(desk.commit()), strict=True)] == [
        ("customer.updated.v1", 0),
        ("customer.created.v1", 0),
    ]


def both(events: list[tuple[str, Any, dict[str, bytes]]]) -> tuple[list[str], list[tuple[str, Any, dict[str, bytes]]]]:
    return types(events), events


def test_a_malformed_row_goes_to_the_dead_letters_once_and_the_rest_goes_on() -> None:
    desk = Desk()
    reject = Reject("9", "customers.list", "email: a string is needed", b'{"id":"9","email":5}')
    desk.absorb(page(customer("1"), rejects=(reject,)))
    written = desk.commit()
    assert [topic for topic, _, _ in written] == ["b.customers", "b.deadletters"]
    _, raw, headers = written[1]
    assert raw == {"id": "9", "email": 5}
    assert headers["reason"] == b"malformed"
    assert headers["uid"] == b"9"
    desk.absorb(page(customer("1"), rejects=(reject,)))
    assert desk.commit() == []
    desk.absorb(page(customer("1"), rejects=(reject._replace(raw=b'{"id":"9","email":6}'),)))
    assert len(desk.commit()) == 1
    desk.absorb(page(customer("9")))
    assert types(desk.commit()) == ["customer.created.v1"]


def test_a_row_without_an_id_is_reported_once_too() -> None:
    desk = Desk()
    for expected in (1, 0):
        desk.absorb(page(rejects=(Reject(None, "tags.list", "id: missing", b"{}"),)), Collection.TAGS)
        assert len(desk.commit()) == expected


def test_a_document_that_is_too_large_leaves_the_published_state_and_takes_no_number() -> None:
    desk = Desk(record_bytes_max=3_000)
    desk.absorb(page(customer("1")))
    desk.commit()
    large = customer("1", 2, first_name="x" * 5_000)
    desk.absorb(page(large))
    (written,) = desk.ledger.open.records
    assert written.topic == "b.deadletters"
    assert dict(written.headers)["reason"] == b"too_large"
    assert dict(written.headers)["cut"] == b"true"
    desk.ledger.take()
    desk.ledger.settle(99)
    desk.absorb(page(large))
    assert desk.commit() == []
    assert (desk.body("1") or {}).get("first_name") is None
    desk.absorb(page(customer("1", 3, first_name="short")))
    assert [(e["sequence"], e["prior"]) for _, e, _ in desk.commit()] == [(2, 1)]


def test_a_document_that_is_too_large_is_refused_in_a_silent_snapshot_too() -> None:
    desk = Desk(record_bytes_max=2_000, silent_snapshot=True)
    desk.absorb(page(customer("1", big="x" * 3_000), customer("2"), path=Path.SNAPSHOT))
    assert all(len(value or b"") < 2_000 for value in desk.ledger.open.state.values())
    assert desk.ledger.open.deadletters == ["too_large"]
    desk.ledger.settle(None)
    assert desk.step.documents(CUSTOMERS) == 1


def test_a_document_without_a_time_does_not_make_the_next_change_look_old() -> None:
    desk = Desk()
    desk.absorb(page(customer("1", 0, first_name="A")))
    desk.absorb(page(customer("1", 5, first_name="B")))  # long before our own time
    desk.absorb(page(customer("1", 0, first_name="C")))
    desk.absorb(page(customer("1", 4, first_name="B")))  # an older copy, compared with the last time that was given
    assert types(desk.commit()) == ["customer.created.v1", "customer.updated.v1", "customer.updated.v1"]
    body = desk.body("1")
    assert body is not None
    assert body["first_name"] == "C"


def test_only_refused_copies_are_forgotten_without_an_event() -> None:
    desk = Desk()
    desk.absorb(page(rejects=(Reject("9", "customers.list", "x", b"{}"),)))
    desk.commit()
    desk.absorb(page(after="z"), gone={"9": 0})
    assert desk.commit() == []
    assert desk.store.get_many(["acme/customers/9"]) == {}


def test_the_cursor_travels_with_the_step_and_an_unchanged_one_costs_nothing() -> None:
    desk = Desk()
    assert desk.step.cursor(CUSTOMERS) is None
    desk.absorb(page(after="1"))
    assert desk.step.cursor(CUSTOMERS) == {"after": "1"}
    desk.commit()
    desk.absorb(page(after="1"))
    assert desk.ledger.open.empty
    assert Desk(desk.store).step.cursor(CUSTOMERS) == {"after": "1"}


@pytest.mark.parametrize("uid", ["a/b", "..", "%2f", "ø", "a b"])
def test_any_uid_is_found_again(uid: str) -> None:
    desk = Desk()
    desk.absorb(page(customer(uid)))
    desk.commit()
    assert desk.step.known_uids(CUSTOMERS) == [uid]
    assert [document.uid for document in desk.step.known(CUSTOMERS, [uid, "nobody"])] == [uid]
