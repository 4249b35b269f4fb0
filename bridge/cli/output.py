"""Output: what every command does alike when it prints for scripts, or tells how far it is."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
import orjson
from rich.console import Console
from rich.progress import Progress, TaskID

JSON = click.option("--json", "as_json", is_flag=True, help="JSON, one object per line.")

_UNPRINTABLE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


def safe_json(value: Any, option: int = 0) -> str:
    """JSON whose invisible and steering characters are escaped, which leaves it the same JSON. `Any`: JSON."""
    text = orjson.dumps(value, option=option).decode()
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


@contextmanager
def progress_on(console: Console, command: str) -> Iterator[Callable[[str, int, int], None]]:
    """Bars on a terminal; elsewhere a line per finished stage that took a while."""
    if console.is_terminal:
        with Progress(console=console, transient=True) as bars:
            tasks: dict[str, TaskID] = {}

            def move(stage: str, done: int, total: int) -> None:
                task = tasks.get(stage)
                if task is None:
                    task = tasks[stage] = bars.add_task(stage, total=total)
                bars.update(task, completed=done, total=max(total, 1))

            yield move
        return
    last = time.monotonic()

    def tell(stage: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= 5.0:
            last = time.monotonic()
            console.print(f"{command}: {stage} {done:,} of {total:,}", highlight=False)

    yield tell
