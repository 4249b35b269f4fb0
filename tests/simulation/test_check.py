"""The check finds what it is for: each wrong stream of events has its finding, and the right one has none.

One provider, a few moments of its life, and events as a bridge might have told them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from bridge.commands.command import Kind, SignalKind
from bridge.detect.scan import DeleteLimit
from bridge.model import Body, Collection, Document, iso, key_of
from bridge.sandbox.population.life import Rates
from bridge.sandbox.simulation.check import claims, equal, explained
from bridge.sandbox.simulation.process import Claim
from bridge.sandbox.simulation.promises import Answered, held, pauses
from bridge.sandbox.simulation.provider import Loss
from bridge.sandbox.simulation.signals import Sent
from bridge.sandbox.simulation.told import Kept, Told
from bridge.sandbox.simulation.truth import History, digest_of
from bridge.sandbox.simulation.vendors import Dintero
from bridge.sandbox.world import World
from bridge.source.dintero import models
from bridge.verify.event import SeenEvent
from tests.support.clock import WALL_START

SOURCE = "s"
READ = (Collection.CUSTOMERS, Collection.TAGS, Collection.MEMBERSHIPS)
STEP_S = 10.0
"""Between two changes of the provider; events are told a second after what they tell."""

MOMENT_S = 0.001
"""Who is asked at the very moment of a change need not have seen it."""


class StandingClock:
    """Nothing here waits. Implements `Clock`."""

    def wall(self) -> float:
        return WALL_START

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nobody sleeps here")


@dataclass
class Town:
    """A provider with one customer and one tag, its history, and events in the order of their sequence."""

    world: World = field(default_factory=lambda: World(1, 1, 1, Rates(), StandingClock()))
    events: list[Told] = field(default_factory=list)
    now: float = WALL_START

    def __post_init__(self) -> None:
        self.world.register.retag(0, (), self.now)
        self.history = History(self.world, Dintero())
        self.customer = self.world.customers.uids[0]
        self.tag = next(iter(self.world.tags))
        self.tell("tags", self.tag, "snapshot", None, self.shown_tag())
        self.tell("customers", self.customer, "snapshot", None, self.shown())

    def shown(self, *tags: str) -> Body:
        """The customer as the bridge has it."""
        document = models.customer(self.world.register.document(0), "")
        assert isinstance(document, Document)
        return {**document.body, **({"tags": sorted(tags)} if tags else {})}

    def shown_tag(self) -> Body:
        document = models.tag(self.world.tags[self.tag], "")
        assert isinstance(document, Document)
        return document.body

    def change(self, act: Callable[..., Any], *args: Any) -> None:
        """Something happens at the provider. `Any`: whatever the world takes."""
        self.now += STEP_S
        act(*args, at=self.now)
        self.history.update()

    def tag_it(self, *tags: str) -> None:
        self.change(self.world.set_customer_tags, self.world.customers.customer_ids[0], tags)

    def tell(self, collection: str, uid: str, verb: str, before: Body | None, after: Body | None, **data: Any) -> None:
        """An event, a second after the last change. `Any`: JSON."""
        number = len(self.events) + 1
        body = {"detected_at": iso(int((self.now + 1) * 1e6)), "changed": [], **data}
        noun = collection.removesuffix("s")
        event = SeenEvent(
            f"bridge.{noun}.{verb}.v1", str(number), SOURCE, collection, uid, number, 0, before, after, body
        )
        self.events.append(Told(event, self.now + 1, None if after is None else digest_of(after)))

    def tell_edge(self, verb: str, before: Body, after: Body, tag: str | None = None) -> None:
        told = {"uid": tag or self.tag, "name": "VIP"}
        self.tell("customers", self.customer, verb, before, after, tag=told, changed=["/tags"])

    def findings(self) -> list[str]:
        return list(explained(READ, self.history, self.events))

    def claim(self, collection: Collection, until: float) -> list[str]:
        return list(claims([Claim(SOURCE, collection, self.now + 2, until)], self.history, self.events, 0.0))


@pytest.fixture
def town() -> Town:
    return Town()


@pytest.fixture
def tagged(town: Town) -> Town:
    """The customer has got the tag, and so it was told."""
    town.tag_it(town.tag)
    town.tell_edge("tagged", town.shown(), town.shown(town.tag))
    return town


def test_a_true_story_has_no_findings(tagged: Town) -> None:
    tagged.tag_it()
    tagged.tell_edge("untagged", tagged.shown(tagged.tag), tagged.shown())
    tagged.change(tagged.world.delete_customer, tagged.world.customers.customer_ids[0])
    tagged.tell("customers", tagged.customer, "deleted", tagged.events[-1].event.after, None)
    tagged.change(tagged.world.delete_tag, tagged.tag)
    tagged.tell("tags", tagged.tag, "deleted", tagged.events[0].event.after, None)
    assert tagged.findings() == []
    for collection in READ:
        assert tagged.claim(collection, tagged.now + MOMENT_S) == []


def test_who_is_asked_at_a_moment_need_not_have_seen_what_happens_just_then(town: Town) -> None:
    town.change(town.world.rename_customer, town.world.customers.customer_ids[0], "new")
    [(_, at)] = [(each.kind, each.at) for each in town.world.truth.after(0) if each.kind == "renamed"]
    town.now += 5
    assert len(town.claim(Collection.CUSTOMERS, at + MOMENT_S)) == 1
    assert town.claim(Collection.CUSTOMERS, at) == []


def test_an_edge_that_never_was_is_found(town: Town) -> None:
    town.tell_edge("tagged", town.shown(), town.shown(town.tag))
    assert any("never" in finding for finding in town.findings())


def test_an_edge_that_flips_back_is_found(tagged: Town) -> None:
    """A page that was read before the tag was taken away, and came after."""
    tagged.tag_it()
    tagged.tell_edge("untagged", tagged.shown(tagged.tag), tagged.shown())
    tagged.tell_edge("tagged", tagged.shown(), tagged.shown(tagged.tag))
    assert any("was not true any more" in finding for finding in tagged.findings())


def test_an_edge_that_is_told_before_it_happens_is_found(town: Town) -> None:
    town.tell_edge("tagged", town.shown(), town.shown(town.tag))
    town.tag_it(town.tag)
    assert any("before it happened" in finding for finding in town.findings())


def test_an_update_that_loses_the_tags_is_found(tagged: Town) -> None:
    before = tagged.shown(tagged.tag)
    tagged.change(tagged.world.update_customer, tagged.world.customers.customer_ids[0], {"first_name": "Åse"})
    tagged.tell("customers", tagged.customer, "updated", before, tagged.shown())
    assert any("changes the tags" in finding for finding in tagged.findings())


def test_an_edge_that_changes_more_than_itself_is_found(town: Town) -> None:
    before = town.shown()
    town.change(town.world.update_customer, town.world.customers.customer_ids[0], {"first_name": "Åse"})
    town.tag_it(town.tag)
    town.tell_edge("tagged", before, town.shown(town.tag))
    assert any("more than the tags" in finding for finding in town.findings())


def test_two_edges_in_one_event_are_found(town: Town) -> None:
    town.change(town.world.create_tag, "second")
    second = list(town.world.tags)[-1]
    town.tell("tags", second, "created", None, {**town.shown_tag(), "uid": second})
    town.tag_it(town.tag, second)
    town.tell_edge("tagged", town.shown(), town.shown(town.tag, second))
    assert any("not one edge" in finding for finding in town.findings())


def test_an_edge_of_a_tag_that_the_stream_does_not_have_is_found(town: Town) -> None:
    town.change(town.world.create_tag, "second")
    second = list(town.world.tags)[-1]
    town.tag_it(second)
    town.tell_edge("tagged", town.shown(), town.shown(second), second)
    assert any("which the stream does not have" in finding for finding in town.findings())


def test_an_edge_of_a_customer_that_was_deleted_is_found(tagged: Town) -> None:
    before = tagged.shown(tagged.tag)
    tagged.change(tagged.world.delete_customer, tagged.world.customers.customer_ids[0])
    tagged.tell("customers", tagged.customer, "deleted", before, None)
    tagged.tell_edge("untagged", before, {**before, "tags": []})
    assert any("a customer that the stream does not have" in finding for finding in tagged.findings())


def test_a_tag_that_is_deleted_before_its_edges_is_found(tagged: Town) -> None:
    shown = tagged.shown_tag()
    tagged.change(tagged.world.delete_tag, tagged.tag)
    tagged.tell("tags", tagged.tag, "deleted", shown, None)
    assert any("before 1 of its members" in finding for finding in tagged.findings())
    tagged.tell_edge("untagged", tagged.shown(tagged.tag), tagged.shown())
    assert any("after the deletion of its tag" in finding for finding in tagged.findings())


def test_a_deletion_of_who_is_there_is_found(town: Town) -> None:
    town.tell("customers", town.customer, "deleted", town.shown(), None)
    assert any(finding.startswith("I5") for finding in town.findings())


@pytest.mark.parametrize("verb", ["updated", "renamed"])
def test_a_rename_is_told_as_such_and_nothing_else_is(town: Town, verb: str) -> None:
    before, old = town.shown(), town.world.customers.customer_ids[0]
    if verb == "updated":
        town.change(town.world.rename_customer, old, "new")
    else:
        town.change(town.world.update_customer, old, {"first_name": "Åse"})
    town.tell("customers", town.customer, verb, before, town.shown(), **{"from": old, "to": old})
    assert any(finding.startswith("renamed") for finding in town.findings())


def test_a_rename_that_names_somebody_else_is_found(town: Town) -> None:
    before, old = town.shown(), town.world.customers.customer_ids[0]
    town.change(town.world.rename_customer, old, "new")
    town.tell("customers", town.customer, "renamed", before, town.shown(), **{"from": old, "to": "other"})
    assert any("another customer_id than its documents" in finding for finding in town.findings())


def test_a_collection_that_nobody_reads_is_found(town: Town) -> None:
    assert any("is not read" in finding for finding in explained((Collection.TAGS,), town.history, town.events))


# Watermarks.


def test_a_watermark_of_memberships_ahead_of_an_edge_is_found(town: Town) -> None:
    town.tag_it(town.tag)
    assert any(finding.startswith("I7") for finding in town.claim(Collection.MEMBERSHIPS, town.now + MOMENT_S))
    assert town.claim(Collection.MEMBERSHIPS, town.now - 1) == []


def test_an_edge_that_moves_between_the_watermark_and_its_claim_may_be_told_or_not(tagged: Town) -> None:
    tagged.tag_it()
    assert tagged.claim(Collection.MEMBERSHIPS, tagged.now - 1) == []
    tagged.tell_edge("untagged", tagged.shown(tagged.tag), tagged.shown())
    assert tagged.claim(Collection.MEMBERSHIPS, tagged.now - 1) == []


def test_a_customer_takes_the_edges_along(tagged: Town) -> None:
    before = tagged.shown(tagged.tag)
    tagged.change(tagged.world.delete_customer, tagged.world.customers.customer_ids[0])
    assert any(finding.startswith("I7") for finding in tagged.claim(Collection.MEMBERSHIPS, tagged.now + MOMENT_S))
    tagged.tell("customers", tagged.customer, "deleted", before, None)
    assert tagged.claim(Collection.MEMBERSHIPS, tagged.now + MOMENT_S) == []


# The end.


@pytest.mark.parametrize("tags", [frozenset[str](), frozenset({"other"})])
def test_a_state_with_other_edges_than_the_provider_is_found(tagged: Town, tags: frozenset[str]) -> None:
    customer, tag = (key_of(SOURCE, *key) for key in (("customers", tagged.customer), ("tags", tagged.tag)))
    right = {
        customer: Kept(digest_of(tagged.shown(tagged.tag)), frozenset({tagged.tag})),
        tag: Kept(digest_of(tagged.shown_tag()), frozenset()),
    }
    assert list(equal(SOURCE, READ, tagged.history, right)) == []
    wrong = right | {customer: right[customer]._replace(tags=tags)}
    assert len(list(equal(SOURCE, READ, tagged.history, wrong))) == 1 + len(tags)


# What people were promised.


def _signal(kind: SignalKind, at: float) -> Answered:
    return Answered(Sent(f"{kind}-{at}", kind, SOURCE, None, at), at + 1)


def test_what_is_told_of_a_great_loss_before_anybody_approves_is_found(town: Town) -> None:
    town.change(town.world.delete_customer, town.world.customers.customer_ids[0])
    uids = frozenset({town.customer, *(f"other-{number}" for number in range(5))})
    for uid in uids:
        town.tell("customers", uid, "deleted", {}, None)
    loss = Loss(SOURCE, town.now, uids, 10)
    assert len(list(held([loss], DeleteLimit(0.1, 2), [], town.events))) == 1
    assert list(held([loss], DeleteLimit(0.1, 2), [_signal(Kind.APPROVE, town.now + 0.5)], town.events)) == []
    assert len(list(held([loss], DeleteLimit(0.1, 2), [_signal(Kind.APPROVE, town.now + 5)], town.events))) == 1
    assert list(held([loss], DeleteLimit(), [], town.events)) == [], "so few need no approval"


def test_a_loss_is_great_or_not_beside_those_who_are_known_when_it_is_noticed(town: Town) -> None:
    """A bridge that comes back after a while may find so many new customers that the loss is within its limit."""
    uids = frozenset(f"lost-{number}" for number in range(5))
    loss = Loss(SOURCE, town.now, uids, 6)
    for uid in uids:
        town.tell("customers", uid, "snapshot", None, {})
    for number in range(40):
        town.tell("customers", f"new-{number}", "created", None, {})
    few = list(town.events)
    for uid in uids:
        town.tell("customers", uid, "deleted", {}, None)
    assert list(held([loss], DeleteLimit(0.2, 2), [], town.events)) == []
    assert len(list(held([loss], DeleteLimit(0.05, 2), [], town.events))) == 1
    without_new = [one for one in few if not one.event.uid.startswith("new-")] + town.events[len(few) :]
    assert len(list(held([loss], DeleteLimit(0.2, 2), [], without_new))) == 1
    of_whom_few_were_known = loss._replace(uids=uids | {f"never-told-{number}" for number in range(10)})
    assert list(held([of_whom_few_were_known], DeleteLimit(0.01, 3), [], town.events)) == []
    assert len(list(held([of_whom_few_were_known], DeleteLimit(0.01, 3), [], town.events, silent=True))) == 1


def test_what_is_read_in_a_pause_is_found(town: Town) -> None:
    paused = _signal(Kind.PAUSE, town.now - 5)
    assert len(list(pauses(SOURCE, [paused, _signal(Kind.RESUME, town.now + 5)], town.events))) == 2
    assert list(pauses(SOURCE, [paused, _signal(Kind.RESUME, town.now - 1)], town.events)) == []
    assert list(pauses("other", [paused, _signal(Kind.RESUME, town.now + 5)], town.events)) == []


def test_members_of_a_tag_that_goes_lose_it_although_memberships_are_paused(tagged: Town) -> None:
    paused = _signal(Kind.PAUSE, tagged.now - 5)._replace(
        sent=Sent("pause", Kind.PAUSE, SOURCE, Collection.MEMBERSHIPS, tagged.now - 5)
    )
    resumed = _signal(Kind.RESUME, tagged.now + 50)._replace(
        sent=Sent("resume", Kind.RESUME, SOURCE, Collection.MEMBERSHIPS, tagged.now + 50)
    )
    assert len(list(pauses(SOURCE, [paused, resumed], tagged.events))) == 1, "the edge of before"
    tagged.change(tagged.world.delete_tag, tagged.tag)
    tagged.tell_edge("untagged", tagged.shown(tagged.tag), tagged.shown())
    assert len(list(pauses(SOURCE, [paused, resumed], tagged.events))) == 2, "nobody has said that the tag is gone"
    tagged.tell("tags", tagged.tag, "deleted", tagged.events[0].event.after, None)
    assert len(list(pauses(SOURCE, [paused, resumed], tagged.events))) == 1


def test_members_may_lose_a_tag_right_before_it_goes_although_tags_are_paused(tagged: Town) -> None:
    """By who reads memberships; that the tag goes is read as soon as it is no longer paused."""

    def signal(kind: SignalKind, at: float) -> Answered:
        return _signal(kind, at)._replace(sent=Sent(kind, kind, SOURCE, Collection.TAGS, at))

    paused, resumed = signal(Kind.PAUSE, tagged.now + 2), signal(Kind.RESUME, tagged.now + STEP_S + 1.2)
    tagged.tag_it()
    tagged.tell_edge("untagged", tagged.shown(tagged.tag), tagged.shown())
    tagged.now += 0.5
    tagged.tell("tags", tagged.tag, "deleted", tagged.events[0].event.after, None)
    assert list(pauses(SOURCE, [paused, resumed], tagged.events)) == []
    late = signal(Kind.RESUME, tagged.now + 2)
    assert len(list(pauses(SOURCE, [paused, late], tagged.events))) == 1
