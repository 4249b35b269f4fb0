"""Verifying a provider whose customers say which tags they have, and one that merges customers."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator

from bridge.detect.diff import Change
from bridge.event.catalog import MERGED
from bridge.event.envelope import ContentMode, EventBuilder, Position
from bridge.event.schema import schemas
from bridge.model import Account, Cause, Collection, Path
from bridge.source.memberships import Untold
from bridge.verify.event import NotAnEvent, decode
from bridge.verify.memberships import compare_memberships
from bridge.verify.told import ToldReader
from bridge.verify.verdict import Verdict
from tests.source.rebilly.organization import START, Organization, Ways
from tests.support.clock import VirtualClock, run_virtual
from tests.verify.test_memberships import State

ACCOUNT = Account("acme", "rebilly", "org_1")
HELD = {"1": {"x"}, "2": {"x", "y"}, "3": set[str](), "4": {"y"}}


MINUTE_AGO = START - 60_000_000


def look(state: dict[str, set[str]], provider: dict[str, set[str]]) -> Verdict:
    async def main(clock: VirtualClock) -> Verdict:
        organization = Organization(clock, Ways(limit_max=2))
        for tag in "xyz":
            organization.add_tag(tag, tag, at=MINUTE_AGO)
        for number, (uid, tags) in enumerate(provider.items()):
            organization.create(uid, MINUTE_AGO - number * 1_000_000, tags=sorted(tags))
        source = organization.source()
        reader = ToldReader(source.feeds[Collection.CUSTOMERS], source.customers)
        return await compare_memberships("acme", reader, State(state).view, clock, lambda *_: None, wait_s=10)

    return run_virtual(main)


def test_the_same_edges_are_ok_and_tags_that_the_state_does_not_have_are_none_of_its_business() -> None:
    assert look(HELD, HELD).ok
    assert look(HELD, HELD | {"3": {"z"}}).ok


@pytest.mark.parametrize(("uid", "tags", "kind"), [("3", {"x"}, "provider_more"), ("2", {"x"}, "provider_less")])
def test_an_edge_on_one_side_only_is_a_finding(uid: str, tags: set[str], kind: str) -> None:
    verdict = look(HELD, HELD | {uid: tags})
    assert [(finding.kind, finding.text.split(":")[0]) for finding in verdict.findings] == [
        (kind, f"acme/customers/{uid}")
    ]


def test_a_customer_that_is_gone_has_no_tags() -> None:
    async def main(clock: VirtualClock) -> None:
        organization = Organization(clock)
        source = organization.source()
        reader = ToldReader(source.feeds[Collection.CUSTOMERS], source.customers)
        organization.create("1")
        shown = (await source.customers.page(None)).documents[0]
        del organization.customers["1"]
        assert await reader.tags(shown, urgent=True) is Untold.GONE
        assert await reader.count("x") is None

    run_virtual(main)


class Read:
    """What a consumer got. Implements `Recorded`."""

    def __init__(self, mode: ContentMode, **data: Any) -> None:
        before = {"uid": "cus_1", "customer_id": "cus_1"}
        event = EventBuilder(ACCOUNT, mode).build(
            MERGED,
            "cus_1",
            Change(before, None, ()),
            Position(7, 3, 0),
            cause=Cause(Path.SWEEP),
            changed_at=START,
            detected_at=START,
            before_json=orjson.dumps(before),
            after_json=None,
            into="cus_2",
        )
        value = orjson.loads(event.value)
        (value if mode is ContentMode.BINARY else value["data"]).update(data)
        self.key: bytes | None = event.key
        self.value: bytes | None = orjson.dumps(value)
        self.headers: tuple[tuple[str, bytes | None], ...] = tuple(event.headers)


@pytest.mark.parametrize("mode", ContentMode)
def test_a_merge_is_read_back_with_both_ids(mode: ContentMode) -> None:
    event = decode(Read(mode))
    assert (event.verb, event.uid, event.data["into"], event.after) == ("merged", "cus_1", "cus_2", None)
    Draft202012Validator(schemas()["customer.merged.v1.json"]).validate(event.data)
    assert not Draft202012Validator(schemas()["customer.merged.v1.json"]).is_valid(event.data | {"into": None})


@pytest.mark.parametrize(
    "data", [{"into": None}, {"into": ""}, {"into": "cus_1"}, {"into": 2}, {"after": {"uid": "x"}}]
)
def test_a_merge_that_says_nothing_of_another_is_no_event(data: dict[str, Any]) -> None:
    with pytest.raises(NotAnEvent):
        decode(Read(ContentMode.BINARY, **data))
