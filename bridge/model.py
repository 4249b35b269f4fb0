"""The words of the bridge: documents, keys, instants, causes. Pure values, no I/O.

A *document* is a provider's object in our own words (`customer`, `tag`, `user`), the same for every provider. Its
*body* is a JSON object without absent fields: null, absent and `{}` mean the same and are never stored. A *key* is
`source/collection/uid`; `uid` is the provider's immutable id. The first two parts never hold a slash, so a key
splits unambiguously whatever the uid is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple

Body = dict[str, Any]
"""A JSON object: str keys; values are str, int, float, bool, list or object. `Any` because JSON is recursive."""

SOURCE_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
"""A source id; part of every key, so it has no slash and no upper case."""

DAYS_CACHED = 4096
"""Rendered dates kept at hand, about eleven years: every event carries two instants."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_MINUTES = [f"{minute // 60:02d}:{minute % 60:02d}:" for minute in range(24 * 60)]
_SECONDS = [f"{second:02d}" for second in range(60)]


class Collection(StrEnum):
    """What can be read from a source; also the second part of a key."""

    CUSTOMERS = "customers"
    TAGS = "tags"
    MEMBERSHIPS = "memberships"
    USERS = "users"


class Path(StrEnum):
    """How the bridge came to look at a document: `cause.path` of an event."""

    SNAPSHOT = "snapshot"
    POLL = "poll"
    SWEEP = "sweep"
    WEBHOOK = "webhook"
    COMMAND = "command"
    AUDIT = "audit"


class Cause(NamedTuple):
    """Why an event was detected; `ref` is a delivery id, a command id or a sweep id, None for polls."""

    path: Path
    ref: str | None = None


class Document(NamedTuple):
    """One object as a provider showed it, in our words.

    `version` orders two copies of the same document: microseconds since 1970 of the provider's change time, 0 when
    the provider gives none (then the copy that arrives later wins). `revision` orders them more finely where the
    provider counts the changes of each document, from 1; 0 when it does not.
    """

    uid: str
    body: Body
    version: int
    revision: int = 0


class Gone(NamedTuple):
    """A provider's statement that a document is deleted; `at` in microseconds since 1970, 0 when not given."""

    uid: str
    at: int


class Merged(NamedTuple):
    """What became of a document that is gone: the provider put it into another one, whose uid is `into`."""

    into: str


Fate = Document | Gone | Merged
"""What a second read says of a document: as it is now, surely gone, or gone into another one."""


class Told(NamedTuple):
    """What a customer says of its tags, uid → name. `version` and `revision` as those of a document: which of two such
    copies is the newer one."""

    tags: Mapping[str, str]
    version: int
    revision: int = 0


class Reject(NamedTuple):
    """One row that its model refuses. `reason` names fields and rules, never a value; `raw` is the row's JSON."""

    uid: str | None
    endpoint: str
    reason: str
    raw: bytes


class Account(NamedTuple):
    """Where a source's events come from: `source` is our id, the other two are the provider's."""

    source: str
    provider: str
    account: str

    @property
    def uri(self) -> str:
        """CloudEvents `source`, e.g. `/dintero/T12345678`."""
        return f"/{self.provider}/{self.account}"


def instant(text: str) -> int:
    """Microseconds since 1970 of an ISO 8601 date-time with zone; ValueError when it is not one.

    A date-time without zone is read as UTC. Years outside 1970–9999 are refused: no provider's change is older than
    its software, and such a value must never become a cursor.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    if "T" not in text and "t" not in text and " " not in text:
        raise ValueError("a date without a time")
    since = moment - _EPOCH
    if since.days < 0:
        raise ValueError("before 1970")
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def iso(micros: int) -> str:
    """The shortest UTC form of an instant: whole seconds, else milliseconds, else microseconds; ends with `Z`."""
    seconds, fraction = divmod(micros, 1_000_000)
    day, second = divmod(seconds, 86_400)
    base = f"{_date(day)}T{_MINUTES[second // 60]}{_SECONDS[second % 60]}"
    if fraction == 0:
        return f"{base}Z"
    if fraction % 1000 == 0:
        return f"{base}.{fraction // 1000:03d}Z"
    return f"{base}.{fraction:06d}Z"


@lru_cache(maxsize=DAYS_CACHED)
def _date(day: int) -> str:
    """`YYYY-MM-DD`, so many days after 1970."""
    return (_EPOCH + timedelta(days=day)).isoformat()[:10]


def key_of(source: str, collection: str, uid: str) -> str:
    """The key of a document in the state topic and the store."""
    return f"{source}/{collection}/{uid}"


def split_key(key: str) -> tuple[str, str, str]:
    """Source, collection and uid of a key; ValueError when it has fewer parts."""
    source, collection, uid = key.split("/", 2)
    return source, collection, uid
