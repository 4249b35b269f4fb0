"""Table: the figures for people, and as JSON for comparing one run with another."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from tests.bench.figures import Figure


def show(console: Console, figures: list[Figure]) -> None:
    """One line per figure; with several rounds the median, and the least and the most below it."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in ("figure", "bridge", "min … max", "plain loop", "bridge/plain", "plain/plain", "target", ""):
        table.add_column(header, justify="left" if header == "figure" else "right", no_wrap=True)
    for figure in figures:
        middle = median(figure.values)
        met = "" if figure.met is None else "[green]met[/]" if figure.met(middle) else "[red]missed[/]"
        table.add_row(
            figure.name,
            f"{_number(middle)} {figure.unit}",
            _spread(figure.values),
            _number(median(figure.plain)) if figure.plain else "",
            _ratios(figure.ratios),
            _ratios(figure.controls),
            figure.target,
            met,
        )
    console.print()
    console.print(table)
    console.print(
        "[dim]Each figure is the median of its rounds. bridge/plain: the bridge to the mean of the two plain loops "
        "around it; plain/plain: the later of these to the earlier, what noise alone does.[/]"
    )


def write(path: Path, figures: list[Figure]) -> None:
    """Every single value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": {"python": platform.python_version(), "system": platform.platform(), "cores": os.cpu_count()},
        "figures": [
            {
                "name": figure.name.strip(),
                "unit": figure.unit,
                "target": figure.target,
                "met": None if figure.met is None else figure.met(median(figure.values)),
                "values": figure.values,
                "plain": figure.plain,
                "ratios": figure.ratios,
                "controls": figure.controls,
            }
            for figure in figures
        ],
    }
    path.write_text(json.dumps(content, indent=2) + "\n")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _spread(values: list[float]) -> str:
    return f"{_number(min(values))} … {_number(max(values))}" if len(values) > 1 else ""


def _ratios(values: list[float]) -> str:
    if not values:
        return ""
    return f"{median(values):.2f}" + (f" ({min(values):.2f} … {max(values):.2f})" if len(values) > 1 else "")
