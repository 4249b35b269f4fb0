"""Metrics: the contract's names and labels, bounded series, staleness, and the way back to plain numbers."""

from __future__ import annotations

import timeit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from bridge.model import Collection, Path
from bridge.observability.families import Vocabulary
from bridge.observability.metrics import Metrics, TransactionResult
from tests.observability.observing import VOCABULARY, StandingClock, build_metrics, series_of, value_of

CUSTOMERS = Collection.CUSTOMERS

# The contract, word for word: name → type and labels. Dashboards and alerts use only these.
CONTRACT = {
    "bridge_staleness_seconds": ("gauge", {"source", "collection"}),
    "bridge_change_latency_seconds": ("histogram", {"source", "collection", "path"}),
    "bridge_events_published_total": ("counter", {"source", "type"}),
    "bridge_documents_read_total": ("counter", {"source", "collection"}),
    "bridge_documents_unchanged_total": ("counter", {"source", "collection"}),
    "bridge_api_requests_total": ("counter", {"source", "endpoint", "status"}),
    "bridge_api_request_seconds": ("histogram", {"source", "endpoint"}),
    "bridge_api_budget_remaining": ("gauge", {"source"}),
    "bridge_api_throttled_seconds_total": ("counter", {"source"}),
    "bridge_transactions_total": ("counter", {"result"}),
    "bridge_transaction_seconds": ("histogram", set()),
    "bridge_store_documents": ("gauge", {"source", "collection"}),
    "bridge_shards_owned": ("gauge", set()),
    "bridge_restore_seconds": ("histogram", set()),
    "bridge_loop_lag_seconds": ("histogram", set()),
    "bridge_deletions_held": ("gauge", {"source", "collection"}),
    "bridge_feeds_parked": ("gauge", {"source", "collection"}),
    "bridge_commands_total": ("counter", {"source", "kind", "outcome"}),
    "bridge_mirrored_total": ("counter", {"mirror"}),
    "bridge_mirror_unmatched_total": ("counter", {"mirror"}),
    "bridge_deadletters_total": ("counter", {"reason"}),
    "bridge_loop_progress_timestamp_seconds": ("gauge", {"source", "collection"}),
    "bridge_build_info": ("gauge", {"version", "python"}),
}


def touch_everything(metrics: Metrics) -> None:
    metrics.own("acme", Collection)
    metrics.documents_read("acme", CUSTOMERS, 10)
    metrics.documents_unchanged("acme", CUSTOMERS, 8)
    metrics.store_documents("acme", CUSTOMERS, 100)
    metrics.deletions_held("acme", CUSTOMERS, 3)
    metrics.feed_parked("acme", CUSTOMERS, True)
    metrics.loop_progress("acme", CUSTOMERS)
    metrics.api_request("acme", "GET /customers", 200, 0.2)
    metrics.api_budget("acme", 7)
    metrics.api_throttled("acme", 1.5)
    metrics.published("acme", "bridge.customer.created.v1", 2)
    metrics.change_latency("acme", CUSTOMERS, Path.POLL, 3.0)
    metrics.transaction(TransactionResult.COMMITTED, 0.02)
    metrics.command("acme", "pause", "applied")
    metrics.mirrored("vip", 2)
    metrics.unmatched("vip", 1)
    metrics.deadletter("malformed")
    metrics.shards_owned(4)
    metrics.restored(0.4)
    metrics.loop_lag(0.02)


# The contract


def test_names_types_and_labels_are_those_of_the_contract() -> None:
    metrics = build_metrics()
    touch_everything(metrics)
    found = {}
    for family in parse_text(metrics.render()[1].decode()):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = (family.type, labels)
    assert found == CONTRACT


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/html\x00, application/openmetrics-text; version=9.9; x=<script>", "application/openmetrics-text"),
        ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", "application/openmetrics-text"),
    ],
)
def test_the_format_is_what_the_scraper_asks_for_and_nothing_of_its_header_returns(
    accept: str, content_type: str
) -> None:
    metrics = build_metrics()
    touch_everything(metrics)
    given_type, body = metrics.render(accept)
    assert given_type.startswith(content_type)
    assert "9.9" not in given_type
    assert "script" not in given_type
    if "openmetrics" in content_type:
        names = {family.name for family in parse_openmetrics(body.decode())}  # type: ignore[no-untyped-call]
        assert names == {name.removesuffix("_total").removesuffix("_info") for name in CONTRACT}


def test_two_bridges_in_one_process_do_not_see_each_other() -> None:
    one, other = build_metrics(), build_metrics()
    one.deadletter("malformed")
    assert value_of(one, "bridge_deadletters_total", reason="malformed") == 1
    assert value_of(other, "bridge_deadletters_total", reason="malformed") == 0


# Bounds


def test_the_number_of_series_does_not_depend_on_what_comes_from_outside() -> None:
    metrics = build_metrics()
    touch_everything(metrics)
    for source in ("acme", "other-source"):
        for status in (None, 100, 200, 300, 400, 429, 500):
            for endpoint in (*VOCABULARY.endpoints, "GET /elsewhere"):
                metrics.api_request(source, endpoint, status, 0.1)
        metrics.published(source, "unheard.of")
        metrics.api_throttled(source, 1)
        metrics.command(source, "whatever", "whatever")
    metrics.deadletter("whatever")
    before = set(series_of(metrics))

    @given(source=st.text(), endpoint=st.text(), status=st.integers() | st.none(), kind=st.text(), reason=st.text())
    def feed(source: str, endpoint: str, status: int | None, kind: str, reason: str) -> None:
        metrics.api_request(source, endpoint, status, 0.1)
        metrics.published(source, kind)
        metrics.api_budget(source, 1)
        metrics.api_throttled(source, 1)
        metrics.command(source, kind, reason)
        metrics.deadletter(reason)
        metrics.caught_up(source, CUSTOMERS, 1.0)
        metrics.loop_progress(source, CUSTOMERS)

    feed()
    assert set(series_of(metrics)) == before


def test_statuses_appear_as_classes() -> None:
    metrics = build_metrics()
    for status in (200, 204, 301, 404, 429, 503, None, 999, -1):
        metrics.api_request("acme", "GET /customers", status, 0.1)
    found = {
        dict(labels)["status"]: value
        for (name, labels), value in series_of(metrics).items()
        if name == "bridge_api_requests_total"
    }
    assert found == {"2xx": 2, "3xx": 1, "4xx": 1, "429": 1, "5xx": 1, "error": 1, "other": 2}


@pytest.mark.parametrize("value", ["", "a\nb", 'a"b', "x" * 101, "https://api.example.com/v1", "anna@example.com"])
def test_a_vocabulary_refuses_what_must_not_become_a_label(value: str) -> None:
    with pytest.raises(ValueError, match="label value"):
        Vocabulary(frozenset({"acme"}), frozenset({value}), frozenset(), frozenset())


def test_counting_is_cheap() -> None:
    metrics = build_metrics()
    metrics.own("acme", Collection)
    seconds = min(timeit.repeat(lambda: metrics.documents_read("acme", CUSTOMERS, 1), number=1000, repeat=20))
    assert seconds / 1000 < 20e-6  # about 1 µs; the bound leaves room for a busy machine


# Staleness


def test_before_the_first_catch_up_staleness_grows_from_the_start_of_the_process() -> None:
    clock = StandingClock()
    metrics = build_metrics(clock)
    clock.advance(5)
    metrics.own("acme", [CUSTOMERS])
    assert metrics.staleness("acme", CUSTOMERS) == 5
    clock.advance(60)
    assert value_of(metrics, "bridge_staleness_seconds", source="acme", collection="customers") == 65


def test_staleness_is_now_minus_the_proved_moment_and_grows_one_for_one() -> None:
    clock = StandingClock()
    metrics = build_metrics(clock)
    metrics.own("acme", [CUSTOMERS])
    metrics.caught_up("acme", CUSTOMERS, clock.wall() - 2)
    assert metrics.staleness("acme", CUSTOMERS) == 2
    clock.advance(100)
    assert metrics.staleness("acme", CUSTOMERS) == 102


def test_a_quiet_source_that_is_read_stays_low() -> None:
    clock = StandingClock()
    metrics = build_metrics(clock)
    metrics.own("acme", [CUSTOMERS])
    for _ in range(100):
        clock.advance(5)
        metrics.caught_up("acme", CUSTOMERS, clock.wall())
    assert metrics.staleness("acme", CUSTOMERS) == 0


def test_a_moment_in_the_future_does_not_hide_a_later_outage() -> None:
    clock = StandingClock()
    metrics = build_metrics(clock)
    metrics.own("acme", [CUSTOMERS])
    metrics.caught_up("acme", CUSTOMERS, clock.wall() + 3600)
    clock.advance(30)
    assert metrics.staleness("acme", CUSTOMERS) == 30


def test_a_wall_clock_set_back_never_makes_staleness_negative() -> None:
    clock = StandingClock()
    metrics = build_metrics(clock)
    metrics.own("acme", [CUSTOMERS])
    metrics.caught_up("acme", CUSTOMERS, clock.wall())
    clock.step(-600)
    assert metrics.staleness("acme", CUSTOMERS) == 0


def test_gauges_of_a_source_disappear_with_its_ownership_and_counters_stay() -> None:
    metrics = build_metrics()
    touch_everything(metrics)
    metrics.disown("acme")
    metrics.caught_up("acme", CUSTOMERS, 1.0)  # a late call of the former owner
    metrics.store_documents("acme", CUSTOMERS, 5)
    left = {name for name, labels in series_of(metrics) if ("source", "acme") in labels}
    gauges = {name for name, (kind, _) in CONTRACT.items() if kind == "gauge"}
    assert not left & gauges
    assert "bridge_events_published_total" in left
    metrics.own("acme", [CUSTOMERS])
    metrics.store_documents("acme", CUSTOMERS, 6)
    assert value_of(metrics, "bridge_store_documents", source="acme", collection="customers") == 6


def test_owning_again_keeps_what_was_proved() -> None:
    clock = StandingClock()
    metrics = build_metrics(clock)
    metrics.own("acme", [CUSTOMERS])
    clock.advance(50)
    metrics.caught_up("acme", CUSTOMERS, clock.wall())
    metrics.own("acme", [CUSTOMERS])
    assert metrics.staleness("acme", CUSTOMERS) == 0


def test_a_source_outside_the_vocabulary_cannot_be_owned() -> None:
    with pytest.raises(ValueError, match="vocabulary"):
        build_metrics().own("unknown", [CUSTOMERS])


# Statistics


def test_statistics_are_plain_sums() -> None:
    clock = StandingClock()
    metrics = build_metrics(clock)
    touch_everything(metrics)
    clock.advance(9)
    view = metrics.statistics()
    assert (view.at, view.uptime_s) == (clock.wall(), 9)
    assert view.staleness_s["acme", "customers"] == 9
    assert view.events_by_type == {"bridge.customer.created.v1": 2}
    assert view.events_by_source == {"acme": 2}
    assert view.requests_by_status == {"2xx": 1}
    assert view.transactions_by_result == {"committed": 1, "failed": 0, "fenced": 0, "unknown": 0}
    assert (view.documents_read, view.documents_unchanged, view.documents_known) == (10, 8, 100)
    assert (view.deletions_held, view.deadletters, view.shards_owned, view.throttled_s) == (3, 1, 4, 1.5)


def test_latency_quantiles_are_read_off_the_histogram_without_snapshots() -> None:
    metrics = build_metrics()
    for _ in range(99):
        metrics.change_latency("acme", CUSTOMERS, Path.POLL, 3.0)
    metrics.change_latency("globex", CUSTOMERS, Path.WEBHOOK, 50.0)
    for _ in range(1000):
        metrics.change_latency("acme", CUSTOMERS, Path.SNAPSHOT, 1e8)
    latency = metrics.statistics().latency
    assert latency.count == 100
    assert latency.p50_s is not None
    assert 2.5 < latency.p50_s <= 5
    assert latency.p99_s is not None
    assert 2.5 < latency.p99_s <= 5


def test_latency_without_observations_and_beyond_the_last_bucket() -> None:
    metrics = build_metrics()
    assert metrics.statistics().latency.p50_s is None
    metrics.change_latency("acme", CUSTOMERS, Path.SWEEP, 1e6)
    assert metrics.statistics().latency.p99_s == 3600


def test_a_change_from_a_clock_ahead_of_ours_counts_as_immediate() -> None:
    metrics = build_metrics()
    metrics.change_latency("acme", CUSTOMERS, Path.POLL, -5.0)
    labels = {"source": "acme", "collection": "customers", "path": "poll"}
    assert value_of(metrics, "bridge_change_latency_seconds_sum", **labels) == 0
