"""The temporality and aggregation of each instrument: the program's word over the environment over cumulative."""

from __future__ import annotations

import os

import structlog
from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION,
    OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE,
)
from opentelemetry.sdk.metrics import (
    Counter,
    Histogram,
    ObservableCounter,
    ObservableGauge,
    ObservableUpDownCounter,
    UpDownCounter,
)
from opentelemetry.sdk.metrics.export import AggregationTemporality
from opentelemetry.sdk.metrics.view import (
    Aggregation,
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
)

log = structlog.get_logger(__name__)

_INSTRUMENTS = (Counter, UpDownCounter, Histogram, ObservableCounter, ObservableUpDownCounter, ObservableGauge)
# The specification's words, and the instruments that are not cumulative under each.
_DELTA: dict[str, tuple[type, ...]] = {
    "CUMULATIVE": (),
    "DELTA": (Counter, Histogram, ObservableCounter),
    "LOWMEMORY": (Counter, Histogram),
}
_AGGREGATIONS: dict[str, type[Aggregation]] = {
    "EXPLICIT_BUCKET_HISTOGRAM": ExplicitBucketHistogramAggregation,
    "BASE2_EXPONENTIAL_BUCKET_HISTOGRAM": ExponentialBucketHistogramAggregation,
}


def temporalities(preferred: dict[type, AggregationTemporality] | None) -> dict[type, AggregationTemporality]:
    """The temporality of every kind of instrument."""
    delta = _DELTA[_word(OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE, list(_DELTA))]
    found: dict[type, AggregationTemporality] = {
        kind: AggregationTemporality.DELTA if kind in delta else AggregationTemporality.CUMULATIVE
        for kind in _INSTRUMENTS
    }
    return found | (preferred or {})


def aggregations(preferred: dict[type, Aggregation] | None) -> dict[type, Aggregation]:
    """The aggregation of histograms, and of what else the program prefers one for."""
    histogram = _AGGREGATIONS[_word(OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION, list(_AGGREGATIONS))]
    found: dict[type, Aggregation] = {Histogram: histogram()}
    return found | (preferred or {})


def _word(variable: str, known: list[str]) -> str:
    word = os.environ.get(variable, "").strip().upper() or known[0]
    if word in known:
        return word
    log.warning("environment variable not understood", variable=variable, value=word, taken=known[0], known=known)
    return known[0]
