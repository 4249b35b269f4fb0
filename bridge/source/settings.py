"""Settings: what the settings of every provider's account have in common, as validators. Errors never show a value."""

from __future__ import annotations

import re

from bridge.model import SOURCE_ID

_LOCAL_URL = re.compile(r"http://(?:localhost|127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[::1\])(?::\d{1,5})?(?:/.*)?", re.ASCII)


def source_id(value: str) -> str:
    """The source's id in the bridge; ValueError otherwise."""
    if not SOURCE_ID.fullmatch(value):
        raise ValueError("must match ^[a-z0-9][a-z0-9-]{0,62}$")
    return value


def base_url(value: str) -> str:
    """Where credentials may be sent; ValueError otherwise."""
    if not value.startswith("https://") and not _LOCAL_URL.fullmatch(value):
        raise ValueError("must begin with https:// (http:// only for this machine)")
    return value
