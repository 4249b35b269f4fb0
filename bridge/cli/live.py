"""What the demo shows: events as they arrive in Kafka, counted and timed against what really happened."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from bridge.cli.acting import Answer, Desk
from bridge.model import instant
from bridge.publish.reading import Message
from bridge.sandbox.population.truth import Truth

LAST_EVENTS = 12
LATENCIES_MAX = 1_000_000
"""Seconds kept as floats: 8 MB, more than a day of the demo's world."""


class Line(NamedTuple):
    """One event on the screen."""

    sequence: int
    type: str
    subject: str
    changed: str
    latency_s: float | None


class Tally:
    """Events by type, and the time from a change to the moment when a consumer can read its event.

    The time of a change is the provider's; for what the provider does not date, deletions of tags and users and what
    happens to memberships, the world's. Memberships are told apart: they are found by going round, not by polls.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.lines: deque[Line] = deque(maxlen=LAST_EVENTS)
        self.latencies: deque[float] = deque(maxlen=LATENCIES_MAX)
        self.edge_latencies: deque[float] = deque(maxlen=LATENCIES_MAX)
        self._deleted_at: dict[str, float] = {}
        self._edge_at: dict[tuple[str, str, str], float] = {}
        self._truth_numbers: dict[int, int] = {}

    def truth_number(self, world: int) -> int:
        """Of the last entry of a world's truth log taken note of."""
        return self._truth_numbers.get(world, 0)

    def learn(self, world: int, truth: Sequence[Truth]) -> None:
        """Take note of what the provider will not date."""
        for entry in truth:
            self._truth_numbers[world] = entry.number
            if entry.kind in ("deleted", "merged"):
                self._deleted_at[entry.uid] = entry.at
            elif entry.kind in _EDGES:
                self._edge_at[entry.kind, entry.uid, entry.detail["tag"]] = entry.at

    def count(self, message: Message, now: float) -> None:
        """One event that a `read_committed` consumer got at `now` (wall-clock seconds)."""
        headers = dict(message.headers)
        kind = (headers.get("ce_type") or b"").decode().removeprefix("bridge.").removesuffix(".v1")
        data: dict[str, Any] = orjson.loads(message.value or b"{}")
        subject = (headers.get("ce_subject") or b"").decode()
        self.counts[kind] += 1
        latency = None
        verb = kind.rpartition(".")[2]
        if verb in _EDGES:
            happened_at = self._edge_at.pop((verb, subject, data["tag"]["uid"]), None)
            if happened_at is not None:
                latency = now - happened_at
                self.edge_latencies.append(latency)
        elif verb != "snapshot":
            changed_at = self._deleted_at.pop(subject, None) if verb in ("deleted", "merged") else None
            latency = now - (changed_at or instant(data["changed_at"]) / 1_000_000)
            self.latencies.append(latency)
        changed = ", ".join(pointer[1:] for pointer in data.get("changed", ()))
        self.lines.append(Line(data.get("sequence", 0), kind, subject, changed, latency))


_EDGES = frozenset({"tagged", "untagged"})


def screen(tally: Tally, desk: Desk, title: str) -> RenderableType:
    """The whole live view."""
    answers = [escape(answer_line(answer)) for answer in reversed(desk.answers)]
    said = f"commands answered, the last ones first ({desk.mirrored} edges mirrored, {desk.open} commands under way):"
    return Group(title, "", counts_table(tally), "", _last_events(tally), "", latency_line(tally), "", said, *answers)


def answer_line(answer: Answer) -> str:
    """What became of a command."""
    return f"{answer.id}: {answer.kind} at {answer.source} {answer.outcome} in {answer.seconds:.2f} s: {answer.detail}"


def counts_table(tally: Tally) -> Table:
    """Events by type."""
    table = Table("event type", "published", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for kind, count in sorted(tally.counts.items()):
        table.add_row(kind, f"{count:,}")
    return table


def latency_line(tally: Tally) -> str:
    """A sentence about the latency."""
    if not tally.latencies:
        return "latency: no change yet"
    said = f"latency from the change at the provider to a readable event: {_figures(tally.latencies)}"
    return f"{said}; of memberships: {_figures(tally.edge_latencies)}" if tally.edge_latencies else said


def _figures(latencies: Sequence[float]) -> str:
    ordered = sorted(latencies)
    p50, p99 = (ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.5, 0.99))
    return f"p50 {p50:.2f} s, p99 {p99:.2f} s ({len(ordered)} changes)"


def _last_events(tally: Tally) -> Table:
    table = Table("sequence", "event", "subject", "changed", "latency", box=None, pad_edge=False)
    for line in reversed(tally.lines):
        latency = "" if line.latency_s is None else f"{line.latency_s:.2f} s"
        table.add_row(str(line.sequence), line.type, escape(line.subject), escape(line.changed[:60]), latency)
    return table
