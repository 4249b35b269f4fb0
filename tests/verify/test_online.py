"""Comparing the state with a provider that changes while one looks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest

from bridge.detect.essence import essence_digest
from bridge.errors import AccessDenied, CursorRejected, EnvironmentUnavailable, RetryLater, SourceError
from bridge.model import Body, Collection, Document, Gone, Path, Reject
from bridge.source.feed import Cursor, Familiar, Page, none_familiar
from bridge.store.record import StateRecord
from bridge.verify.online import FETCHED_MAX, SUSPECTS_MAX, TakeState, compare
from bridge.verify.verdict import Verdict
from tests.support.clock import VirtualClock, run_virtual

PAGE = 3


def customer(uid: str, **fields: object) -> Body:
    return {"uid": uid, "first_name": f"name of {uid}", **fields}


class Provider:
    """A feed over a dict. hidden: uids that the list leaves out although they are there. errors: raised first."""

    def __init__(self, documents: dict[str, Body]) -> None:
        self.documents = documents
        self.hidden: set[str] = set()
        self.rejected: set[str] = set()
        self.errors: list[SourceError] = []
        self.on_fetch: Callable[[], None] = lambda: None
        self.fetched = 0

    collection = Collection.CUSTOMERS

    async def page(self, cursor: Cursor | None, familiar: Familiar = none_familiar) -> Page:
        if self.errors:
            raise self.errors.pop(0)
        start = 0 if cursor is None else cursor["at"]
        uids = sorted(self.documents)
        shown = [uid for uid in uids[start : start + PAGE] if uid not in self.hidden]
        return Page(
            [Document(uid, self.documents[uid], 0) for uid in shown if uid not in self.rejected],
            {"at": start + PAGE},
            start + PAGE < len(uids),
            Path.SNAPSHOT,
            gone=[Gone("long-gone", 0)],
            rejects=[Reject(uid, "customers.list", "no e-mail", b"{}") for uid in shown if uid in self.rejected],
        )

    def sweep(self, cursor: Cursor) -> None:
        return

    async def break_off(self) -> None:
        return

    async def fetch(self, known: Sequence[Document]) -> Mapping[str, Document | Gone]:
        self.fetched += len(known)
        answer: dict[str, Document | Gone] = {
            document.uid: Document(document.uid, self.documents[document.uid], 0)
            if document.uid in self.documents
            else Gone(document.uid, 0)
            for document in known
        }
        self.on_fetch()
        return answer


class State:
    """The state topic as a list of changes. on_read: called after each reading, to let the bridge go on."""

    def __init__(self, documents: Mapping[str, Body]) -> None:
        self.log: list[tuple[str, StateRecord | None]] = []
        self.on_read: Callable[[], None] = lambda: None
        for uid, body in documents.items():
            self.put(uid, body)

    def put(self, uid: str, body: Body | None, refused: str | None = None) -> None:
        self.log.append((uid, None if body is None and refused is None else StateRecord(body, 0, 1, refused)))

    def rebase(self, uid: str, body: Body, shown: Body) -> None:
        """Published was `body`; a newer release makes `shown` of the same row."""
        self.log.append((uid, StateRecord(body, 0, 1, base=essence_digest(shown))))

    def view(self) -> View:
        return View(self)


class View:
    def __init__(self, state: State) -> None:
        self._state = state
        self._next = 0

    async def read(self, take: TakeState) -> None:
        for uid, record in self._state.log[self._next :]:
            take(uid, record)
        self._next = len(self._state.log)
        self._state.on_read()


def look(provider: Provider, state: State, wait_s: float = 60.0) -> Verdict:
    async def main(clock: VirtualClock) -> Verdict:
        return await compare("acme", provider, state.view, clock, lambda *_: None, wait_s=wait_s)

    return run_virtual(main)


@pytest.fixture
def documents() -> dict[str, Body]:
    return {uid: customer(uid) for uid in "abcdefgh"}


def test_what_a_newer_release_makes_of_the_same_row_is_no_difference(documents: dict[str, Body]) -> None:
    state = State(documents)
    state.rebase("a", documents["a"], {**documents["a"], "tier": "gold"})
    assert look(Provider({**documents, "a": {**documents["a"], "tier": "gold"}}), state).ok
    assert look(Provider(documents), state).ok  # the older release looks
    verdict = look(Provider({**documents, "a": {**documents["a"], "tier": "silver"}}), state)
    assert {kind for _, kind in verdict.counts} == {"provider_differs"}


def test_the_same_is_ok(documents: dict[str, Body]) -> None:
    verdict = look(Provider(documents), State(documents))
    assert verdict.ok
    assert verdict.figures["provider rows"] == 8


def test_what_is_not_compared_makes_no_difference(documents: dict[str, Body]) -> None:
    shown = {uid: {**body, "updated_at": "2024-01-01T00:00:00Z"} for uid, body in documents.items()}
    assert look(Provider(shown), State(documents)).ok


def test_whole_numbers_are_equal_however_they_are_written(documents: dict[str, Body]) -> None:
    provider = Provider({**documents, "a": customer("a", metadata={"n": 1})})
    assert look(provider, State({**documents, "a": customer("a", metadata={"n": 1.0})})).ok


def test_missing_superfluous_and_different_documents_are_named_without_values(documents: dict[str, Body]) -> None:
    state = State(documents)
    state.put("a", None)
    state.put("b", customer("b", email="b@example.org"))
    state.put("z", customer("z"))
    verdict = look(Provider(documents), state)
    assert [(finding.kind, finding.text) for finding in verdict.findings] == [
        ("provider_more", "acme/customers/a: the provider has it, the state does not"),
        ("provider_differs", "acme/customers/b: differs in /email"),
        ("provider_less", "acme/customers/z: the state has it, the provider does not"),
    ]
    assert "example.org" not in str(verdict)


def test_a_row_that_the_list_dropped_is_fetched(documents: dict[str, Body]) -> None:
    provider = Provider(documents)
    provider.hidden.add("d")
    assert look(provider, State(documents)).ok
    assert provider.fetched == 1


def test_a_bridge_that_catches_up_is_ok(documents: dict[str, Body]) -> None:
    provider = Provider({**documents, "a": customer("a", email="new@example.org"), "new": customer("new")})
    del provider.documents["b"]
    state = State(documents)

    def catch_up() -> None:
        if provider.fetched:
            state.put("a", provider.documents["a"])
            state.put("new", customer("new"))
            state.put("b", None)

    state.on_read = catch_up
    assert look(provider, state).ok


def test_a_document_that_never_rests_is_ok_as_long_as_the_state_follows(documents: dict[str, Body]) -> None:
    provider = Provider(documents | {"a": customer("a", n=0)})
    state = State(documents)
    numbers = iter(range(1, 1000))

    def move() -> None:
        state.put("a", provider.documents["a"])
        provider.documents["a"] = customer("a", n=next(numbers))

    provider.on_fetch = move
    assert look(provider, state).ok


def test_a_document_that_never_arrives_is_told_when_the_time_is_up(documents: dict[str, Body]) -> None:
    state = State(documents)
    state.put("a", customer("a", n=1))
    assert look(Provider(documents), state, wait_s=10).total == 1


def test_refused_documents_are_a_note(documents: dict[str, Body]) -> None:
    provider = Provider(documents | {"x": customer("x")})
    provider.rejected = {"c"}
    state = State(documents | {"c": customer("c", old=True)})
    state.put("x", None, refused="0" * 32)
    verdict = look(provider, state)
    assert verdict.ok
    assert verdict.notes == ["acme/customers: 2 documents were refused (see the dead letters) and are not compared"]


def test_many_differences_wait_for_the_state_instead_of_asking_for_each() -> None:
    provider = Provider({f"u{number}": customer(f"u{number}") for number in range(FETCHED_MAX + 1)})
    state = State({})
    looks = 0

    def catch_up() -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            for uid, body in provider.documents.items():
                state.put(uid, body)

    state.on_read = catch_up
    assert look(provider, state).ok
    assert provider.fetched == 0


def test_more_differences_than_are_remembered_are_counted() -> None:
    provider = Provider({f"u{number:06}": customer(f"u{number}") for number in range(SUSPECTS_MAX + 7)})
    verdict = look(provider, State({}), wait_s=0)
    assert verdict.total == SUSPECTS_MAX + 7
    assert len(verdict.findings) == 21


@pytest.mark.parametrize(
    "errors",
    [
        [RetryLater("busy", delay_s=1.0), RetryLater("busy")],
        [CursorRejected("forgotten")],
    ],
)
def test_trouble_that_passes_is_waited_for(documents: dict[str, Body], errors: list[SourceError]) -> None:
    provider = Provider(documents)
    provider.errors = errors
    assert look(provider, State(documents)).ok


@pytest.mark.parametrize(
    "errors",
    [
        [AccessDenied("no")],
        [RetryLater("busy") for _ in range(50)],
        [CursorRejected("forgotten") for _ in range(50)],
    ],
)
def test_a_provider_that_cannot_be_read_is_no_verdict(documents: dict[str, Body], errors: list[SourceError]) -> None:
    provider = Provider(documents)
    provider.errors = errors
    with pytest.raises(EnvironmentUnavailable, match="customers cannot be read"):
        look(provider, State(documents))
