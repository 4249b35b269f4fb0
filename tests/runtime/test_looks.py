"""Looks: one after the other, none for nobody, and what of a list is doubted behind them."""

from __future__ import annotations

import asyncio

import pytest

from bridge.errors import RetryLater
from bridge.model import Cause, Document, Path
from bridge.runtime import looks
from bridge.runtime.ledger import Ledger
from bridge.runtime.looks import LATE_S, Doubts, Looks
from bridge.store.memory import MemoryStore
from tests.support.clock import VirtualClock, run_virtual

CAUSE = Cause(Path.COMMAND, "c")


def known(uid: str) -> list[Document]:
    return [Document(uid, {"uid": uid}, 1)]


def test_looks_are_answered_in_their_order_and_one_that_is_given_up_is_left_out() -> None:
    async def main(clock: VirtualClock) -> None:
        asked: Looks[str] = Looks()
        loop = asyncio.get_running_loop()
        first, second, third = (loop.create_task(asked.ask(known(uid), CAUSE)) for uid in "abc")
        await asked.wait(5.0)
        look = asked.first()
        assert look is not None
        assert asked.first() is look, "until it is answered"
        second.cancel()
        await asyncio.sleep(0)
        look.answer("seen")
        look = asked.first()
        assert look is not None
        assert look.known == known("c")
        look.fail(RetryLater("not now"))
        with pytest.raises(RetryLater):
            await third
        assert await first == "seen"
        assert asked.first() is None
        began = loop.time()
        await asked.wait(5.0)
        assert loop.time() - began == pytest.approx(5.0)

    run_virtual(main)


def test_what_was_looked_at_is_doubted_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "DOUBTS_MAX", 2)

    async def main(clock: VirtualClock) -> None:
        doubts = Doubts(clock)
        assert doubts.of(["a", "b"]) == {"a", "b"}, "of everything, behind an opening"
        await clock.sleep(LATE_S)
        assert doubts.of(["a", "b"]) == set()
        doubts.note(["a", "b"])
        await clock.sleep(LATE_S / 2)
        doubts.note(["c"])
        assert doubts.of(["a", "b", "c", "d"]) == {"b", "c"}, "of the latest, when there are too many"
        await clock.sleep(LATE_S / 2)
        assert doubts.of(["a", "b", "c"]) == {"c"}

    run_virtual(main)


def test_who_waits_for_a_commit_waits_for_the_batch_that_is_open() -> None:
    async def main(clock: VirtualClock) -> None:
        ledger = Ledger(MemoryStore())
        ledger.put("s/done/1", b"1")
        ledger.take()
        ledger.put("s/done/2", b"2")
        waiting = asyncio.ensure_future(ledger.wait_committed())
        await asyncio.sleep(1)
        ledger.settle(1)
        await asyncio.sleep(1)
        assert not waiting.done(), "the batch before it is no news"
        ledger.take()
        ledger.settle(2)
        await asyncio.wait_for(waiting, 1)

    run_virtual(main)
