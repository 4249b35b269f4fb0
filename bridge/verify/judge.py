"""Judge: from what the checker has gathered to findings, once everything was read.

One break gives one finding wherever that can be told: a number that was not seen is a gap, and whatever else does
not fit because of it (a `prior`, a state record that names it) is not told again.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from bridge.verify.tables import KeyTable, Mark, SourceTable, WaitingPrior
from bridge.verify.verdict import Invariant, Verdict, printable


@dataclass(slots=True)
class Evidence:
    """keys, sources, priors: the checker's own, shared. restored: a restore was looked at. truncated: retention has
    reached some event partition."""

    keys: KeyTable
    sources: dict[str, SourceTable]
    priors: list[WaitingPrior]
    restored: bool = False
    truncated: bool = False

    def excused(self, source: SourceTable, first_missing: int) -> bool:
        """True when a gap that begins here may be history: the event before it is old enough to be reached."""
        return self.truncated and first_missing - 1 <= source.old


def judge(evidence: Evidence, verdict: Verdict) -> None:
    """Add every finding, figure and note to the verdict."""
    for name, source in sorted(evidence.sources.items()):
        _sequences(evidence, printable(name), source, verdict)
        _counters(printable(name), source, verdict)
    _priors(evidence, verdict)
    if evidence.restored:
        verdict.checked.append(Invariant.CACHE)
        _restored(evidence.keys, verdict)
    _documents(evidence, verdict)
    verdict.figures |= {
        "sources": len(evidence.sources),
        "keys": sum(1 for mark in evidence.keys.marks if mark & Mark.DOCUMENT),
        "events": sum(source.log.count for source in evidence.sources.values()),
    }


def _sequences(evidence: Evidence, name: str, source: SourceTable, verdict: Verdict) -> None:
    history = begins = 0
    for first, last in source.log.gaps(source.last):
        if evidence.excused(source, first):
            history += last - first + 1
            begins = last + 1
            continue
        numbers = f"number {first} is" if first == last else f"numbers {first} to {last} are"
        text = f"source {name}: {numbers} missing; the counters say {source.last}"
        verdict.add(Invariant.SEQUENCE, "missing", text, last - first + 1)
    if history:
        verdict.notes.append(
            f"source {name}: its history is whole from number {begins}; {history} older events have left the topics "
            "and were not checked"
        )
    for one, other in source.log.same_ids():
        verdict.add(Invariant.SEQUENCE, "id", f"source {name}: events {one} and {other} have the same id")


def _counters(name: str, source: SourceTable, verdict: Verdict) -> None:
    if source.lags():
        text = f"the counters say {max(source.last, source.later)}, but there is an event {source.highest}"
        verdict.add(Invariant.ATOMIC, "counters", f"source {name}: {text}")
    counted = source.counters.deletions
    if source.deleted != counted and source.log.count == source.last:
        text = f"the counters say {counted} deletions, the events {source.deleted}"
        verdict.add(Invariant.ATOMIC, "deletions", f"source {name}: {text}")


def _priors(evidence: Evidence, verdict: Verdict) -> None:
    wrong = []
    for waiting in evidence.priors:
        owner = evidence.sources[waiting.source].log.row_of(waiting.prior)
        # Not seen at all: a gap. Seen, but later than this event: out of order. Both are told already.
        if owner is not None and owner != waiting.row:
            wrong.append(waiting)
    names = evidence.keys.names({waiting.row for waiting in wrong})
    for waiting in wrong:
        text = f"`prior` {waiting.prior} is an event of another key"
        verdict.add(Invariant.SEQUENCE, "prior", f"event {waiting.sequence} of {printable(names[waiting.row])}: {text}")


def _restored(keys: KeyTable, verdict: Verdict) -> None:
    for key, row in keys.rows.items():
        mark = keys.marks[row]
        if mark & Mark.MOVED:
            continue
        restored, present = bool(mark & Mark.RESTORED), bool(mark & Mark.STATE)
        if restored and present:
            if keys.restored_raw[row] != keys.state_raw[row]:
                verdict.add(Invariant.CACHE, "restored_differs", f"{printable(key)}: a restore brings another record")
        elif restored:
            text = "a restore brings a record that the state does not have"
            verdict.add(Invariant.CACHE, "restored_extra", f"{printable(key)}: {text}")
        elif present:
            verdict.add(Invariant.CACHE, "restored_lacks", f"{printable(key)}: a restore does not bring its record")


def _documents(evidence: Evidence, verdict: Verdict) -> None:
    keys = evidence.keys
    held: Counter[str] = Counter()
    for key, row in keys.rows.items():
        if not keys.marks[row] & Mark.DOCUMENT:
            continue
        name, collection, _ = key.split("/", 2)
        state = keys.held(row)
        if state is not None and state[1]:
            held[f"{name}/{collection}"] += 1
        broken = _document(keys, row, state, evidence.sources.get(name) or SourceTable())
        if broken is not None:
            invariant, kind, text = broken
            verdict.add(invariant, kind, f"{printable(key)}: {text}")
    for name, source in evidence.sources.items():
        for collection, counted in source.counters.documents.items():
            found = held[f"{name}/{collection}"]
            if found != counted:
                text = f"the counters say {counted} {collection}, the state holds {found}"
                verdict.add(Invariant.ATOMIC, "documents", f"source {printable(name)}: {text}")


def _document(
    keys: KeyTable, row: int, state: tuple[int, int] | None, source: SourceTable
) -> tuple[Invariant, str, str] | None:
    """What does not fit between a key's last event and its state record."""
    alive = bool(keys.marks[row] & Mark.ALIVE)
    last = keys.fold_sequence[row]
    if state is None:
        return (Invariant.EXACT, "state_lacks", f"in event {last}, but not in the state") if alive else None
    number, document = state
    if number > source.last:
        return Invariant.ATOMIC, "ahead", f"its state names event {number}, the counters {source.last}"
    if number == 0:
        # Stored without an event: silently at first sight, or only refused copies were seen. No event may be open.
        return (Invariant.ATOMIC, "number", f"its state names no event, the last one is {last}") if alive else None
    if document == 0:
        return Invariant.EXACT, "differs", f"its state names event {number}, but holds no document"
    if alive and number == last:
        same = document == keys.fold_document[row]
        return None if same else (Invariant.EXACT, "differs", f"its state is not what event {last} says")
    if source.log.row_of(number) is None:
        return None  # event `number` itself was not seen: a gap, which is told or excused
    if alive:
        return Invariant.ATOMIC, "number", f"its state names event {number}, its last one is {last}"
    if last:
        return Invariant.EXACT, "state_keeps", f"deleted by event {last}, but still in the state"
    return Invariant.ATOMIC, "number", f"its state names event {number}, which is another key's"
