"""Data points: what each field of each metric type becomes, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    Exemplar,
    ExponentialHistogram,
    ExponentialHistogramDataPoint,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    Sum,
    Summary,
    SummaryDataPoint,
)

from otlp_arrow.codec import reference
from otlp_arrow.codec.schema import METRICS
from otlp_arrow.model import Signal
from strategies import normal, rows

TRACE_ID = bytes(range(1, 17))
SPAN_ID = bytes(range(1, 9))
TOO_LATE = 2**63
LATE = "is later than 2^63-1 ns"
DELTA, CUMULATIVE = 1, 2
ATTRIBUTE = KeyValue(key="a", value=AnyValue(string_value="x"))
EXEMPLARS = [
    Exemplar(time_unix_nano=9, as_int=-1, trace_id=TRACE_ID, span_id=SPAN_ID, filtered_attributes=[ATTRIBUTE]),
    Exemplar(as_double=0.0, trace_id=bytes(16), span_id=bytes(8)),
    Exemplar(),
]
EXEMPLAR_ROWS = [
    (9, -1, None, TRACE_ID, SPAN_ID, [("a", (1, "x", None, None, None, None))]),
    (None, None, "0.0", None, None, []),
    (None, None, None, None, None, []),
]
COMMON: dict[str, Any] = {"start_time_unix_nano": 1, "time_unix_nano": 2, "attributes": [ATTRIBUTE], "flags": 1}
COMMON_ROW = COMMON | {"attributes": [("a", (1, "x", None, None, None, None))], "exemplars": EXEMPLAR_ROWS}


def request_of(*metrics: Metric) -> ExportMetricsServiceRequest:
    request = ExportMetricsServiceRequest()
    request.resource_metrics.add().scope_metrics.add().metrics.extend(metrics)
    return request


def only_row(metric: Metric) -> dict[str, Any]:
    """The columns of the one row that are not null and do not come from the resource or scope."""
    batch = reference.decode(Signal.METRICS, request_of(metric).SerializeToString())
    batch.validate(full=True)
    (row,) = rows(batch)
    own = METRICS.names[: METRICS.names.index("service_name")]
    return {name: row[name] for name in own if row[name] is not None}


def header(metric_type: str) -> dict[str, Any]:
    return {"metric_name": "", "metric_type": metric_type, "description": "", "unit": "", "metadata": []}


def test_a_gauge_point_has_its_header_and_the_value_that_is_set() -> None:
    metric = Metric(
        name="m",
        description="d",
        unit="s",
        metadata=[ATTRIBUTE],
        gauge=Gauge(data_points=[NumberDataPoint(as_int=-5, exemplars=EXEMPLARS, **COMMON)]),
    )
    assert only_row(metric) == COMMON_ROW | {
        "metric_name": "m",
        "metric_type": "gauge",
        "description": "d",
        "unit": "s",
        "metadata": COMMON_ROW["attributes"],
        "int_value": -5,
    }


def test_a_sum_point_has_temporality_and_monotonicity() -> None:
    point = NumberDataPoint(as_double=0.5, exemplars=EXEMPLARS, **COMMON)
    metric = Metric(sum=Sum(data_points=[point], aggregation_temporality=CUMULATIVE, is_monotonic=True))  # type: ignore[arg-type]
    assert only_row(metric) == COMMON_ROW | header("sum") | {
        "double_value": "0.5",
        "aggregation_temporality": 2,
        "is_monotonic": True,
    }


def test_a_number_point_without_a_value_has_none() -> None:
    bare = header("sum") | {"attributes": [], "flags": 0, "exemplars": []}
    metric = Metric(sum=Sum(data_points=[NumberDataPoint()]))
    assert only_row(metric) == bare | {"aggregation_temporality": 0, "is_monotonic": False}


def test_a_histogram_point_has_its_buckets() -> None:
    point = HistogramDataPoint(
        count=2**64 - 1,
        sum=1.5,
        min=0.0,
        max=-0.0,
        bucket_counts=[1, 2**64 - 1],
        explicit_bounds=[0.5],
        exemplars=EXEMPLARS,
        **COMMON,
    )
    metric = Metric(histogram=Histogram(data_points=[point], aggregation_temporality=DELTA))  # type: ignore[arg-type]
    assert only_row(metric) == COMMON_ROW | header("histogram") | {
        "aggregation_temporality": 1,
        "count": 2**64 - 1,
        "sum": "1.5",
        "min": "0.0",
        "max": "-0.0",
        "bucket_counts": [1, 2**64 - 1],
        "explicit_bounds": ["0.5"],
    }


def test_an_empty_histogram_point_has_no_statistics_and_empty_lists() -> None:
    assert only_row(Metric(histogram=Histogram(data_points=[HistogramDataPoint()]))) == header("histogram") | {
        "attributes": [],
        "flags": 0,
        "exemplars": [],
        "aggregation_temporality": 0,
        "count": 0,
        "bucket_counts": [],
        "explicit_bounds": [],
    }


def test_an_exponential_histogram_point_has_both_sides() -> None:
    point = ExponentialHistogramDataPoint(
        count=3,
        sum=1.5,
        min=-1.0,
        max=2.0,
        scale=-3,
        zero_count=4,
        zero_threshold=0.25,
        positive=ExponentialHistogramDataPoint.Buckets(offset=-2, bucket_counts=[1, 0]),
        negative=ExponentialHistogramDataPoint.Buckets(offset=5, bucket_counts=[2**64 - 1]),
        exemplars=EXEMPLARS,
        **COMMON,
    )
    data = ExponentialHistogram(data_points=[point], aggregation_temporality=DELTA)  # type: ignore[arg-type]
    assert only_row(Metric(exponential_histogram=data)) == COMMON_ROW | header("exponential_histogram") | {
        "aggregation_temporality": 1,
        "count": 3,
        "sum": "1.5",
        "min": "-1.0",
        "max": "2.0",
        "scale": -3,
        "zero_count": 4,
        "zero_threshold": "0.25",
        "positive_offset": -2,
        "positive_bucket_counts": [1, 0],
        "negative_offset": 5,
        "negative_bucket_counts": [2**64 - 1],
    }


def test_an_exponential_histogram_point_without_buckets_has_empty_ones() -> None:
    data = ExponentialHistogram(data_points=[ExponentialHistogramDataPoint()])
    assert only_row(Metric(exponential_histogram=data)) == header("exponential_histogram") | {
        "attributes": [],
        "flags": 0,
        "exemplars": [],
        "aggregation_temporality": 0,
        "count": 0,
        "scale": 0,
        "zero_count": 0,
        "zero_threshold": "0.0",
        "positive_offset": 0,
        "positive_bucket_counts": [],
        "negative_offset": 0,
        "negative_bucket_counts": [],
    }


def test_a_summary_point_has_its_quantiles_and_no_exemplars() -> None:
    quantiles = [SummaryDataPoint.ValueAtQuantile(quantile=0.5, value=7.0), SummaryDataPoint.ValueAtQuantile()]
    point = SummaryDataPoint(count=3, sum=1.5, quantile_values=quantiles, **COMMON)
    assert only_row(Metric(summary=Summary(data_points=[point]))) == COMMON_ROW | header("summary") | {
        "exemplars": [],
        "count": 3,
        "sum": "1.5",
        "quantiles": [("0.5", "7.0"), ("0.0", "0.0")],
    }


def test_metrics_without_points_or_without_a_type_make_no_rows() -> None:
    request = request_of(Metric(name="none"), Metric(name="empty", gauge=Gauge()))
    batch, outcome = reference.decode_with_outcome(Signal.METRICS, request.SerializeToString())
    assert (batch.num_rows, outcome.rows, outcome.rejected) == (0, 0, 0)


BAD_TRACE_ID = [Exemplar(trace_id=b"1", span_id=b"1")]
BAD_SPAN_ID = [Exemplar(span_id=b"1"), Exemplar(time_unix_nano=TOO_LATE)]
BAD_EXEMPLARS = [Exemplar(), Exemplar(time_unix_nano=TOO_LATE, trace_id=b"1")]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"start_time_unix_nano": TOO_LATE, "time_unix_nano": TOO_LATE},
            f": start_time_unix_nano {LATE}",
        ),
        ({"time_unix_nano": TOO_LATE, "exemplars": BAD_EXEMPLARS}, f": time_unix_nano {LATE}"),
        ({"exemplars": BAD_EXEMPLARS}, f".exemplars[1]: time_unix_nano {LATE}"),
        (
            {"exemplars": [Exemplar(trace_id=b"1", span_id=b"1")]},
            ".exemplars[0]: trace_id has 1 bytes, 0 or 16 expected",
        ),
        (
            {"exemplars": [Exemplar(span_id=b"1"), *BAD_EXEMPLARS]},
            ".exemplars[0]: span_id has 1 bytes, 0 or 8 expected",
        ),
    ],
)
@pytest.mark.parametrize("metric_type", ["gauge", "sum", "histogram", "exponential_histogram"])
def test_a_point_that_breaks_the_data_model_is_left_out_and_named(
    metric_type: str, fields: dict[str, Any], expected: str
) -> None:
    metric = Metric(name="m")
    points = getattr(metric, metric_type).data_points
    points.add(flags=1)
    points.add(flags=2, **fields)
    points.add(flags=3)
    payload = request_of(Metric(gauge=Gauge(data_points=[NumberDataPoint()])), metric).SerializeToString()
    batch, outcome = reference.decode_with_outcome(Signal.METRICS, payload)
    assert [row["flags"] for row in rows(batch)] == [0, 1, 3]
    assert (outcome.rows, outcome.rejected, outcome.message) == (3, 1, f"data_points[2]{expected}")


def test_a_summary_point_too_late_is_left_out() -> None:
    point = SummaryDataPoint(time_unix_nano=TOO_LATE)
    _, outcome = reference.decode_with_outcome(
        Signal.METRICS, request_of(Metric(summary=Summary(data_points=[point]))).SerializeToString()
    )
    assert outcome.message == f"data_points[0]: time_unix_nano {LATE}"


def test_points_of_metrics_with_equal_headers_come_together_and_others_stay_apart() -> None:
    def metric(flags: int, **changed: Any) -> Metric:
        data = Sum(data_points=[NumberDataPoint(flags=flags)], aggregation_temporality=DELTA)  # type: ignore[arg-type]
        return Metric(**{"name": "m", "sum": data, **changed})

    others = [
        metric(2, unit="s"),
        metric(3, description="d"),
        metric(4, metadata=[ATTRIBUTE]),
        metric(5, sum=Sum(data_points=[NumberDataPoint(flags=5)])),
        metric(6, sum=Sum(data_points=[NumberDataPoint(flags=6)], is_monotonic=True)),
        metric(7, sum=None, gauge=Gauge(data_points=[NumberDataPoint(flags=7)])),
    ]
    request = request_of(metric(0), *others, metric(1))
    again = ExportMetricsServiceRequest.FromString(
        reference.encode(Signal.METRICS, reference.decode(Signal.METRICS, request.SerializeToString()))
    )
    metrics = again.resource_metrics[0].scope_metrics[0].metrics
    assert [[point.flags for point in getattr(m, str(m.WhichOneof("data"))).data_points] for m in metrics] == [
        *([0, 1], [2], [3], [4], [5], [6], [7])
    ]
    assert normal(again) == normal(request)


def test_metrics_with_equal_headers_in_different_scopes_stay_apart() -> None:
    request = ExportMetricsServiceRequest()
    for scope, flags in [("s1", 0), ("s2", 1), ("s1", 2)]:
        group = request.resource_metrics.add().scope_metrics.add()
        group.scope.name = scope
        group.metrics.add(name="m", gauge=Gauge(data_points=[NumberDataPoint(flags=flags)]))
    again = ExportMetricsServiceRequest.FromString(
        reference.encode(Signal.METRICS, reference.decode(Signal.METRICS, request.SerializeToString()))
    )
    found = [
        (group.scope.name, [[point.flags for point in metric.gauge.data_points] for metric in group.metrics])
        for group in again.resource_metrics[0].scope_metrics
    ]
    assert found == [("s1", [[0, 2]]), ("s2", [[1]])]
