"""Counting, and how it looks at /metrics."""

from __future__ import annotations

import threading

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from otlp_arrow.app.telemetry import PrometheusMeter, resident_bytes
from otlp_arrow.model import Signal, meter

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


@pytest.fixture
def counted() -> PrometheusMeter:
    counter = PrometheusMeter()
    counter.add(meter.ACCEPTED[Signal.TRACES], 512, "otlp", "grpc")
    counter.add(meter.ACCEPTED[Signal.TRACES], 8, "otlp", "grpc")
    counter.add(meter.ACCEPTED[Signal.TRACES], 1, "otlp", "http")
    counter.add(meter.EXPIRED, 3, "logs", "age")
    counter.set(meter.BUFFER_BYTES, 7)
    for seconds in (0.0005, 0.001, 0.0011, 60):
        counter.observe(meter.ACK_SECONDS, seconds)
    counter.observe(meter.FLUSH_SECONDS, 0.02, "traces")
    return counter


def samples(text: bytes, parse) -> dict[tuple[str, frozenset], float]:
    return {(s.name, frozenset(s.labels.items())): s.value for family in parse(text.decode()) for s in family.samples}


@pytest.mark.parametrize(("accept", "parse"), [("", parse_text), (OPENMETRICS, parse_openmetrics)])
def test_what_was_counted_is_shown_in_both_formats(counted: PrometheusMeter, accept: str, parse):
    text, content_type = counted.scrape(accept)
    assert content_type.startswith("application/openmetrics-text" if accept else "text/plain; version=0.0.4")
    shown = samples(text, parse)
    door = frozenset({("receiver", "otlp"), ("transport", "grpc")})
    assert shown["otelcol_receiver_accepted_spans_total", door] == 520
    assert shown["otelcol_receiver_accepted_spans", door] == 520  # what dashboards of collectors ask for
    assert shown["otlp_arrow_expired_records_total", frozenset({("signal", "logs"), ("reason", "age")})] == 3
    assert shown["otlp_arrow_buffer_bytes", frozenset()] == 7


def test_a_histogram_counts_a_value_in_every_bucket_that_is_not_below_it(counted: PrometheusMeter):
    shown = samples(counted.scrape()[0], parse_text)
    buckets = {dict(labels)["le"]: v for (name, labels), v in shown.items() if name == "otlp_arrow_ack_seconds_bucket"}
    assert (buckets["0.001"], buckets["0.0025"], buckets["10.0"], buckets["+Inf"]) == (2, 3, 3, 4)
    assert shown["otlp_arrow_ack_seconds_count", frozenset()] == 4
    assert shown["otlp_arrow_ack_seconds_sum", frozenset()] == pytest.approx(60.0026)


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_every_metric_of_the_catalogue_appears_with_its_meaning(accept: str):
    text = PrometheusMeter().scrape(accept)[0].decode()
    for metric in meter.catalogue():
        assert f"# HELP {metric.name}" in text, metric.name
        assert metric.help in text


def test_counters_per_signal_begin_at_zero_so_that_a_rate_sees_the_first_step():
    shown = samples(PrometheusMeter().scrape()[0], parse_text)
    for signal in Signal:
        assert shown["otlp_arrow_stored_records_total", frozenset({("signal", signal.value)})] == 0


def test_gauges_may_be_asked_for_at_each_scrape():
    counter, asked = PrometheusMeter(), []
    counter.on_scrape(lambda: (asked.append(1), counter.set(meter.WAL_BYTES, len(asked))))
    counter.scrape()
    assert samples(counter.scrape()[0], parse_text)["otlp_arrow_wal_bytes", frozenset()] == 2


def test_the_process_itself_is_measured():
    shown = samples(PrometheusMeter(started=0).scrape()[0], parse_text)
    assert shown["otelcol_process_uptime", frozenset()] > 0
    assert shown["otelcol_process_cpu_seconds_total", frozenset()] > 0
    assert 10e6 < shown["otelcol_process_memory_rss", frozenset()] < 10e9
    assert resident_bytes() > 10e6


def test_threads_that_count_at_once_lose_nothing():
    counter = PrometheusMeter()

    def count() -> None:
        for _ in range(5_000):
            counter.add(meter.STORED, 1, "traces")
            counter.observe(meter.WAL_SYNC_SECONDS, 0.01)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.value(meter.STORED, "traces") == 40_000
    assert b"otlp_arrow_wal_sync_seconds_count 40000.0" in counter.scrape()[0]


def test_only_what_the_catalogue_names_can_be_reported():
    with pytest.raises(KeyError):
        PrometheusMeter().add(meter.Metric("otlp_arrow_made_up", "counter", "Nothing."), 1)


def test_a_value_is_the_sum_over_labels_that_are_not_given(counted: PrometheusMeter):
    assert counted.value(meter.ACCEPTED[Signal.TRACES]) == 521
    assert counted.value(meter.ACCEPTED[Signal.TRACES], "otlp", "http") == 1
