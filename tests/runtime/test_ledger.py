"""What a ledger says of members and keys while a part of it is in the store, a part in flight and a part still open."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridge.runtime.ledger import Ledger
from bridge.store.memory import MemoryStore
from bridge.store.record import StateRecord, encode_record

FOLDER = "s/customers/"


def customer(tags: Iterable[str]) -> bytes:
    body = {"uid": "u"} | ({"tags": sorted(tags)} if tags else {})
    return encode_record(StateRecord(body, 1, 1))


class Counted(MemoryStore):
    """Counts the values that it is asked for."""

    asked = 0

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        keys = list(keys)
        self.asked += len(keys)
        return super().get_many(keys)


def index_of(ledger: Ledger, source: str = "s") -> dict[str, list[str]]:
    found = {tag: sorted(ledger.members(source, tag)) for tag in ledger.member_tags(source)}
    assert {tag: ledger.members_count(source, tag) for tag in found} == {tag: len(uids) for tag, uids in found.items()}
    return found


def ledger_with(**customers: Iterable[str]) -> Ledger:
    store = MemoryStore()
    store.apply([(FOLDER + uid, customer(tags)) for uid, tags in customers.items()], 1)
    return Ledger(store)


def test_a_pending_record_decides_for_its_customer() -> None:
    ledger = ledger_with(a=["vip"], b=["vip", "new"], c=[])
    ledger.put(FOLDER + "b", customer(["new"]))
    ledger.put(FOLDER + "c", customer(["vip"]))
    ledger.put(FOLDER + "d", customer(["vip", "old"]))
    ledger.put(FOLDER + "a", None)
    assert index_of(ledger) == {"vip": ["c", "d"], "new": ["b"], "old": ["d"]}
    assert (ledger.members_count("s", "none"), list(ledger.members("s", "none"))) == (0, [])


def test_a_tag_whose_last_member_is_about_to_leave_has_none() -> None:
    ledger = ledger_with(a=["vip"])
    ledger.put(FOLDER + "a", customer([]))
    assert (ledger.member_tags("s"), ledger.members_count("s", "vip")) == ([], 0)


def test_the_open_batch_comes_before_the_one_in_flight() -> None:
    ledger = ledger_with(a=["one"])
    ledger.put(FOLDER + "a", customer(["two"]))
    assert index_of(ledger) == {"two": ["a"]}
    ledger.take()
    ledger.put(FOLDER + "a", customer(["three"]))
    assert index_of(ledger) == {"three": ["a"]}
    ledger.settle(2)
    assert index_of(ledger) == {"three": ["a"]}
    ledger.take()
    ledger.settle(3)
    assert index_of(ledger) == {"three": ["a"]}


def test_steps_may_write_while_members_are_told() -> None:
    ledger = ledger_with(a=["vip"], b=["vip"], c=["vip"])
    ledger.put(FOLDER + "d", customer(["vip"]))
    told: list[str] = []
    for uid in ledger.members("s", "vip"):
        ledger.put(FOLDER + uid, customer([]))
        assert ledger.members_count("s", "vip") == 3 - len(told)
        told.append(uid)
    assert sorted(told) == ["a", "b", "c", "d"]
    assert index_of(ledger) == {}


def test_counting_many_tags_looks_at_each_pending_customer_once() -> None:
    store = Counted()
    store.apply([(f"{FOLDER}{number}", customer([f"t{number}"])) for number in range(100)], 1)
    ledger = Ledger(store)
    for number in range(0, 100, 2):
        ledger.put(f"{FOLDER}{number}", customer([]))
    ledger.put("other/customers/1", customer([]))
    assert [ledger.members_count("s", f"t{number}") for number in range(100)] == [0, 1] * 50
    assert store.asked == 50
    ledger.put(f"{FOLDER}1", customer([]))
    assert [ledger.members_count("s", f"t{number}") for number in range(4)] == [0, 0, 0, 1]
    assert store.asked == 51


ACTIONS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["s", "z"]),
            st.sampled_from("1234"),
            st.none() | st.frozensets(st.sampled_from("abc"), max_size=3),
        ),
        st.sampled_from(["take", "settle", "look"]),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(ACTIONS)
def test_whatever_is_pending_members_are_what_the_newest_records_say(
    actions: list[str | tuple[str, str, frozenset[str] | None]],
) -> None:
    ledger = Ledger(MemoryStore())
    known: dict[str, dict[str, frozenset[str]]] = {"s": {}, "z": {}}
    flying = False
    for position, action in enumerate([*actions, "look"]):
        match action:
            case "take":
                if not flying:
                    ledger.take()
                flying = True
            case "settle":
                if flying:
                    ledger.settle(position)
                flying = False
            case (source, uid, tags):
                ledger.put(f"{source}/customers/{uid}", None if tags is None else customer(tags))
                known[source].pop(uid, None)
                if tags is not None:
                    known[source][uid] = tags
            case _:
                for source, customers in known.items():
                    assert index_of(ledger, source) == {
                        tag: sorted(uid for uid, tags in customers.items() if tag in tags)
                        for tag in {tag for tags in customers.values() for tag in tags}
                    }


PUTS = st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=5)
MOVES = st.lists(st.tuples(PUTS, st.booleans(), st.booleans()), max_size=8)


@settings(deadline=None)
@given(st.sets(st.integers(0, 9)), MOVES, MOVES, st.integers(1, 4))
@example({0}, [([(0, False)], False, True), ([(0, True)], False, False)], [([], True, False)], 1)
def test_a_key_that_is_there_all_the_time_comes_once_wherever_it_is(
    stored: set[int],
    before: list[tuple[list[tuple[int, bool]], bool, bool]],
    between: list[tuple[list[tuple[int, bool]], bool, bool]],
    limit: int,
) -> None:
    store = MemoryStore()
    store.apply([(f"{FOLDER}{number}", b"0") for number in stored], 1)
    ledger = Ledger(store)

    def move(puts: list[tuple[int, bool]], settle: bool, take: bool) -> None:
        for number, stays in puts:
            ledger.put(f"{FOLDER}{number}", b"1" if stays else None)
        if settle:
            ledger.settle(store.position + 1)
        if take and ledger._flying.empty:
            ledger.take()

    for puts, settle, take in before:
        move(puts, settle, take)
    always = {int(key.removeprefix(FOLDER)) for key in ledger.keys(FOLDER)}
    ever = set(always)
    removed = {number for puts, _, _ in [*before, *between] for number, stays in puts if not stays}
    found: list[int] = []
    coming = iter(between)
    after: int | None = 0
    while after is not None:
        piece, after = ledger.keys_after(FOLDER, after, limit)
        found += [int(key.removeprefix(FOLDER)) for key in piece]
        if after is not None:
            puts, settle, take = next(coming, ([], False, False))
            move(puts, settle, take)
            always -= {number for number, stays in puts if not stays}
            ever |= {number for number, stays in puts if stays}
    assert [number for number in always if found.count(number) != 1 and number not in removed] == []
    assert always <= set(found), "also those that came back"
    assert set(found) <= ever


def test_pieces_of_keys_know_what_is_pending() -> None:
    ledger = ledger_with(a=[], b=[], c=[])
    ledger.put(FOLDER + "a", None)
    ledger.put(FOLDER + "b", customer(["vip"]))
    ledger.take()
    ledger.put(FOLDER + "d", customer([]))
    assert ledger.keys_after(FOLDER, 0, 4) == ([FOLDER + "b", FOLDER + "c", FOLDER + "d"], None)
