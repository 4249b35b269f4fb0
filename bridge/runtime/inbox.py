"""Inbox: a shard's waiting records, and what each of them comes to.

Every record moves the offset in the transaction of what it caused, whatever it is. A signal takes effect in the state,
and its outcome and the note that it is done (see `answers`) are in the same transaction: a crash before the commit
leaves nothing of it, one after the commit nothing to do. A command that needs the provider is accepted: it is in the
state then, and executed behind the inbox (see `commands.executor`), so it holds up nobody here. What is no command goes
to the dead letters, and is answered when it says whom.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bridge.clock import Clock
from bridge.commands.command import Command, Kind, ProviderCommand, Reason, Refusal, Signal, collection_of, parse
from bridge.commands.outcome import Outcome, applied, rejected
from bridge.observability.logs import get_logger
from bridge.publish.deadletter import DeadLetter
from bridge.publish.inbox import InboxRecord
from bridge.publish.topics import TopicPlan
from bridge.runtime.answers import EXPIRES_S, Answers
from bridge.runtime.commands.executor import Executor
from bridge.runtime.commands.queue import BYTES_MAX, COMMANDS_MAX, ENVELOPE_BYTES_MAX
from bridge.runtime.ledger import Ledger
from bridge.runtime.loop import SourceLoop

KEY_BYTES_MAX = 1_024
"""Of a dead letter's key; a source id is shorter."""

NOWHERE = "@"
"""Stands for the source of a record that is of none that is known here."""

log = get_logger(__name__)


class InboxDesk:
    """Deals with one record after the other during one opening of a shard. Synchronous: a record is never half done."""

    def __init__(
        self,
        readings: Mapping[str, Sequence[SourceLoop]],
        executors: Mapping[str, Executor],
        ledger: Ledger,
        answers: Answers,
        topics: TopicPlan,
        clock: Clock,
    ) -> None:
        self._readings = readings
        self._executors = executors
        self._ledger = ledger
        self._answers = answers
        self._topics = topics
        self._clock = clock

    def take(self, record: InboxRecord) -> None:
        """Write everything that the record means, and that it was read."""
        self._judge(record)
        self._ledger.open.inbox_offset = record.offset + 1
        self._ledger.wake()

    def prune(self) -> None:
        """Forget commands that cannot come back, some at a time. Called with every tick."""
        self._answers.prune((*self._readings, NOWHERE))

    def _judge(self, record: InboxRecord) -> None:
        parsed = parse(record.key, record.value)
        named = parsed.source if _is_key(record.key, parsed.source) and parsed.source in self._readings else None
        source = named or NOWHERE
        before = None if parsed.id is None else self._digest(source, parsed.id)
        if before is not None:
            if before != parsed.digest:
                detail = "another command had this id before; it stands, this one has no effect"
                self._bury(record, Refusal(Reason.CONFLICT, detail, source=named))
            return
        refusal = parsed if isinstance(parsed, Refusal) else self._refused(parsed, record)
        if refusal is not None:
            self._bury(record, refusal._replace(source=named))
            if refusal.id is not None:
                collection = collection_of(parsed) if isinstance(parsed, Command) else None
                self._answers.give(source, refusal.digest, rejected(refusal, collection, self._answers.now()))
            return
        if isinstance(parsed, ProviderCommand):
            self._executors[source].queue.accept(parsed)
            return
        assert isinstance(parsed, Signal), "what is no command was refused"
        self._answers.give(source, parsed.digest, self._apply(parsed))
        if source in self._executors:
            self._executors[source].queue.tell()

    def _digest(self, source: str, command: str) -> str | None:
        """Of the command that had this id before, answered or accepted; also one of nowhere, before it was known."""
        answered = self._answers.digest((source, NOWHERE), command)
        if answered is not None:
            return answered
        executor = self._executors.get(source)
        return None if executor is None else executor.queue.digest(command)

    def _refused(self, command: Command, record: InboxRecord) -> Refusal | None:
        """Why a well-formed command has no effect here; None when it has one."""

        def refusal(reason: Reason, detail: str) -> Refusal:
            return Refusal(reason, detail, command.id, command.kind, command.source, command.digest)

        readings = self._readings.get(command.source)
        if readings is None:
            return refusal(Reason.UNKNOWN_SOURCE, "no source of this name is configured where the command arrived")
        collection = collection_of(command)
        if collection is not None and collection not in [reading.collection for reading in readings]:
            return refusal(Reason.UNKNOWN_SOURCE, f"{collection} of this source are not read")
        if 0 < record.timestamp_ms < (self._clock.wall() - EXPIRES_S) * 1000:
            return refusal(Reason.EXPIRED, "the command is so old that nobody knows whether it was done before")
        if not isinstance(command, ProviderCommand):
            return None
        executor = self._executors.get(command.source)
        if executor is None or not executor.takes(command):
            return refusal(Reason.UNSUPPORTED, "this source takes no such commands, or its customers are not read")
        if len(record.value or b"") > self._topics.record_bytes_max - ENVELOPE_BYTES_MAX:
            return refusal(Reason.TOO_LARGE, "the command is larger than the topics take")
        if executor.queue.full:
            return refusal(
                Reason.BUSY,
                f"too many commands wait already ({COMMANDS_MAX}, or {BYTES_MAX} bytes of them); "
                "send it again later, as a new one",
            )
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
            return applied(signal, said, self._answers.now(), count)
        if signal.kind is Kind.RESYNC:
            paused = any([reading.resync() for reading in readings])
            said = "a complete reading begins" + (", once it is not paused any more" if paused else "")
        elif signal.kind is Kind.PAUSE:
            said = "paused" if any([reading.pause() for reading in readings]) else "it was paused already"
        else:
            assert signal.kind is Kind.RESUME, "every kind has its effect"
            said = "it goes on" if any([reading.resume() for reading in readings]) else "it was not paused"
        return applied(signal, said, self._answers.now())

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


def _is_key(key: bytes | None, source: str | None) -> bool:
    return source is not None and key == source.encode()
