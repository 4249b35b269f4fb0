"""Metrics: every instrument of the bridge, in one place.

One `Metrics` per bridge with a registry of its own, so that several bridges fit into one process. Names,
labels and units are a contract; no other module touches an instrument. Every method is cheap (a lookup and
an addition) and may be called from any task. `render` and `statistics` only read, take time in proportion to
the number of series, and may run in a thread beside the loop.

Two rules keep `/metrics` honest. *Labels are bounded*: a value that the `Vocabulary` does not declare
appears as `other`, whatever a provider sends. *Gauges speak only for owned sources*: between `own` and
`disown`; the new owner reports from then on, and two processes never contradict each other.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum

from prometheus_client import CollectorRegistry, Gauge, Histogram, Info
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from bridge.clock import Clock
from bridge.model import Collection, Path
from bridge.observability.cells import Buckets, Cell, Family, Number, counters, gauges, histograms
from bridge.observability.families import STATUS_CLASSES, Vocabulary, status_class, view_of
from bridge.observability.status import MetricsView

CHANGE_LATENCY_BUCKETS_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)
"""A webhook takes tenths, a poll its interval (5 s by default), what only a sweep finds up to hours."""

REQUEST_BUCKETS_S = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""Up to the default deadline of a request."""

TRANSACTION_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15)
"""Up to the deadline of a commit."""

RESTORE_BUCKETS_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900)
"""A warm cache takes tenths, a million documents from Kafka alone take minutes."""

LAG_BUCKETS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""A busy loop is late by hundredths; beyond the session of the group (10 s) it has lost its shards."""


class TransactionResult(StrEnum):
    """How one Kafka transaction ended for us."""

    COMMITTED = "committed"
    FAILED = "failed"
    FENCED = "fenced"
    UNKNOWN = "unknown"


class Metrics:
    """The instruments of one bridge. The process starts when this is built."""

    def __init__(self, clock: Clock, vocabulary: Vocabulary, version: str) -> None:
        self._clock = clock
        self._registry = CollectorRegistry()
        self._series = _WithoutCreated(self._registry)
        self._started = clock.wall()
        self._caught_up: dict[tuple[str, str], float] = {}
        self._owned: set[str] = set()
        self._allowed = {
            "source": vocabulary.sources,
            "collection": frozenset(map(str, Collection)),
            "path": frozenset(map(str, Path)),
            "type": vocabulary.event_types,
            "endpoint": vocabulary.endpoints,
            "status": STATUS_CLASSES,
            "result": frozenset(map(str, TransactionResult)),
            "reason": vocabulary.reasons,
            "kind": vocabulary.kinds,
            "outcome": vocabulary.outcomes,
            "mirror": vocabulary.mirrors,
        }
        self._registry.register(_Staleness(self))
        self._make_counters()
        self._make_gauges_and_histograms()
        build = Info("bridge_build", "The running version.", registry=self._registry)
        build.info({"version": version, "python": platform.python_version()})
        # An alert on an increase needs the zero before it.
        for result in TransactionResult:
            self._transactions.at(result)
        for reason in vocabulary.reasons:
            self._deadletters.at(reason)

    # Ownership

    def own(self, source: str, collections: Iterable[Collection]) -> None:
        """This process speaks for the source now. Tell `caught_up` next what the restore brought."""
        if source not in self._allowed["source"]:
            raise ValueError(f"source is not in the vocabulary: {source[:100]!r}")
        self._owned.add(source)
        for collection in collections:
            self._caught_up.setdefault((source, collection.value), self._started)

    def disown(self, *sources: str) -> None:
        """Another process may speak for these sources now: every gauge of them disappears here. Counters stay."""
        gone = frozenset(sources)
        self._owned -= gone
        for key in [key for key in self._caught_up if key[0] in gone]:
            del self._caught_up[key]
        for family in (self._budget, self._store_documents, self._deletions_held, self._progress, self._parked):
            family.drop(gone)

    # Reading

    def caught_up(self, source: str, collection: Collection, wall_seconds: float) -> None:
        """Everything up to this moment is proved published. A moment in the future counts as now."""
        assert math.isfinite(wall_seconds), "a moment is a number"
        if source in self._owned:
            self._caught_up[source, collection.value] = min(wall_seconds, self._clock.wall())

    def staleness(self, source: str, collection: Collection) -> float | None:
        """Seconds since `caught_up`, since the start of the process before the first; None when not owned."""
        moment = self._caught_up.get((source, collection.value))
        return None if moment is None else max(0.0, self._clock.wall() - moment)

    def documents_read(self, source: str, collection: Collection, count: int) -> None:
        self._read.at(source, collection).inc(count)

    def documents_unchanged(self, source: str, collection: Collection, count: int) -> None:
        self._unchanged.at(source, collection).inc(count)

    def store_documents(self, source: str, collection: Collection, count: int) -> None:
        if source in self._owned:
            self._store_documents.at(source, collection).set(count)

    def deletions_held(self, source: str, collection: Collection, count: int) -> None:
        if source in self._owned:
            self._deletions_held.at(source, collection).set(count)

    def feed_parked(self, source: str, collection: Collection, parked: bool) -> None:
        """Whether the feed broke so often in unforeseen ways that it is asked only now and then."""
        if source in self._owned:
            self._parked.at(source, collection).set(parked)

    def loop_progress(self, source: str, collection: Collection) -> None:
        """The loop of this collection has come round, whether or not it found anything."""
        if source in self._owned:
            self._progress.at(source, collection).set(self._clock.wall())

    # Provider API

    def api_request(self, source: str, endpoint: str, status: int | None, seconds: float) -> None:
        """One exchange; `status` None when no complete answer came."""
        self._requests.at(source, endpoint, status_class(status)).inc()
        self._request_seconds.at(source, endpoint).observe(max(0.0, seconds))

    def api_budget(self, source: str, remaining: float) -> None:
        if source in self._owned:
            self._budget.at(source).set(remaining)

    def api_throttled(self, source: str, seconds: float) -> None:
        """Time that a request waited for the budget or because the provider said "later"."""
        self._throttled.at(source).inc(max(0.0, seconds))

    # Publishing

    def published(self, source: str, event_type: str, count: int = 1) -> None:
        self._published.at(source, event_type).inc(count)

    def change_latency(self, source: str, collection: Collection, path: Path, seconds: float) -> None:
        """Provider time of a change to its commit; negative (provider's clock is ahead) counts as zero."""
        self._latency.at(source, collection, path).observe(max(0.0, seconds))

    def transaction(self, result: TransactionResult, seconds: float) -> None:
        self._transactions.at(result).inc()
        self._transaction_seconds.observe(max(0.0, seconds))

    def deadletter(self, reason: str) -> None:
        self._deadletters.at(reason).inc()

    def command(self, source: str, kind: str, outcome: str) -> None:
        """One command was answered."""
        self._commands.at(source, kind, outcome).inc()

    def mirrored(self, mirror: str, count: int) -> None:
        """So many edges were handed on to the source on the other side."""
        self._mirrored.at(mirror).inc(count)

    def unmatched(self, mirror: str, count: int) -> None:
        """So many customers have nobody on the other side."""
        self._unmatched.at(mirror).inc(count)

    # Process

    def shards_owned(self, count: int) -> None:
        self._shards_owned.set(count)

    def restored(self, seconds: float) -> None:
        """One shard was restored."""
        self._restore_seconds.observe(max(0.0, seconds))

    def loop_lag(self, seconds: float) -> None:
        """The event loop was so late, at one of its regular looks."""
        self._loop_lag.observe(max(0.0, seconds))

    # Out

    def staleness_all(self) -> list[tuple[str, str, float]]:
        """(source, collection, seconds) of everything owned; safe from any thread."""
        now = self._clock.wall()
        return [(*key, max(0.0, now - moment)) for key, moment in list(self._caught_up.items())]

    def statistics(self) -> MetricsView:
        """All sums as plain numbers, for people: the status page, the live view."""
        now = self._clock.wall()
        return view_of(self._series.collect(), now, max(0.0, now - self._started))

    def render(self, accept: str = "") -> tuple[str, bytes]:
        """Content type and body: OpenMetrics when the `Accept` header asks for it, else Prometheus text."""
        # Only these two, so that nothing of the header comes back.
        wanted = "application/openmetrics-text; version=1.0.0" if "application/openmetrics-text" in accept else ""
        encode, content_type = choose_encoder(wanted)
        return content_type, encode(self._series)

    def _make_counters(self) -> None:
        counter = self._counter
        self._published = counter("bridge_events_published_total", "Events committed.", "source", "type")
        self._read = counter("bridge_documents_read_total", "Documents a provider showed.", "source", "collection")
        self._unchanged = counter(
            "bridge_documents_unchanged_total",
            "Documents read that were known already.",
            "source",
            "collection",
        )
        self._requests = counter("bridge_api_requests_total", "Requests to a provider.", "source", "endpoint", "status")
        self._throttled = counter(
            "bridge_api_throttled_seconds_total", "Time requests waited for the budget.", "source"
        )
        self._transactions = counter("bridge_transactions_total", "Kafka transactions.", "result")
        self._commands = counter("bridge_commands_total", "Commands answered.", "source", "kind", "outcome")
        self._mirrored = counter("bridge_mirrored_total", "Edges that a mirror handed on.", "mirror")
        self._unmatched = counter("bridge_mirror_unmatched_total", "Of these, with nobody on the other side.", "mirror")
        self._deadletters = counter("bridge_deadletters_total", "Records that could not be processed.", "reason")

    def _make_gauges_and_histograms(self) -> None:
        gauge, histogram = self._gauge, self._histogram
        self._budget = gauge("bridge_api_budget_remaining", "Requests that may be sent at once.", "source")
        self._store_documents = gauge("bridge_store_documents", "Documents known.", "source", "collection")
        self._deletions_held = gauge(
            "bridge_deletions_held", "Deletions waiting for a person's approval.", "source", "collection"
        )
        self._progress = gauge(
            "bridge_loop_progress_timestamp_seconds", "When the loop last came round.", "source", "collection"
        )
        self._parked = gauge(
            "bridge_feeds_parked", "1 while a feed that breaks each time is asked only rarely.", "source", "collection"
        )
        self._shards_owned = Gauge("bridge_shards_owned", "Shards of this process.", registry=self._registry)
        self._latency = histogram(
            "bridge_change_latency_seconds",
            "From the provider's time of a change to its commit.",
            CHANGE_LATENCY_BUCKETS_S,
            ("source", "collection", "path"),
        )
        self._request_seconds = histogram(
            "bridge_api_request_seconds", "Duration of a request.", REQUEST_BUCKETS_S, ("source", "endpoint")
        )
        self._transaction_seconds = Histogram(
            "bridge_transaction_seconds",
            "Duration of a transaction, however it ended.",
            buckets=TRANSACTION_BUCKETS_S,
            registry=self._registry,
        )
        self._loop_lag = Histogram(
            "bridge_loop_lag_seconds",
            "How late the event loop was, looked at twice a second.",
            buckets=LAG_BUCKETS_S,
            registry=self._registry,
        )
        self._restore_seconds = Histogram(
            "bridge_restore_seconds",
            "Duration of the restore of a shard.",
            buckets=RESTORE_BUCKETS_S,
            registry=self._registry,
        )

    def _counter(self, name: str, help_: str, *labels: str) -> Family[Number]:
        return self._registered(counters(name, help_, labels, self._values_of(labels)))

    def _gauge(self, name: str, help_: str, *labels: str) -> Family[Number]:
        return self._registered(gauges(name, help_, labels, self._values_of(labels)))

    def _histogram(self, name: str, help_: str, bounds: Sequence[float], labels: Sequence[str]) -> Family[Buckets]:
        return self._registered(histograms(name, help_, bounds, labels, self._values_of(labels)))

    def _registered(self, family: Family[Cell]) -> Family[Cell]:
        self._registry.register(family)
        return family

    def _values_of(self, labels: Sequence[str]) -> tuple[frozenset[str], ...]:
        return tuple(self._allowed[label] for label in labels)


class _Staleness(Collector):
    """Computed at the moment of the scrape: it must grow while nothing calls us."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "bridge_staleness_seconds",
            "Now minus the time up to which everything is proved published.",
            labels=("source", "collection"),
        )
        for source, collection, seconds in self._metrics.staleness_all():
            family.add_metric((source, collection), seconds)
        yield family


class _WithoutCreated(Collector):
    """Leaves out the library's `_created` series: they double the number of series and nothing reads them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family
