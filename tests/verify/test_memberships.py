"""Comparing memberships with a provider that changes while one looks."""

from __future__ import annotations

from collections.abc import Callable

from bridge.model import Collection, Document
from bridge.source.memberships import MemberPage, Place, Untold
from bridge.store.record import StateRecord
from bridge.verify.memberships import compare_memberships
from bridge.verify.online import TakeState
from bridge.verify.verdict import Verdict
from tests.support.clock import VirtualClock, run_virtual


class Provider:
    """tags by customer; hidden: customers that lists leave out. gone: those that are not there any more."""

    def __init__(self, tags: dict[str, set[str]]) -> None:
        self.held = tags
        self.hidden: set[str] = set()
        self.gone: set[str] = set()

    def rate(self) -> float:
        return 1.0

    async def members(self, tag: str, place: Place | None) -> MemberPage:
        uids = sorted(uid for uid, tags in self.held.items() if tag in tags and uid not in self.hidden | self.gone)
        at = 0 if place is None else place["at"]
        following = {"at": at + 2} if uids[at + 2 :] else None
        return MemberPage(uids[at : at + 2], [], True, following, None, 0.0)

    async def count(self, tag: str) -> int | None:
        return None

    async def tags(self, known: Document, *, urgent: bool) -> frozenset[str] | Untold:
        return Untold.GONE if known.uid in self.gone else frozenset(self.held[known.uid])


class State:
    """The state topic; on_read: called after each reading, to let the bridge go on."""

    def __init__(self, tags: dict[str, set[str]]) -> None:
        self.customers = {uid: {"uid": uid, **({"tags": sorted(held)} if held else {})} for uid, held in tags.items()}
        self.on_read: Callable[[], None] = lambda: None

    def view(self, collection: Collection) -> View:
        return View(self, collection)


class View:
    def __init__(self, state: State, collection: Collection) -> None:
        self._state = state
        self._collection = collection

    async def read(self, take: TakeState) -> None:
        if self._collection is Collection.TAGS:
            for uid in "xy":
                take(uid, StateRecord({"uid": uid, "name": uid}, 0, 1))
            return
        for uid, body in self._state.customers.items():
            take(uid, StateRecord(dict(body), 0, 1))
        self._state.on_read()


HELD = {"1": {"x"}, "2": {"x", "y"}, "3": set[str](), "4": {"x"}, "5": {"y"}}


def look(provider: Provider, state: State) -> Verdict:
    async def main(clock: VirtualClock) -> Verdict:
        return await compare_memberships("acme", provider, state.view, clock, lambda *_: None, wait_s=10)

    return run_virtual(main)


def told(verdict: Verdict) -> list[tuple[str, str]]:
    return [(finding.kind, finding.text) for finding in verdict.findings]


def test_the_same_is_ok() -> None:
    verdict = look(Provider(HELD), State(HELD))
    assert verdict.ok
    assert verdict.figures["provider memberships"] == 5


def test_edges_that_only_one_side_has_are_found() -> None:
    assert told(look(Provider(HELD), State({**HELD, "3": {"y"}, "4": set()}))) == [
        ("provider_more", "acme/customers/4: only the provider has its tag x"),
        ("provider_less", "acme/customers/3: only the state has its tag y"),
    ]


def test_what_the_bridge_catches_up_with_is_no_difference() -> None:
    state = State({**HELD, "4": set()})
    reads = iter(range(100))

    def catch_up() -> None:
        if next(reads) == 2:
            state.customers["4"]["tags"] = ["x"]

    state.on_read = catch_up
    assert look(Provider(HELD), state).ok


def test_a_row_that_the_list_leaves_out_is_asked_for_itself() -> None:
    provider = Provider(HELD)
    provider.hidden = {"2"}
    assert look(provider, State(HELD)).ok


def test_a_customer_that_is_gone_at_the_provider_has_no_tags() -> None:
    provider = Provider(HELD)
    provider.gone = {"2"}
    assert [kind for kind, _ in told(look(provider, State(HELD)))] == ["provider_less", "provider_less"]


def test_a_customer_that_the_state_does_not_have_is_not_told_here() -> None:
    state = State(HELD)
    del state.customers["1"]
    assert look(Provider(HELD), state).ok
