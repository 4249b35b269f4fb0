"""Families: what the labels of `metrics` may say, and the way back from series to sums."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client.core import Metric

from bridge.model import Path
from bridge.observability.status import Latency, MetricsView

STATUS_CLASSES = frozenset({"2xx", "3xx", "4xx", "429", "5xx", "error"})
"""`429` apart from the other refusals, because it means "slower"; `error`: there was no complete answer."""

_LABEL_VALUE = re.compile(r"[A-Za-z0-9_./{} :-]{1,100}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """All values that a label may take, declared by whoever knows them: configuration, providers, catalogue.

    endpoints: names of templates, `customers.list`; never a filled-in path.
    event_types: CloudEvents types. reasons: why a dead letter was written. kinds, outcomes: of commands.
    mirrors: by name.
    """

    sources: frozenset[str]
    endpoints: frozenset[str]
    event_types: frozenset[str]
    reasons: frozenset[str]
    kinds: frozenset[str] = frozenset()
    outcomes: frozenset[str] = frozenset()
    mirrors: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        declared = (self.sources, self.endpoints, self.event_types, self.reasons, self.kinds, self.outcomes)
        for value in frozenset().union(*declared, self.mirrors):
            if not _LABEL_VALUE.fullmatch(value) or "://" in value:
                raise ValueError(f"not usable as a label value: {value[:100]!r}")


def status_class(status: int | None) -> str:
    """The label of an HTTP status: its class, `429` by itself, `error` for no answer."""
    if status is None:
        return "error"
    return "429" if status == 429 else f"{status // 100}xx"


def view_of(families: Iterable[Metric], at: float, uptime_s: float) -> MetricsView:
    """Sums over all series, by the one label that matters to people."""
    by_name = {family.name: family for family in families}

    def totals(name: str, label: str) -> dict[str, int]:
        sums: Counter[str] = Counter()
        for sample in by_name[f"bridge_{name}"].samples:
            sums[sample.labels[label]] += int(sample.value)
        return dict(sums)

    def total(name: str) -> float:
        return sum(sample.value for sample in by_name[f"bridge_{name}"].samples)

    return MetricsView(
        at=at,
        uptime_s=uptime_s,
        staleness_s={
            (sample.labels["source"], sample.labels["collection"]): sample.value
            for sample in by_name["bridge_staleness_seconds"].samples
        },
        events_by_type=totals("events_published", "type"),
        events_by_source=totals("events_published", "source"),
        requests_by_status=totals("api_requests", "status"),
        transactions_by_result=totals("transactions", "result"),
        latency=_latency(by_name["bridge_change_latency_seconds"]),
        documents_read=int(total("documents_read")),
        documents_unchanged=int(total("documents_unchanged")),
        documents_known=int(total("store_documents")),
        deletions_held=int(total("deletions_held")),
        deadletters=int(total("deadletters")),
        throttled_s=total("api_throttled_seconds"),
        shards_owned=int(total("shards_owned")),
    )


def _latency(family: Metric) -> Latency:
    """Over all paths but the snapshot, whose documents changed long before anyone could have looked."""
    cumulated: Counter[float] = Counter()
    for sample in family.samples:
        if sample.name.endswith("_bucket") and sample.labels["path"] != Path.SNAPSHOT:
            cumulated[float(sample.labels["le"])] += int(sample.value)
    buckets = sorted(cumulated.items())
    return Latency(
        count=buckets[-1][1] if buckets else 0, p50_s=_quantile(buckets, 0.5), p99_s=_quantile(buckets, 0.99)
    )


def _quantile(buckets: list[tuple[float, int]], share: float) -> float | None:
    """Read off a cumulative histogram, straight between the bounds; None without observations.

    Beyond the last bound nothing is known: the bound itself, so that a slow bridge is not shown as infinite.
    """
    wanted = share * buckets[-1][1] if buckets else 0
    below_s, below = 0.0, 0
    for bound_s, count in buckets:
        if wanted and count >= wanted:
            if math.isinf(bound_s):
                return below_s
            return below_s + (bound_s - below_s) * (wanted - below) / (count - below)
        below_s, below = bound_s, count
    return None
