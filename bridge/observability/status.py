"""Status: what this process knows about itself at one moment, as a value; shown as JSON lines and as a page.

The runtime builds a `ProcessStatus` on request, `Metrics.statistics` the sums beside it, `probes` serves
both. Times are wall clock seconds, texts are messages of the bridge's own errors. Nothing here names a
customer; every text is escaped and cut again on the way out, because source ids and provider messages come
from elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import orjson

from bridge.observability.redact import Redactor

ROWS_MAX = 500
"""Rows of one table of the page; with more sources the worst are shown."""

REFRESH_S = 5
"""The page loads itself again; the default poll interval, so nothing changes faster."""

PAUSED = "paused"
"""The mode of a collection that a signal has paused."""

_REDACT = Redactor()


@dataclass(frozen=True, slots=True)
class CollectionStatus:
    """One collection of a source.

    mode: what is being done now: `snapshot`, `poll`, `sweep`, `paused` …
    staleness_s: as the metric; None when this process does not know.
    since: when `last_error` began; None while there is none.
    held_uids: the first of the deletions that wait for a person.
    """

    collection: str
    mode: str
    staleness_s: float | None = None
    documents: int = 0
    deletions_held: int = 0
    last_error: str | None = None
    since: float | None = None
    held_uids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """One configured source. Only its owner knows its collections; elsewhere they are empty."""

    source: str
    provider: str
    shard: int
    owned_here: bool
    ready: bool
    collections: tuple[CollectionStatus, ...] = ()


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """One shard that this process owns; `state` is the word of its state machine."""

    shard: int
    state: str
    ready: bool
    since: float | None = None


@dataclass(frozen=True, slots=True)
class EventLine:
    """One of the last published events, without what it says: type and number only."""

    at: float
    source: str
    type: str
    sequence: int


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One process.

    ready: it can serve: Kafka answers, every owned shard is restored. Owning nothing is no obstacle.
    live: its loops make progress; when not, whoever watches should restart it.
    kafka: `connected`, or what is wrong.
    events: the last ones, newest first, a few dozen at most.
    """

    ready: bool
    live: bool
    kafka: str
    shards_total: int
    shards: tuple[ShardStatus, ...] = ()
    sources: tuple[SourceStatus, ...] = ()
    events: tuple[EventLine, ...] = ()

    @property
    def shards_owned(self) -> int:
        return len(self.shards)


@dataclass(frozen=True, slots=True)
class Latency:
    """Provider time of a change to its commit, estimated from a histogram; None without observations."""

    count: int
    p50_s: float | None
    p99_s: float | None


@dataclass(frozen=True, slots=True)
class MetricsView:
    """The metrics of one process as sums since its start. Gauges cover what the process owns."""

    at: float
    uptime_s: float
    staleness_s: Mapping[tuple[str, str], float]
    events_by_type: Mapping[str, int]
    events_by_source: Mapping[str, int]
    requests_by_status: Mapping[str, int]
    transactions_by_result: Mapping[str, int]
    latency: Latency
    documents_read: int
    documents_unchanged: int
    documents_known: int
    deletions_held: int
    deadletters: int
    throttled_s: float
    shards_owned: int


def to_json(status: ProcessStatus) -> bytes:
    """One JSON object, laid out with one line per shard and one per source so that `grep` can read it too."""
    redact = _REDACT
    shards = [
        {"shard": shard.shard, "state": redact.text(shard.state), "ready": shard.ready} for shard in status.shards
    ]
    sources = [
        {
            "source": redact.text(source.source),
            "provider": redact.text(source.provider),
            "shard": source.shard,
            "owned_here": source.owned_here,
            "ready": source.ready,
            "staleness_s": _worst(source),
            "paused": [redact.text(c.collection) for c in source.collections if c.mode == PAUSED],
            "error": next((redact.text(c.last_error) for c in source.collections if c.last_error), None),
            "held": {
                str(c.collection): {"deletions": c.deletions_held, "uids": list(map(redact.text, c.held_uids))}
                for c in source.collections
                if c.deletions_held
            },
        }
        for source in status.sources
    ]
    head = {
        "ready": status.ready,
        "live": status.live,
        "kafka": redact.text(status.kafka),
        "shards_owned": status.shards_owned,
        "shards_total": status.shards_total,
    }
    return b"%b,\n%b,\n%b}\n" % (
        orjson.dumps(head)[:-1],
        _lines("shards", shards),
        _lines("sources", sources),
    )


def _lines(name: str, rows: list[dict[str, Any]]) -> bytes:  # Any: JSON values
    return b'"%b": [\n%b\n]' % (name.encode(), b",\n".join(map(orjson.dumps, rows)))


def _worst(source: SourceStatus) -> float | None:
    """The staleness of the stalest collection; None when nothing is known."""
    known = [round(c.staleness_s, 3) for c in source.collections if c.staleness_s is not None]
    return max(known, default=None)


_STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}
table{border-collapse:collapse;width:100%;margin:.5rem 0 1.5rem}
th,td{text-align:left;padding:.25rem .75rem .25rem 0;border-bottom:1px solid #8884;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.bad{color:#c0392b;font-weight:600}.good{color:#1e8449}.dim{opacity:.65}
"""

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    f"style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'"
)
"""Nothing may be loaded or run; only the page's own style, by its hash."""


def to_page(status: ProcessStatus, view: MetricsView) -> str:
    """The status page: a whole HTML document without script."""
    state = [
        _flag("live", "not live", status.live),
        _flag("ready", "not ready", status.ready),
        f"Kafka: {_text(status.kafka)}",
        f"{status.shards_owned} of {status.shards_total} shards here",
        f"up {_span(view.uptime_s)}",
    ]
    sums = [
        f"{sum(view.events_by_type.values())} events published",
        f"latency p50 {_span(view.latency.p50_s)}, p99 {_span(view.latency.p99_s)}",
        f"{view.documents_read} documents read, {view.documents_unchanged} of them unchanged",
        f"{view.documents_known} known",
        f"<span class=bad>{view.deletions_held} deletions held</span>" if view.deletions_held else "",
        f"<span class=bad>{view.deadletters} dead letters</span>" if view.deadletters else "",
    ]
    events = [[_text(type_), _number(count)] for type_, count in sorted(view.events_by_type.items())]
    last = [
        [_span(view.at - event.at), _text(event.source), _text(event.type), _number(event.sequence)]
        for event in status.events[:ROWS_MAX]
    ]
    shards = [[_number(s.shard), _text(s.state), _flag("ready", "not ready", s.ready)] for s in status.shards]
    parts = [
        f"<p>{' · '.join(state)}</p><p>{' · '.join(filter(None, sums))}</p>",
        _table("Sources", _SOURCE_HEAD, _source_rows(status, view.at)),
        _table("Events by type", ("type", "#since start"), events),
        _table("Last events", ("#ago", "source", "type", "#sequence"), last),
        _table("Shards here", ("#shard", "state", ""), shards),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>bridge</title>'
        f'<meta http-equiv="refresh" content="{REFRESH_S}">'
        '<meta name="viewport" content="width=device-width"><meta name="referrer" content="no-referrer">'
        f"<style>{_STYLE}</style></head><body><h1>bridge</h1>{''.join(parts)}</body></html>\n"
    )


_SOURCE_HEAD = (
    "source",
    "provider",
    "collection",
    "doing",
    "#stale for",
    "#documents",
    "#held",
    "last error",
)


def _source_rows(status: ProcessStatus, now: float) -> list[list[str]]:
    """A row per collection; sources with trouble first, so that cutting the table hides none of it."""

    def trouble(source: SourceStatus) -> tuple[bool, bool, float, str]:
        failing = any(c.last_error or c.deletions_held for c in source.collections)
        return not (source.owned_here and failing), source.ready, -(_worst(source) or 0.0), source.source

    rows: list[list[str]] = []
    for source in sorted(status.sources, key=trouble):
        head = [_text(source.source), _text(source.provider)]
        if not source.owned_here:
            rows.append([*head, f"<span class=dim>shard {source.shard} is not here</span>", *[""] * 5])
        for c in source.collections:
            error = "" if c.last_error is None else f"<span class=bad>{_text(c.last_error)}</span>"
            if c.since is not None:
                error += f" <span class=dim>for {_span(now - c.since)}</span>"
            held = f"<span class=bad>{_number(c.deletions_held)}</span>" if c.deletions_held else ""
            rows.append(
                [
                    *head,
                    _text(c.collection),
                    _text(c.mode),
                    _span(c.staleness_s),
                    _number(c.documents),
                    held,
                    error,
                ]
            )
    return rows


def _table(title: str, head: Iterable[str], rows: list[list[str]]) -> str:
    """Cells are HTML already; a head that begins with `#` marks a column of numbers."""
    if not rows:
        return ""
    kinds = [(" class=n", name[1:]) if name.startswith("#") else ("", name) for name in head]
    heads = "".join(f"<th{kind}>{name}</th>" for kind, name in kinds)
    body = "".join(
        f"<tr>{''.join(f'<td{kind}>{cell}</td>' for (kind, _), cell in zip(kinds, row, strict=True))}</tr>"
        for row in rows[:ROWS_MAX]
    )
    more = f"<p class=dim>and {len(rows) - ROWS_MAX} more</p>" if len(rows) > ROWS_MAX else ""
    return f"<h2>{title}</h2><table><tr>{heads}</tr>{body}</table>{more}"


def _flag(yes: str, no: str, value: bool) -> str:
    return f"<span class={'good' if value else 'bad'}>{yes if value else no}</span>"


def _text(text: str) -> str:
    return escape(_REDACT.text(text))


def _number(value: int) -> str:
    return f"{value:,}".replace(",", "\u202f")


def _span(seconds: float | None) -> str:
    """A duration for people: 0.3 s, 12 s, 5 min, 3.1 h, 2.0 d."""
    if seconds is None:
        return "–"
    seconds = max(0.0, seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} d"
