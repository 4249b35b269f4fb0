"""Inbox: a shard's waiting records, and what each of them comes to.

Every record moves the offset in the transaction of what it caused, whatever it is. A command takes effect in the
state, and its outcome and the note that it is done are in the same transaction: a crash before the commit leaves
nothing of it, one after the commit nothing to do. The note keeps a command that comes again (from another client,
after a restart, in a replay of the whole topic) from having a second effect, for as long as the record can come back.
What is no command goes to the dead letters, and is answered when it says whom.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bridge.clock import Clock
from bridge.commands.command import Kind, Reason, Refusal, Signal, parse
from bridge.commands.outcome import Outcome, applied, rejected
from bridge.model import iso, key_of
from bridge.observability.logs import get_logger
from bridge.publish.deadletter import DeadLetter
from bridge.publish.inbox import InboxRecord
from bridge.publish.topics import INBOX_SECONDS_MAX, TopicPlan
from bridge.publish.transaction import Record
from bridge.runtime.ledger import Answer, Ledger
from bridge.runtime.loop import SourceLoop
from bridge.store.record import decode_json, encode_json

KEY_BYTES_MAX = 1_024
"""Of a dead letter's key; a source id is shorter."""

DAY_S = 86_400.0

EXPIRES_S = INBOX_SECONDS_MAX
"""A record that is older should be gone from the topic. Nobody may know any more whether it is done, so it is not."""

DONE_S = EXPIRES_S + DAY_S
"""How long a command that is done is remembered; a day more, because two clocks are compared."""

PRUNE_S = 600.0
"""Between two looks for what need not be remembered any more."""

PRUNED_MAX = 1_000
"""Forgotten at one look, so that it never fills a transaction."""

DONE = "done"
"""Second part of a state key, `source/done/id`. The source is `@` when the record is of none that is known here."""

NOWHERE = "@"

log = get_logger(__name__)


class InboxDesk:
    """Deals with one record after the other during one opening of a shard. Synchronous: a record is never half done."""

    def __init__(
        self, readings: Mapping[str, Sequence[SourceLoop]], ledger: Ledger, topics: TopicPlan, clock: Clock
    ) -> None:
        self._readings = readings
        self._ledger = ledger
        self._topics = topics
        self._clock = clock
        self._prune_at = clock.monotonic()

    def take(self, record: InboxRecord) -> None:
        """Write everything that the record means, and that it was read."""
        self._judge(record)
        self._ledger.open.inbox_offset = record.offset + 1
        self._ledger.wake()

    def prune(self) -> None:
        """Forget commands that cannot come back. Called often, looks rarely."""
        now = self._clock.monotonic()
        if now < self._prune_at:
            return
        self._prune_at = now + PRUNE_S
        oldest, left = self._clock.wall() - DONE_S, PRUNED_MAX
        for source in (*self._readings, NOWHERE):
            for key in list(self._ledger.keys(key_of(source, DONE, ""))):
                stored = self._ledger.get(key)
                if left > 0 and stored is not None and decode_json(stored)["at"] < oldest:
                    self._ledger.put(key, None)
                    left -= 1

    def _judge(self, record: InboxRecord) -> None:
        parsed = parse(record.key, record.value)
        named = parsed.source if _is_key(record.key, parsed.source) and parsed.source in self._readings else None
        source = named or NOWHERE
        done = None if parsed.id is None else self._ledger.get(key_of(source, DONE, parsed.id))
        if done is not None:
            if decode_json(done)["digest"] != parsed.digest:
                detail = "another command had this id before; it stands, this one has no effect"
                self._bury(record, Refusal(Reason.CONFLICT, detail, source=named))
            return
        refusal = parsed if isinstance(parsed, Refusal) else self._refused(parsed, record)
        if refusal is not None:
            self._bury(record, refusal._replace(source=named))
            if refusal.id is not None:
                collection = parsed.collection if isinstance(parsed, Signal) else None
                self._answer(source, refusal.digest, rejected(refusal, collection, self._now()))
            return
        assert isinstance(parsed, Signal), "what is no command was refused"
        self._answer(source, parsed.digest, self._apply(parsed))

    def _refused(self, signal: Signal, record: InboxRecord) -> Refusal | None:
        """Why a well-formed command has no effect here; None when it has one."""

        def refusal(reason: Reason, detail: str) -> Refusal:
            return Refusal(reason, detail, signal.id, signal.kind, signal.source, signal.digest)

        readings = self._readings.get(signal.source)
        if readings is None:
            return refusal(Reason.UNKNOWN_SOURCE, "no source of this name is configured where the command arrived")
        if signal.collection is not None and signal.collection not in [reading.collection for reading in readings]:
            return refusal(Reason.UNKNOWN_SOURCE, f"{signal.collection} of this source are not read")
        if 0 < record.timestamp_ms < (self._clock.wall() - EXPIRES_S) * 1000:
            return refusal(Reason.EXPIRED, "the command is so old that nobody knows whether it was done before")
        return None

    def _apply(self, signal: Signal) -> Outcome:
        """Do what is asked, as far as it is not so already; the loops see it at once, the world with the commit."""
        readings = [
            reading for reading in self._readings[signal.source] if signal.collection in (None, reading.collection)
        ]
        log.info("signal", source=signal.source, kind=signal.kind, collection=signal.collection, id=signal.id)
        if signal.kind is Kind.APPROVE:
            count = sum([reading.approve() for reading in readings])
            said = "they are deleted if they are still missing" if count else "no deletions were held"
            return applied(signal, said, self._now(), count)
        if signal.kind is Kind.RESYNC:
            paused = any([reading.resync() for reading in readings])
            said = "a complete reading begins" + (", once it is not paused any more" if paused else "")
        elif signal.kind is Kind.PAUSE:
            said = "paused" if any([reading.pause() for reading in readings]) else "it was paused already"
        else:
            assert signal.kind is Kind.RESUME, "every kind has its effect"
            said = "it goes on" if any([reading.resume() for reading in readings]) else "it was not paused"
        return applied(signal, said, self._now())

    def _answer(self, source: str, digest: str, outcome: Outcome) -> None:
        done = {"at": self._clock.wall(), "digest": digest, "outcome": outcome.outcome}
        self._ledger.put(key_of(source, DONE, outcome.id), encode_json(done))
        self._ledger.write(Record(self._topics.outcomes, None, outcome.id.encode(), outcome.encode()))
        self._ledger.open.answers.append(Answer(outcome.source or "", outcome.kind or "", outcome.outcome))

    def _bury(self, record: InboxRecord, refusal: Refusal) -> None:
        letter = DeadLetter(
            refusal.reason,
            f"{refusal.detail} (offset {record.offset} of partition {record.partition})",
            refusal.source or "",
            "",
            self._topics.inbox,
            None,
            record.value or b"",
        )
        # Cut like the value, or a key of the size of a record would be refused for ever.
        key = (record.key or b"")[:KEY_BYTES_MAX].decode("utf-8", "replace")
        self._ledger.write(letter.record(self._topics.deadletters, key, self._topics.record_bytes_max))
        self._ledger.open.deadletters.append(letter.reason)

    def _now(self) -> str:
        return iso(int(self._clock.wall() * 1_000_000))


def _is_key(key: bytes | None, source: str | None) -> bool:
    return source is not None and key == source.encode()
