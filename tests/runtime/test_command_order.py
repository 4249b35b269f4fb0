"""Commands that contradict each other, at any moment: what they come to is what the order of the inbox says.

A model does one after the other. Each id has the outcome that the model has, once; the provider ends where the model
does; and the events tell each step of it once, however commands, polls and other signals meet.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import orjson
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridge.publish.inbox import InboxRecord
from tests.runtime.commanding import left_over, name_of, names, retag, tags_of, uid_of, until
from tests.runtime.estates import Estate
from tests.runtime.members import Club
from tests.runtime.posting import Home, Post, living
from tests.runtime.shards import House
from tests.support.clock import VirtualClock, run_virtual


class Step(NamedTuple):
    """A command, and how long nothing is sent then. who, what: which customer and which name, as numbers."""

    kind: str
    who: int
    what: int
    pause_s: float


def steps(*kinds: str) -> st.SearchStrategy[list[Step]]:
    """Two that follow each other at once meet in the queue; polls come every five seconds."""
    pauses = st.sampled_from([0.0, 0.0, 0.02, 0.3, 1.1, 5.0])
    return st.lists(
        st.builds(Step, st.sampled_from(kinds), st.integers(0, 2), st.integers(0, 4), pauses), min_size=3, max_size=10
    )


class Model:
    """names: by uid. tagged: uids of those who have the tag. renamed: uid, old and new name; moved: verb
    and uid; of every change, in order. words: id and outcome of every command that needs the provider."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names = names
        self.tagged: set[str] = set()
        self.renamed: list[tuple[str, str, str]] = []
        self.moved: list[tuple[str, str]] = []
        self.words: list[tuple[str, str]] = []

    def uid(self, name: str) -> str | None:
        return next((uid for uid, its in self.names.items() if its == name), None)

    def rename(self, uid: str | None, new: str) -> str:
        """What becomes of it: nobody is meant, or somebody else has the name."""
        if uid is None or self.uid(new) not in (None, uid):
            return "rejected"
        if self.names[uid] != new:
            self.renamed.append((uid, self.names[uid], new))
            self.names[uid] = new
        return "applied"

    def tag(self, uids: list[str], present: bool) -> str:
        for uid in uids:
            if (uid in self.tagged) is not present:
                self.tagged ^= {uid}
                self.moved.append(("tagged" if present else "untagged", uid))
        return "applied"


def told(house: Home, *verbs: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Verb, uid and data of the events of these types, those of the first reading aside. `Any`: JSON."""
    found = []
    for record in house.kafka.events("customers"):
        headers, data = dict(record.headers), orjson.loads(record.value or b"")
        verb = headers["ce_type"].decode().split(".")[2]
        if verb in verbs and data["cause"]["path"] != "snapshot":
            found.append((verb, headers["ce_subject"].decode(), data))
    return found


def again(post: Post, step: Step) -> InboxRecord:
    """A record that was sent before, or else a signal."""
    return post.raw(post.sent[step.what % len(post.sent)].value) if post.sent else post.signal("resume")


def check_renames(house: House, model: Model) -> None:
    """The provider is where the model is, and the events go there step by step."""
    assert {uid: name_of(house, uid) for uid in model.names} == model.names
    steps_told = [
        (uid, data["before"]["customer_id"], data["after"]["customer_id"]) for _, uid, data in told(house, "renamed")
    ]
    assert steps_told == model.renamed


def check_tags(house: Home, model: Model) -> None:
    """Every move of an edge is told once, as the effect of a command."""
    edges = told(house, "tagged", "untagged")
    for customer in {uid for _, uid in model.moved} | {uid for _, uid, _ in edges}:
        mine = [verb for verb, uid, _ in edges if uid == customer]
        assert mine == [verb for verb, uid in model.moved if uid == customer]
    assert {data["cause"]["path"] for *_, data in edges} <= {"command"}


def check_outcomes(post: Post, model: Model) -> None:
    """One for each id; those of commands that need the provider in the order of the inbox."""
    wanted = dict(model.words)
    assert [(id_, word) for id_, word in post.words if id_ in wanted] == model.words
    assert {word for id_, word in post.words if id_ not in wanted} <= {"applied"}, "signals"
    assert len(post.words) == len({id_ for id_, _ in post.words})
    assert post.reasons == []


@settings(max_examples=25)
@given(
    steps("rename", "rename by name", "tag", "untag", "refresh", "resync", "again"),
    st.sampled_from([0, 40, 900]),
    st.sampled_from(["true", "false"]),
)
def test_names_and_tags_end_as_the_inbox_says(plan: list[Step], latency_ms: int, bumps: str) -> None:
    async def main(clock: VirtualClock) -> None:
        switches = {"latency_ms": str(latency_ms), "rename_bumps_updated_at": bumps}
        club = Club(clock, 6, 2, sweep_s=3600.0, switches=switches)
        post, tag = Post(club), next(iter(club.world.tags))
        for name in names(club):
            retag(club, name)
        model = Model({club.uid(name): name for name in names(club)})
        ours, wanted = list(model.names)[:2], [*names(club)[:3], "new", "newer/%"]
        async with living(club) as shard:
            await asyncio.sleep(10)  # nothing is told as of the first reading any more
            for step in plan:
                uid, name = ours[step.who % 2], wanted[step.what]
                match step.kind:
                    case "rename":
                        sent = post.command("rename", customer=uid, new_customer_id=name)
                        word = model.rename(uid, name)
                    case "rename by name":
                        old = wanted[(step.what + step.who + 1) % len(wanted)]
                        sent = post.command("rename", customer_id=old, new_customer_id=name)
                        word = model.rename(model.uid(old), name)
                    case "tag" | "untag":
                        who = [uid] if step.who < 2 else ours
                        sent = post.command(step.kind, tag=tag, customers=who)
                        word = model.tag(who, step.kind == "tag")
                    case "refresh":
                        collection = ["customers", "memberships"][step.what % 2]
                        sent, word = post.command("refresh", collection=collection, uids=ours), "applied"
                    case "resync":
                        sent, word = post.signal("resync", "customers"), ""
                    case _:
                        sent, word = again(post, step), ""
                shard.deliver([sent])
                if word:
                    model.words.append((f"id-{sent.offset}", word))
                await asyncio.sleep(step.pause_s)
            await until(lambda: {id_ for id_, _ in model.words} <= {id_ for id_, _ in post.words}, 300)
            await asyncio.sleep(30)
        check_outcomes(post, model)
        check_renames(club, model)
        check_tags(club, model)
        assert {uid for uid in ours if tag in tags_of(club, model.names[uid])} == model.tagged
        club.check()
        assert left_over(club) == []

    run_virtual(main)


@settings(max_examples=20)
@given(
    steps("tag", "untag", "refresh", "resync", "again"),
    st.sampled_from([0.0, 0.5, 3.0, 8.0, 20.0]),
    st.sampled_from(["nothing", "both"]),
)
@example([Step("tag", 0, 0, 0.0), Step("untag", 0, 0, 1.1), Step("tag", 2, 0, 0.0)], 8.0, "both")  # polls are first
def test_tags_that_show_late_end_as_the_inbox_says(plan: list[Step], delay_s: float, moves: str) -> None:
    """The provider does one job after the other here. It does not promise to, and then nobody could know the end: a
    job that changes nothing for a customer is not seen, and may be done after the next one.
    """

    async def main(clock: VirtualClock) -> None:
        house = Estate(clock, 6, 3, seed=3, page_limit=100, bulk_delay=delay_s, tagging_moves=moves)
        post, tag, ours = Post(house), house.tags()[0], house.uids()[:2]
        house.world.changes.tag(tag, house.uids(), on=False)
        model = Model({})
        async with living(house) as shard:
            await asyncio.sleep(10)
            for step in plan:
                who, word = (ours[step.who : step.who + 1] or ours), "applied"
                match step.kind:
                    case "tag" | "untag":
                        sent = post.command(step.kind, tag=tag, customers=who)
                        model.tag(who, step.kind == "tag")
                    case "refresh":
                        collection = ["customers", "memberships"][step.what % 2]
                        sent = post.command("refresh", collection=collection, uids=ours)
                    case "resync":
                        sent, word = post.signal("resync", "customers"), ""
                    case _:
                        sent, word = again(post, step), ""
                shard.deliver([sent])
                if word:
                    model.words.append((f"id-{sent.offset}", word))
                await asyncio.sleep(step.pause_s)
            await until(lambda: {id_ for id_, _ in model.words} <= {id_ for id_, _ in post.words}, 300)
            await asyncio.sleep(30)
        check_outcomes(post, model)
        check_tags(house, model)
        customers = house.world.customers
        assert {customers.uids[row] for row in customers.members[tag]} == model.tagged
        house.check()
        assert left_over(house) == []

    run_virtual(main)


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda text: text == text.strip() and text not in (".", "..")
)


@settings(max_examples=15)
@given(
    st.lists(NAMES, min_size=2, max_size=2, unique=True),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.booleans()), min_size=4, max_size=12),
)
def test_names_change_hands_among_three_as_far_as_they_are_free(
    new: list[str], wishes: list[tuple[int, int, bool]]
) -> None:
    """A name that somebody has is refused without effect, and free as soon as it is given up."""

    async def main(clock: VirtualClock) -> None:
        house = House(clock, 6, 2)
        post = Post(house)
        model = Model({uid: name for name in names(house) if (uid := uid_of(house, name))})
        three, wanted = list(model.names)[:3], [*names(house)[:3], *new]
        async with living(house) as shard:
            records = []
            for who, what, by_name in wishes:
                uid = three[who]
                named = {"customer_id": model.names[uid]} if by_name else {"customer": uid}
                records.append(post.command("rename", **named, new_customer_id=wanted[what]))
                model.words.append((f"id-{len(records) - 1}", model.rename(uid, wanted[what])))
            shard.deliver(records)
            await until(lambda: len(post.outcomes) >= len(records), 300)
            await asyncio.sleep(10)
        check_outcomes(post, model)
        check_renames(house, model)
        assert {outcome["detail"] for outcome in post.outcomes if outcome["outcome"] == "rejected"} <= {
            "customers.rename answered 400 (BAD_REQUEST)"
        }

    run_virtual(main)
