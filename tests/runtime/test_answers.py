"""Answers are remembered as long as their records may come back, and forgotten a piece at a time."""

from __future__ import annotations

from bridge.model import key_of
from bridge.runtime import answers as module
from bridge.runtime.answers import DONE, DONE_S, PIECE, PRUNE_S, Answers
from bridge.runtime.ledger import Ledger
from bridge.store.memory import MemoryStore
from bridge.store.record import encode_json
from tests.runtime.shards import TOPICS
from tests.support.clock import VirtualClock, run_virtual


def test_what_cannot_come_back_is_forgotten_in_pieces_and_everything_else_stays() -> None:
    async def main(clock: VirtualClock) -> None:
        ledger = Ledger(MemoryStore())
        answers = Answers(ledger, TOPICS, clock)
        old, new = clock.wall() - DONE_S - 1, clock.wall()
        for number in range(3 * PIECE):
            at = new if number % 3 else old
            ledger.put(key_of("acme", DONE, f"c{number}"), encode_json({"at": at, "digest": "", "outcome": "applied"}))
        ledger.put(key_of("@", DONE, "c"), encode_json({"at": old, "digest": "", "outcome": "rejected"}))
        ledger.take()
        ledger.settle(0)
        for _ in range(10):
            answers.prune(("acme", "@"))
            batch = ledger.take()
            assert len(batch.state) <= PIECE
            ledger.settle(0)
        left = [key for name in ("acme", "@") for key in ledger.keys(key_of(name, DONE, ""))]
        assert len(left) == 2 * PIECE
        ledger.put(key_of("acme", DONE, "late"), encode_json({"at": old, "digest": "", "outcome": "applied"}))
        answers.prune(("acme", "@"))
        assert answers.digest(("acme",), "late") is not None, "it is looked at now and then"
        await clock.sleep(PRUNE_S + 1)
        answers.prune(("acme", "@"))
        answers.prune(("acme", "@"))
        for _ in range(5):
            answers.prune(("acme", "@"))
        assert answers.digest(("acme",), "late") is None

    run_virtual(main)
    assert module.PIECE >= 1_000, "more than a shard answers between two ticks"
