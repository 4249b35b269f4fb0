"""Report: a verdict for people and for scripts.

The last line is always `verify: ok` or `verify: BROKEN (…)`, the one before `0 lost, 0 doubled, 0 out of order` with
the numbers.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bridge.verify.verdict import Verdict


def last_line(verdict: Verdict) -> str:
    """The verdict in a line."""
    if verdict.ok:
        return "verify: ok"
    return f"verify: BROKEN ({verdict.total} finding{'s' if verdict.total > 1 else ''})"


def sum_line(verdict: Verdict) -> str:
    """What consumers would ask first; other breaks are in the table only."""
    return f"{verdict.lost:,} lost, {verdict.doubled:,} doubled, {verdict.disordered:,} out of order"


def show(verdict: Verdict, console: Console) -> None:
    """A table, the findings, the notes, the last line."""
    table = Table("", "invariant", "result", box=None, pad_edge=False)
    for invariant in verdict.checked:
        broken = verdict.broken(invariant)
        result = f"[red]{broken} broken[/]" if broken else "[green]ok[/]"
        table.add_row(invariant.value, invariant.meaning, result)
    console.print(table)
    console.print(", ".join(f"{name}: {figure:,}" for name, figure in verdict.figures.items()), highlight=False)
    for finding in verdict.findings:
        console.print(f"[red]{finding.invariant} {finding.kind}[/]  {escape(finding.text)}", highlight=False)
    if verdict.hidden:
        console.print(f"… and {verdict.hidden:,} more", highlight=False)
    for note in verdict.notes:
        console.print(f"[yellow]note[/]  {escape(note)}", highlight=False)
    console.print(sum_line(verdict), highlight=False)
    console.print(last_line(verdict), style="bold green" if verdict.ok else "bold red", highlight=False)


def as_json(verdict: Verdict) -> dict[str, Any]:
    """Everything, for `--json`. `Any`: JSON."""
    return {
        "ok": verdict.ok,
        "total": verdict.total,
        "lost": verdict.lost,
        "doubled": verdict.doubled,
        "out_of_order": verdict.disordered,
        "invariants": [
            {"invariant": invariant, "meaning": invariant.meaning, "broken": verdict.broken(invariant)}
            for invariant in verdict.checked
        ],
        "figures": verdict.figures,
        "counts": [
            {"invariant": invariant, "kind": kind, "count": count}
            for (invariant, kind), count in verdict.counts.items()
        ],
        "findings": [finding._asdict() for finding in verdict.findings],
        "notes": verdict.notes,
    }
