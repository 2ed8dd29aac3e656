"""A ``Meter`` that keeps what the parts report, and shows it as Prometheus text.

The catalogue (``otlp_arrow.model.meter``) says what exists; nothing else can be reported. Counting is
a dictionary look-up and an addition under a lock (a third of a microsecond); everything dear happens
when somebody scrapes.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, UnknownMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from otlp_arrow.model import meter
from otlp_arrow.model.meter import Metric
from otlp_arrow.model.signal import Signal

Labels = tuple[str, ...]
_COLLECTOR_PREFIX = "otelcol_"
_Plain = CounterMetricFamily | GaugeMetricFamily | UnknownMetricFamily


@dataclass(slots=True)
class _Histogram:
    counts: list[int]  # one for each bucket and one for what is above them all
    total: float = 0.0


class PrometheusMeter:
    """Keeps every metric of the catalogue. May be called from any thread."""

    def __init__(self, started: float | None = None) -> None:
        self._started = time.monotonic() if started is None else started
        self._lock = threading.Lock()  # the commit thread reports too, and += is not atomic
        self._values: dict[Metric, dict[Labels, float]] = {}
        self._histograms: dict[Metric, dict[Labels, _Histogram]] = {}
        self._callbacks: list[Callable[[], None]] = [self._observe_process]
        for metric in meter.catalogue():
            if metric.kind == "histogram":
                self._histograms[metric] = {}
            else:
                self._values[metric] = _zeros(metric)

    # -- what parts call -----------------------------------------------------------------------------
    def add(self, metric: Metric, amount: float = 1, *labels: str) -> None:
        """Add to a counter."""
        series = self._values[metric]
        with self._lock:
            series[labels] = series.get(labels, 0) + amount

    def set(self, metric: Metric, value: float, *labels: str) -> None:
        """Set a gauge."""
        with self._lock:
            self._values[metric][labels] = value

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """Record one value of a histogram."""
        bucket = bisect_left(metric.buckets, value)  # the first whose bound is not below: `le` includes it
        with self._lock:
            series = self._histograms[metric]
            histogram = series.get(labels)
            if histogram is None:
                histogram = series[labels] = _Histogram([0] * (len(metric.buckets) + 1))
            histogram.counts[bucket] += 1
            histogram.total += value

    # -- what the rest of the app calls --------------------------------------------------------------
    def on_scrape(self, callback: Callable[[], None]) -> None:
        """Call this before each scrape: gauges that are asked for rather than reported."""
        self._callbacks.append(callback)

    def value(self, metric: Metric, *labels: str) -> float:
        """A counter or gauge as it stands; without labels, the sum over all of them."""
        with self._lock:
            series = self._values[metric]
            return series.get(labels, 0) if labels else sum(series.values())

    def scrape(self, accept: str = "") -> tuple[bytes, str]:
        """The text of /metrics and its content type, for what the scraper's ``Accept`` header asks."""
        for callback in self._callbacks:
            callback()
        encode, content_type = choose_encoder(accept)
        with self._lock:
            families = list(self._families(content_type.startswith("application/openmetrics-text")))
        return encode(_Snapshot(families)), content_type

    # -- inside --------------------------------------------------------------------------------------
    def _observe_process(self) -> None:
        self.set(meter.UPTIME, time.monotonic() - self._started)
        self.set(meter.CPU_SECONDS, time.process_time())
        self.set(meter.MEMORY_RSS, resident_bytes())

    def _families(self, openmetrics: bool) -> Iterator[Family]:
        for metric, series in self._values.items():
            if metric.kind == "gauge":
                yield _filled(GaugeMetricFamily(metric.name, metric.help, labels=metric.labels), series)
            elif not metric.name.startswith(_COLLECTOR_PREFIX):
                yield _filled(CounterMetricFamily(metric.name, metric.help, labels=metric.labels), series)
            else:
                yield from _under_both_names(metric, series, openmetrics)
        for metric, histograms in self._histograms.items():
            family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
            for labels, histogram in histograms.items():
                family.add_metric(labels, _cumulative(metric, histogram), histogram.total)
            yield family


def _under_both_names(metric: Metric, series: dict[Labels, float], openmetrics: bool) -> Iterator[Family]:
    """Collectors export their counters without ``_total``, and half of the dashboards ask for it. Beside a
    counter ``x`` OpenMetrics allows no other family ``x``, so that there both are of unknown type, as Go's
    client has it for counters without the suffix."""
    if openmetrics:
        yield _filled(UnknownMetricFamily(f"{metric.name}_total", metric.help, labels=metric.labels), series)
    else:
        yield _filled(CounterMetricFamily(metric.name, metric.help, labels=metric.labels), series)
    yield _filled(UnknownMetricFamily(metric.name, metric.help, labels=metric.labels), series)


def _filled(family: _Plain, series: dict[Labels, float]) -> Family:
    for labels, value in series.items():
        family.add_metric(labels, value)
    return family


def _zeros(metric: Metric) -> dict[Labels, float]:
    """Series whose labels are known beforehand begin at 0, so that a rate sees their first step."""
    if not metric.labels:
        return {(): 0}
    if metric.labels == ("signal",):
        return {(signal.value,): 0 for signal in Signal}
    return {}


def _cumulative(metric: Metric, histogram: _Histogram) -> list[tuple[str, float]]:
    bounds = [*(repr(float(bound)) for bound in metric.buckets), "+Inf"]
    running, cumulative = 0, []
    for bound, count in zip(bounds, histogram.counts, strict=True):
        running += count
        cumulative.append((bound, float(running)))
    return cumulative


class _Snapshot(Collector):
    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families


def resident_bytes() -> float:
    """Memory of the process that is in RAM; without /proc the most it ever was, and 0 on Windows."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return float(int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    except OSError:
        return _peak_bytes()


def _peak_bytes() -> float:
    if sys.platform == "win32":
        return 0.0
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)
