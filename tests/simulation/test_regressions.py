"""What the simulator has found in the bridge, each with its story."""

from __future__ import annotations

import pytest

from bridge.model import Collection
from bridge.sandbox.answer import Answer
from bridge.sandbox.simulate import simulate
from bridge.sandbox.virtual import VirtualClock, run_virtual
from bridge.source.transport import Request
from tests.runtime.members import Club
from tests.runtime.shards import House


def test_a_list_that_is_empty_by_mistake_proves_nothing_about_what_is_new() -> None:
    """Found as a broken I7.

    A provider shows an empty list of tags once. The second look refutes every suspected deletion, so nothing false is
    published. But the page still counted as the whole truth: the watermark moved to its moment, while a tag that was
    created shortly before had not been seen by anybody. A reading that has missed what is there proves nothing.
    """

    async def main(clock: VirtualClock) -> None:
        house = House(clock)
        told: list[float] = []
        caught_up = house.metrics.caught_up

        def note(source: str, collection: Collection, wall_seconds: float) -> None:
            if collection is Collection.TAGS:
                told.append(wall_seconds)
            caught_up(source, collection, wall_seconds)

        house.metrics.caught_up = note  # type: ignore[method-assign]
        await house.live(3)
        assert len(set(told)) == 1
        house.world.create_tag("new")
        house.api.switches = house.api.switches.changed({"empty_tag_list_once": True})
        await house.live(3)
        assert len(set(told)) == 1, "the empty list said nothing about the new tag"
        assert house.types("tags") == ["tag.snapshot.v1"] * 8
        await house.live(3)
        assert len(set(told)) == 2
        assert house.types("tags")[8:] == ["tag.created.v1"]

    run_virtual(main)


@pytest.mark.parametrize("at", [30.0, 30.7, 31.4])
def test_a_tag_is_not_read_while_who_is_gone_may_have_lost_it_before(at: float) -> None:
    """Found as a broken I7.

    A customer loses a tag, and is deleted while the members of the tag are read. It is not on the list, and cannot be
    asked any more. The reading counted as complete all the same, up to its beginning, when the customer was there and
    did not have the tag; but its deletion had not been told yet, so it still had it for everybody else.
    """

    async def main(clock: VirtualClock) -> None:
        club = Club(clock, 50, 1, poll_s=1.0, switches={"latency_ms": "300"})
        tag, uid = min(club.true)
        row = club.world.customers.row_of[uid]
        lost: list[float] = []
        gone: list[float] = []
        wrong: list[float] = []
        answer, caught_up = club.api.answer, club.metrics.caught_up

        def lose() -> None:
            others = [other for other in club.world.customers.tags[row] if other != tag]
            club.world.set_customer_tags(club.world.customers.customer_ids[row], others)
            lost.append(clock.wall())

        def leave(request: Request) -> Answer:
            if lost and not gone and {("tag_id", tag), ("type", "contact")} <= set(request.query):
                club.world.delete_customer(club.world.customers.customer_ids[row])
                gone.append(clock.wall())
            return answer(request)

        def note(source: str, collection: Collection, until: float) -> None:
            caught_up(source, collection, until)
            if collection is Collection.MEMBERSHIPS and lost and until > lost[0] and (tag, uid) in club.folded():
                wrong.append(until)

        club.api.answer = leave  # type: ignore[method-assign]
        club.metrics.caught_up = note  # type: ignore[assignment,method-assign]
        await club.tell(90, (at, lose))
        assert gone
        assert (tag, uid) not in club.folded()
        assert wrong == []

    run_virtual(main)


@pytest.mark.parametrize("seed", [2041, 2098, 2654, 3042, 2960, 4075, 6109, 8665])
def test_a_seed_that_was_broken_once_is_whole(seed: int) -> None:
    """The stories have moved on with the code since; what they have found has tests of its own.

    2041: a rename without a change time was found late where nothing but the new name could be asked for.
    2098: a bulk call did in the calm what the one before had left out, and nobody waited until that was published.
    2654: what a late list shows of a customer, found by its e-mail, was taken for the customer of today.
    3042: behind a row that could not be settled the next poll was claimed (I7).
    2960: a process that is frozen while it stops was taken for one that does not stop.
    4075, 6109: a resync made a first reading begin anew, later; who was told and deleted in between stayed (I7).
    8665: a page that repeated a row made a descending list look ascending; what it hid was claimed as published (I7).
    """
    report = simulate(seed)
    assert report.ok, report.text()
