"""What the checker says: nothing about a true history, and the right thing about each way of breaking one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bridge.event.envelope import ContentMode
from bridge.model import Collection
from bridge.store.record import Counters, StateRecord, counters_key, cursor_key, encode_counters, encode_record
from bridge.verify.checker import Checker, Pending, Place
from bridge.verify.verdict import FINDINGS_SHOWN_MAX, Invariant, Verdict
from tests.verify.history import History, Written, check, kinds


def a_history(mode: ContentMode = ContentMode.BINARY) -> History:
    """Thirteen events: two sources, two collections, a deletion, a return, a silent and a refused document."""
    history = History(mode)
    history.put("a", {"first_name": "Ada"})
    history.put("b", {"first_name": "Bo"})
    history.put("v", {"name": "VIP"}, collection=Collection.TAGS)
    history.put("a", {"first_name": "Ada", "customer_id": "1"})
    history.put("a", {"first_name": "Ad", "customer_id": "1"})
    history.put("b", {"first_name": "Bob"})
    history.remove("b")
    history.put("b", {"first_name": "Bob"})
    history.put("s", {"first_name": "Sue"}, silent=True)
    history.put("t", {"first_name": "Tom"}, silent=True)
    history.put("t", {"first_name": "Thomas"})
    history.put("a", {"first_name": "Ann"}, source="other")
    history.put("c", {"first_name": "Cy"}, source="other")
    history.remove("c", source="other")
    history.put("a", {"first_name": "Anna"}, source="other")
    history.refuse("r")
    history.refuse("a")
    return history


@pytest.mark.parametrize("mode", ContentMode)
def test_a_true_history_is_ok(mode: ContentMode) -> None:
    history = a_history(mode)
    verdict = check(history.events, history.state)
    assert verdict.ok, verdict.findings
    assert verdict.figures == {"sources": 2, "keys": 8, "events": 13}
    assert verdict.checked == [Invariant.EXACT, Invariant.SEQUENCE, Invariant.ATOMIC, Invariant.CACHE]
    assert verdict.notes == []


def test_nothing_at_all_is_ok() -> None:
    assert check([], {}).ok


def numbered(history: History, sequence: int, source: str = "acme") -> int:
    """Index of an event."""
    return next(
        index
        for index, event in enumerate(history.events)
        if event.data["sequence"] == sequence and event.data["source"] == source
    )


def drop(sequence: int) -> Callable[[History], None]:
    def mutate(history: History) -> None:
        del history.events[numbered(history, sequence)]

    return mutate


def change(sequence: int, **data: object) -> Callable[[History], None]:
    def mutate(history: History) -> None:
        index = numbered(history, sequence)
        history.events[index] = history.events[index].changed(**data)

    return mutate


def double(history: History) -> None:
    index = numbered(history, 4)
    history.events.insert(index + 1, history.events[index])


def swap(history: History) -> None:
    one, other = numbered(history, 4), numbered(history, 5)
    history.events[one], history.events[other] = history.events[other], history.events[one]


def same_id(history: History) -> None:
    one, other = numbered(history, 1), numbered(history, 2)
    event, headers = history.events[other], dict(history.events[other].headers)
    headers["ce_id"] = dict(history.events[one].headers)["ce_id"]
    history.events[other] = event._replace(headers=tuple(headers.items()))


def another_partition(history: History) -> None:
    index = numbered(history, 4)
    event = history.events[index]
    history.events[index] = event._replace(partition=(event.partition + 1) % 3)


def record(key: str, **fields: object) -> Callable[[History], None]:
    def mutate(history: History) -> None:
        history.state[key] = encode_record(history.records[key]._replace(**fields))  # type: ignore[arg-type]

    return mutate


def forget(key: str) -> Callable[[History], None]:
    def mutate(history: History) -> None:
        del history.state[key]

    return mutate


def keep_deleted(history: History) -> None:
    history.remove("v", collection=Collection.TAGS)
    history.state["acme/tags/v"] = encode_record(StateRecord({"uid": "v", "name": "VIP"}, 0, 3))


def counters(history: History, **fields: object) -> None:
    history.state[counters_key("acme")] = encode_counters(
        history.counters["acme"]._replace(**fields)  # type: ignore[arg-type]
    )


def header(name: str, value: bytes) -> Callable[[History], None]:
    def mutate(history: History) -> None:
        event = history.events[0]
        history.events[0] = event._replace(headers=tuple({**dict(event.headers), name: value}.items()))

    return mutate


BREAKS: dict[str, tuple[Callable[[History], None], set[str]]] = {
    "an event is missing": (drop(4), {"2 missing"}),
    "the last event of a key is missing": (drop(5), {"2 missing"}),
    "the last event of the source is missing": (drop(9), {"2 missing"}),
    "a deletion is missing": (drop(7), {"2 missing", "2 prior"}),
    "an event is there twice": (double, {"2 doubled"}),
    "two events of a key are swapped": (swap, {"2 order"}),
    "two events have one id": (same_id, {"2 id"}),
    "a key changes its partition": (another_partition, {"2 partition"}),
    "prior skips an event": (change(5, prior=1), {"2 prior"}),
    "prior is 0 for a known key": (change(5, prior=0), {"2 prior"}),
    "prior is another key's event": (change(5, prior=3), {"2 prior"}),
    "prior is an event between that is another key's": (change(6, prior=5), {"2 prior"}),
    "prior is not before the event": (change(5, prior=5), {"2 prior"}),
    "prior of a returned key is not 0": (change(8, prior=7), {"2 prior"}),
    "prior of a first sight is not 0": (change(2, prior=1), {"2 prior"}),
    "before is not what was there": (change(5, before={"uid": "a"}), {"1 before"}),
    "after of the last event is another": (change(5, after={"uid": "a"}), {"1 differs"}),
    "after in the middle is another": (change(4, after={"uid": "a"}), {"1 before"}),
    "header and data differ": (header("ce_subject", b"x"), {"2 malformed", "2 missing"}),
    "the account is another": (header("ce_source", b"/dintero/T1"), {"2 malformed", "2 missing"}),
    "the state has another document": (record("acme/customers/a", document={"uid": "a"}), {"1 differs"}),
    "the state lost a document": (record("acme/customers/a", document=None), {"1 differs", "3 documents"}),
    "the state lost a record": (forget("acme/customers/a"), {"1 state_lacks", "3 documents"}),
    "the state keeps a deleted key": (keep_deleted, {"1 state_keeps", "3 documents"}),
    "the state is behind": (record("acme/customers/a", sequence=4), {"3 number"}),
    "the state names another key's event": (record("acme/customers/a", sequence=6), {"3 number"}),
    "the state forgot that there were events": (record("acme/customers/a", sequence=0), {"3 number"}),
    "the state is ahead of the counters": (record("acme/customers/a", sequence=99), {"3 ahead"}),
    "the state is no record": (
        lambda history: history.state.update({"acme/customers/s": b"?"}),
        {"1 unreadable", "3 documents"},
    ),
    "the counters are behind": (lambda history: counters(history, sequence=8), {"3 counters", "3 ahead"}),
    "the counters are ahead": (lambda history: counters(history, sequence=12), {"2 missing"}),
    "deletions are miscounted": (lambda history: counters(history, deletions=2), {"3 deletions"}),
    "documents are miscounted": (lambda history: counters(history, documents={"tags": 2}), {"3 documents"}),
    "there are no counters": (
        forget(counters_key("acme")),
        {"3 counters", "3 ahead"},
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_each_break_is_named(name: str) -> None:
    mutate, expected = BREAKS[name]
    history = a_history()
    mutate(history)
    assert kinds(check(history.events, history.state)) == expected


def test_every_event_of_a_gap_counts_as_lost() -> None:
    history = a_history()
    for sequence in (2, 3, 4):
        drop(sequence)(history)
    verdict = check(history.events, history.state)
    assert (verdict.lost, verdict.doubled) == (3, 0)
    assert "numbers 2 to 4 are missing" in verdict.findings[0].text


def test_a_finding_says_where_and_shows_no_document() -> None:
    history = a_history()
    drop(4)(history)
    record("other/customers/a", document={"uid": "a", "first_name": "Eve"})(history)
    texts = [finding.text for finding in check(history.events, history.state).findings]
    assert texts == [
        "source acme: number 4 is missing; the counters say 9",
        "other/customers/a: its state is not what event 4 says",
    ]


@pytest.mark.parametrize(
    ("restored", "kind"),
    [
        ({"acme/customers/a": None}, "6 restored_lacks"),
        ({"acme/customers/new": b"{}"}, "6 restored_extra"),
        ({"acme/customers/a": b"{}"}, "6 restored_differs"),
        ({cursor_key("acme", "customers"): b"{}"}, "6 restored_differs"),
    ],
)
def test_a_restore_that_differs_is_told(restored: dict[str, bytes | None], kind: str) -> None:
    history = a_history()
    found = {**history.state, **restored}
    verdict = check(
        history.events, history.state, restored={key: value for key, value in found.items() if value is not None}
    )
    assert kinds(verdict) == {kind}


def test_only_the_named_source_is_judged() -> None:
    history = a_history()
    drop(4)(history)
    assert check(history.events, history.state, source="other").ok
    assert kinds(check(history.events, history.state, source="acme")) == {"2 missing"}


def test_an_event_of_the_deletions_transaction_is_told() -> None:
    history = History()
    history.put("a", {"first_name": "Ada"})
    history.remove("a", commit=False)
    history.put("a", {"first_name": "Ada"})
    assert kinds(check(history.events, history.state)) == {"3 after_deleted"}


def test_many_breaks_are_counted_and_some_are_shown() -> None:
    history = History()
    for number in range(50):
        history.put(f"c{number}", {})
    history.state = {counters_key("acme"): history.state[counters_key("acme")]}
    verdict = check(history.events, history.state)
    assert verdict.counts[Invariant.EXACT, "state_lacks"] == 50
    assert len([found for found in verdict.findings if found.kind == "state_lacks"]) == FINDINGS_SHOWN_MAX
    assert verdict.total == 51  # and the counters say 50 customers


def test_hostile_uids_are_made_printable() -> None:
    history = History()
    history.put("a\x1b[31m\u202e", {})
    history.state.pop("acme/customers/a\x1b[31m\u202e")
    text = check(history.events, history.state).findings[0].text
    assert text.isprintable()
    assert "a\\x1b[31m\\u202e" in text


class TestRetention:
    def cut(self, history: History) -> tuple[list[Written], int]:
        """The history without its older half in one partition: the topic's beginning is gone."""
        middle = history.events[len(history.events) // 2].timestamp_ms
        lost = history.events[0].partition
        kept = [event for event in history.events if event.timestamp_ms > middle or (event.partition != lost)]
        assert len(kept) < len(history.events)
        return kept, middle

    def test_history_that_has_left_is_a_note(self) -> None:
        history = a_history()
        kept, middle = self.cut(history)
        verdict = check(kept, history.state, truncated=True, old_ms=middle)
        assert verdict.ok, verdict.findings
        assert any("have left the topics" in note for note in verdict.notes)

    def test_everything_gone_is_a_note(self) -> None:
        history = a_history()
        assert check([], history.state, truncated=True, old_ms=history.now_ms).ok

    def test_a_young_gap_is_a_break_all_the_same(self) -> None:
        history = a_history()
        drop(9)(history)
        kept, middle = self.cut(history)
        assert kinds(check(kept, history.state, truncated=True, old_ms=middle)) == {"2 missing"}

    def test_without_truncation_an_old_gap_is_a_break(self) -> None:
        history = a_history()
        drop(4)(history)
        assert kinds(check(history.events, history.state, old_ms=history.now_ms)) == {"2 missing"}

    def test_an_unknown_retention_excuses_any_gap(self) -> None:
        history = a_history()
        drop(9)(history)
        assert check(history.events, history.state, truncated=True, old_ms=None).ok


class TestLivingBridge:
    """The cut is in the middle; the bridge goes on."""

    def test_events_beyond_the_cut_are_left_out(self) -> None:
        history = a_history()
        state = dict(history.state)
        history.put("a", {"first_name": "Later"})
        history.remove("b")
        checker = self.fed(state, history)
        assert checker.pending() == Pending(0, 1)
        checker.moved(counters_key("acme"), history.state[counters_key("acme")])
        assert checker.pending() == Pending(0, 0)
        assert checker.verdict().ok

    def test_events_that_are_not_visible_yet_are_waited_for(self) -> None:
        history = a_history()
        late = history.events.pop(numbered(history, 9))
        checker = self.fed(history.state, history)
        assert checker.pending() == Pending(1, 0)
        checker.event(Place(late.topic, late.partition, late.offset, late.timestamp_ms), late)
        assert checker.pending() == Pending(0, 0)
        assert checker.verdict().ok

    def test_a_record_that_compaction_took_is_known_from_the_restore(self) -> None:
        history = a_history()
        checker = Checker()
        for key, value in history.state.items():
            checker.restored(key, value)
        gone = {"acme/customers/a", counters_key("acme")}
        for key, value in history.state.items():
            if key not in gone:
                checker.state(key, value)
        for key in gone:
            checker.moved(key, encode_counters(Counters(12, 1, {})) if "counters" in key else None)
        for event in history.events:
            checker.event(Place(*event[:4]), event)
        verdict = checker.verdict()
        assert verdict.ok, verdict.findings

    def fed(self, state: dict[str, bytes], history: History) -> Checker:
        checker = Checker()
        for key, value in state.items():
            checker.restored(key, value)
            checker.state(key, value)
        for event in sorted(history.events, key=lambda event: event[:2]):
            checker.event(Place(*event[:4]), event)
        return checker


# Random histories, and what may happen to them.

steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "remove", "silent", "open"]),
        st.sampled_from(["acme", "b2"]),
        st.sampled_from(list("abcde")),
        st.integers(0, 99),
    ),
    min_size=5,
    max_size=60,
)


def random_history(actions: list[tuple[str, str, str, int]]) -> History:
    history = History()
    for action, source, uid, number in actions:
        collection = Collection.TAGS if uid == "e" else Collection.CUSTOMERS
        known = history.records.get(f"{source}/{collection}/{uid}")
        if action == "remove" and known is not None:
            history.remove(uid, source=source, collection=collection)
        elif action == "silent" and known is None:
            history.put(uid, {"n": number}, source=source, collection=collection, silent=True)
        elif action in ("put", "open"):
            history.put(uid, {"n": number}, source=source, collection=collection, commit=action == "put")
            if action == "open" and number % 2:
                history.commit()
    history.commit()
    return history


@given(steps)
def test_random_true_histories_are_ok(actions: list[tuple[str, str, str, int]]) -> None:
    history = random_history(actions)
    verdict = check(history.events, history.state)
    assert verdict.ok, verdict.findings


@given(steps, st.data())
def test_any_single_change_is_found(actions: list[tuple[str, str, str, int]], data: st.DataObject) -> None:
    history = random_history(actions)
    assume(history.events)
    what = data.draw(st.sampled_from(["drop", "double", "prior", "after", "sequence", "state", "forget", "counters"]))
    index = data.draw(st.integers(0, len(history.events) - 1))
    event = history.events[index]
    documents = sorted(history.records)
    match what:
        case "drop":
            del history.events[index]
        case "double":
            history.events.insert(index, event)
        case "prior":
            other = data.draw(st.integers(0, 60).filter(lambda number: number != event.data["prior"]))
            history.events[index] = event.changed(prior=other)
        case "after":
            assume(event.data["after"] is not None)
            history.events[index] = event.changed(after={"uid": event.data["after"]["uid"], "n": -1})
        case "sequence":
            last = history.counters[event.data["source"]].sequence
            other = data.draw(st.integers(1, last + 5).filter(lambda number: number != event.data["sequence"]))
            history.events[index] = event.changed(sequence=other)
        case "state":
            assume(documents)
            key = data.draw(st.sampled_from(documents))
            found = history.records[key]
            assume(found.sequence)
            changed = data.draw(
                st.sampled_from(
                    [found._replace(document={"n": -1}), found._replace(document=None)]
                    + [found._replace(sequence=number) for number in range(70) if number != found.sequence]
                )
            )
            history.state[key] = encode_record(changed)
        case "forget":
            key = data.draw(st.sampled_from([key for key in history.state if "cursors" not in key and "@" not in key]))
            del history.state[key]
        case "counters":
            source = data.draw(st.sampled_from(sorted(history.counters)))
            now = history.counters[source]
            other = data.draw(st.integers(0, 70).filter(lambda number: number != now.sequence))
            history.state[counters_key(source)] = encode_counters(now._replace(sequence=other))
    verdict: Verdict = check(history.events, history.state)
    assert not verdict.ok, what
