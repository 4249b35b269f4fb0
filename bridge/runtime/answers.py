"""Answers: what becomes of commands, written once each: the outcome, and the note that keeps it the only one.

Both are in the transaction of what the command has caused. The note keeps a command that comes again (from another
client, after a restart, in a replay of the whole topic) from having a second effect, for as long as the record can
come back.
"""

from __future__ import annotations

from collections.abc import Sequence

from bridge.clock import Clock
from bridge.commands.command import mirror_of
from bridge.commands.outcome import Outcome, Why
from bridge.model import iso, key_of
from bridge.publish.topics import INBOX_SECONDS_MAX, TopicPlan
from bridge.publish.transaction import Record
from bridge.runtime.ledger import Answer, Ledger
from bridge.store.record import decode_json, encode_json

DAY_S = 86_400.0

EXPIRES_S = INBOX_SECONDS_MAX
"""A record that is older should be gone from the topic. Nobody may know any more whether it is done, so it is not."""

DONE_S = EXPIRES_S + DAY_S
"""How long a command that is done is remembered; a day more, because two clocks are compared."""

PRUNE_S = 600.0
"""From the end of a look at everything that is remembered to the beginning of the next one."""

PIECE = 1_000
"""Looked at with one call: some 30 ms of the event loop. More than a shard answers between two ticks."""

DONE = "done"
"""Second part of a state key, `source/done/id`. The source is `@` when the record is of none that is known here."""


class Answers:
    """Of one opening of a shard. Synchronous."""

    def __init__(self, ledger: Ledger, topics: TopicPlan, clock: Clock) -> None:
        self._ledger = ledger
        self._topics = topics
        self._clock = clock
        self._prune_at = clock.monotonic()
        self._looked: tuple[int, int] = (0, 0)  # source and place at which the look goes on

    def digest(self, sources: Sequence[str], command: str) -> str | None:
        """Of the command with this id that was answered for the first of these sources; None when none was."""
        keys = [key_of(source, DONE, command) for source in sources]
        found = self._ledger.get_many(keys)
        return next((str(decode_json(found[key])["digest"]) for key in keys if key in found), None)

    def give(self, source: str, digest: str, outcome: Outcome) -> None:
        """Answer a command of a source, or of `@`."""
        done = {"at": self._clock.wall(), "digest": digest, "outcome": outcome.outcome}
        self._ledger.put(key_of(source, DONE, outcome.id), encode_json(done))
        self._ledger.write(Record(self._topics.outcomes, None, outcome.id.encode(), outcome.encode()))
        self._ledger.open.answers.append(Answer(outcome.source or "", outcome.kind or "", outcome.outcome))
        mirror = mirror_of(outcome.id)
        unmatched = sum(others.count for others in outcome.others if others.why is Why.UNMATCHED)
        if mirror is not None and unmatched:
            self._ledger.open.unmatched[mirror] = self._ledger.open.unmatched.get(mirror, 0) + unmatched
        self._ledger.wake()

    def prune(self, sources: Sequence[str]) -> None:
        """Forget commands that cannot come back, some at a time. Called with every tick, with the same sources."""
        if self._clock.monotonic() < self._prune_at:
            return
        number, after = self._looked
        keys, following = self._ledger.keys_after(key_of(sources[number], DONE, ""), after, PIECE)
        oldest = self._clock.wall() - DONE_S
        for key, value in self._ledger.get_many(keys).items():
            if decode_json(value)["at"] < oldest:
                self._ledger.put(key, None)
        if following is not None:
            self._looked = (number, following)
        elif number + 1 < len(sources):
            self._looked = (number + 1, 0)
        else:
            self._looked = (0, 0)
            self._prune_at = self._clock.monotonic() + PRUNE_S

    def now(self) -> str:
        """For outcomes."""
        return iso(int(self._clock.wall() * 1_000_000))
