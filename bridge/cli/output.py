"""Output: what every command does alike when it prints for scripts."""

from __future__ import annotations

import re
from typing import Any

import click
import orjson

JSON = click.option("--json", "as_json", is_flag=True, help="JSON, one object per line.")

_UNPRINTABLE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


def safe_json(value: Any, option: int = 0) -> str:
    """JSON whose invisible and steering characters are escaped, which leaves it the same JSON. `Any`: JSON."""
    text = orjson.dumps(value, option=option).decode()
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
