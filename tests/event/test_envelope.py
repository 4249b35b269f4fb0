"""Events as others see them: CloudEvents in the Kafka binding, valid against the committed schemas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from cloudevents.v1.kafka import KafkaMessage, from_binary, from_structured
from jsonschema import Draft202012Validator

from bridge.commands.schema import schemas as all_schemas
from bridge.detect.diff import detect
from bridge.event.catalog import CATALOG, RENAMED, classify
from bridge.event.documents import DOCUMENTS
from bridge.event.envelope import ContentMode, Event, EventBuilder, Position, event_id
from bridge.event.schema import incompatible, schemas, stale
from bridge.model import Account, Cause, Collection
from bridge.model import Path as Route

ACCOUNT = Account("acme", "dintero", "T12345678")
REPOSITORY = Path(__file__).parents[2]
BEFORE = {"uid": "u/1", "customer_id": "c-1", "first_name": "Åse"}
AFTER = {"uid": "u/1", "customer_id": "c-2", "first_name": "Åse"}


def build(before: Any, after: Any, mode: ContentMode = ContentMode.BINARY) -> Event:
    change = detect(before, after)
    assert change is not None
    kind = classify(Collection.CUSTOMERS, change, Route.POLL)
    return EventBuilder(ACCOUNT, mode).build(
        kind,
        "u/1",
        change,
        Position(7, 3, 0),
        cause=Cause(Route.POLL),
        changed_at=1_000_000,
        detected_at=2_500_000,
        before_json=None if before is None else orjson.dumps(before),
        after_json=None if after is None else orjson.dumps(after),
    )


def decode(event: Event) -> Any:
    message = KafkaMessage(headers=dict(event.headers), key=event.key, value=event.value)
    return from_structured(message) if len(event.headers) == 1 else from_binary(message)


@pytest.mark.parametrize("mode", list(ContentMode))
def test_the_official_sdk_reads_the_event(mode: ContentMode) -> None:
    event = decode(build(BEFORE, AFTER, mode=mode))
    assert event["type"] == "bridge.customer.renamed.v1"
    assert event["source"] == "/dintero/T12345678"
    assert event["subject"] == "u/1"
    assert event["sequence"] == "7"
    assert event["time"] == "1970-01-01T00:00:01Z"
    assert event["dataschema"] == RENAMED.schema_id
    data = orjson.loads(event.data) if isinstance(event.data, bytes | str) else event.data
    assert (data["from"], data["to"], data["prior"], data["key"]) == ("c-1", "c-2", 3, "acme/u/1")
    assert (data["before"], data["after"]) == (BEFORE, AFTER)


@pytest.mark.parametrize(
    ("before", "after", "name"),
    [
        (None, AFTER, "customer.created"),
        (BEFORE, None, "customer.deleted"),
        (BEFORE, AFTER, "customer.renamed"),
        (BEFORE, {**BEFORE, "first_name": "Ase"}, "customer.updated"),
    ],
)
def test_every_event_validates_against_its_own_schema_and_no_other(before: Any, after: Any, name: str) -> None:
    data = orjson.loads(build(before, after).value)
    files = schemas()
    Draft202012Validator(files[f"{name}.v1.json"]).validate(data)
    wrong = "customer.deleted" if name != "customer.deleted" else "customer.created"
    assert not Draft202012Validator(files[f"{wrong}.v1.json"]).is_valid(data)


def test_the_same_change_has_the_same_id_and_another_one_has_not() -> None:
    after = orjson.dumps(AFTER)
    ids = [
        event_id("k", "t", Position(7, 3, 0), after),
        event_id("k", "t", Position(9, 3, 4), after),  # detected again in another order: the same
        event_id("k", "t", Position(7, 4, 0), after),
        event_id("k", "t", Position(7, 0, 0), after),
        event_id("k", "t", Position(7, 0, 1), after),  # the key's second life
        event_id("k", "u", Position(7, 3, 0), after),
        event_id("k", "t", Position(7, 3, 0), None),
    ]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 6


def test_a_first_sight_is_a_snapshot_only_in_the_initial_read() -> None:
    change = detect(None, AFTER)
    assert change is not None
    assert classify(Collection.CUSTOMERS, change, Route.SNAPSHOT).name == "customer.snapshot"
    assert classify(Collection.CUSTOMERS, change, Route.SWEEP).name == "customer.created"
    assert classify(Collection.TAGS, change, Route.POLL).name == "tag.created"


def test_the_committed_schemas_are_current() -> None:
    assert stale(REPOSITORY / "schemas", all_schemas()) == [], "run `make schemas` and commit the result"
    assert len(schemas()) == len(CATALOG) + len(DOCUMENTS) + 1
    for schema in all_schemas().values():
        Draft202012Validator.check_schema(schema)


def test_schema_diff_names_what_a_consumer_would_miss() -> None:
    old, new = schemas(), schemas()
    assert incompatible(old, new) == []
    del new["tag.deleted.v1.json"]
    new["tag.created.v1.json"]["required"].remove("sequence")
    del new["tag.created.v1.json"]["properties"]["key"]
    new["tag.created.v1.json"]["properties"]["prior"] = {"type": ["integer", "null"]}
    assert incompatible(old, new) == [
        "tag.created.v1.json: /sequence is no longer always there",
        "tag.created.v1.json: /key is gone",
        "tag.created.v1.json: /prior may now be null",
        "tag.deleted.v1.json: the type is gone",
    ]
    new = schemas()
    new["tag.created.v1.json"]["properties"]["more"] = {"type": "string"}
    new["new.v1.json"] = {}
    assert incompatible(old, new) == []
