"""Metrics: ``ExportMetricsServiceRequest`` to rows, one a data point, and back.

``metric_type`` is the name of the member of ``Metric.data`` that is set. What a type does not have is
null in its rows; of what it has, only the fields that OTLP marks ``optional`` (``sum``, ``min``, ``max`` of the
histograms) and the value of a number point can be.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    Exemplar,
    ExponentialHistogramDataPoint,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    SummaryDataPoint,
)

from otlp_arrow.codec.checks import optional_id, time
from otlp_arrow.codec.origin import Regrouping, Row, Shared, origin
from otlp_arrow.codec.rejection import SPAN_ID_BYTES, TRACE_ID_BYTES, Check
from otlp_arrow.codec.values import from_attributes, to_attributes

Request = ExportMetricsServiceRequest
DataPoint = NumberDataPoint | HistogramDataPoint | ExponentialHistogramDataPoint | SummaryDataPoint

_WITH_TEMPORALITY = ("sum", "histogram", "exponential_histogram")


def records(request: ExportMetricsServiceRequest) -> Iterator[tuple[Shared, DataPoint]]:
    """The data points of a request in order, each with the columns that its metric shares."""
    for resource_metrics in request.resource_metrics:
        for scope_metrics in resource_metrics.scope_metrics:
            scope = origin(resource_metrics, scope_metrics)
            for metric in scope_metrics.metrics:
                metric_type = metric.WhichOneof("data")
                if metric_type is None:
                    continue
                shared = scope.plus(_header(metric, metric_type), _header_bytes(metric))
                for point in getattr(metric, metric_type).data_points:
                    yield shared, point


def _header(metric: Metric, metric_type: str) -> Row:
    data = getattr(metric, metric_type)
    return {
        "metric_name": metric.name,
        "metric_type": metric_type,
        "description": metric.description,
        "unit": metric.unit,
        "metadata": to_attributes(metric.metadata),
        "aggregation_temporality": data.aggregation_temporality if metric_type in _WITH_TEMPORALITY else None,
        "is_monotonic": data.is_monotonic if metric_type == "sum" else None,
    }


def _header_bytes(metric: Metric) -> int:
    texts = sum(len(text.encode()) for text in (metric.name, metric.description, metric.unit))
    return texts + sum(member.ByteSize() for member in metric.metadata)


# -- to rows -------------------------------------------------------------------------------------

_NOT_OF_EVERY_TYPE: Row = dict.fromkeys(
    [
        *("int_value", "double_value"),
        *("count", "sum", "min", "max"),
        *("bucket_counts", "explicit_bounds"),
        *("scale", "zero_count", "zero_threshold"),
        *("positive_offset", "positive_bucket_counts", "negative_offset", "negative_bucket_counts"),
        "quantiles",
    ]
)


def to_row(point: DataPoint) -> Row:
    """A data point's own columns. Raises ``Refused``; the order of checks is that of ``rejection``."""
    row = {
        "start_time_unix_nano": time(point.start_time_unix_nano, Check.START_TIME),
        "time_unix_nano": time(point.time_unix_nano, Check.TIME),
        "attributes": to_attributes(point.attributes),
        "flags": point.flags,
        "exemplars": [],
        **_NOT_OF_EVERY_TYPE,
    }
    if isinstance(point, NumberDataPoint):
        row |= _number(point)
    elif isinstance(point, HistogramDataPoint):
        row |= _statistics(point) | {
            "bucket_counts": list(point.bucket_counts),
            "explicit_bounds": list(point.explicit_bounds),
        }
    elif isinstance(point, ExponentialHistogramDataPoint):
        row |= _statistics(point) | {
            "scale": point.scale,
            "zero_count": point.zero_count,
            "zero_threshold": point.zero_threshold,
            "positive_offset": point.positive.offset,
            "positive_bucket_counts": list(point.positive.bucket_counts),
            "negative_offset": point.negative.offset,
            "negative_bucket_counts": list(point.negative.bucket_counts),
        }
    else:
        row |= {
            "count": point.count,
            "sum": point.sum,
            "quantiles": [(member.quantile, member.value) for member in point.quantile_values],
        }
    if not isinstance(point, SummaryDataPoint):
        row["exemplars"] = [_exemplar(member, exemplar) for member, exemplar in enumerate(point.exemplars)]
    return row


def _number(point: NumberDataPoint | Exemplar) -> Row:
    which = point.WhichOneof("value")
    return {
        "int_value": point.as_int if which == "as_int" else None,
        "double_value": point.as_double if which == "as_double" else None,
    }


def _statistics(point: HistogramDataPoint | ExponentialHistogramDataPoint) -> Row:
    return {
        "count": point.count,
        "sum": point.sum if point.HasField("sum") else None,
        "min": point.min if point.HasField("min") else None,
        "max": point.max if point.HasField("max") else None,
    }


def _exemplar(member: int, exemplar: Exemplar) -> tuple[Any, ...]:
    return (
        time(exemplar.time_unix_nano, Check.EXEMPLAR_TIME, member),
        *_number(exemplar).values(),
        optional_id(exemplar.trace_id, TRACE_ID_BYTES, Check.EXEMPLAR_TRACE_ID_LENGTH, member),
        optional_id(exemplar.span_id, SPAN_ID_BYTES, Check.EXEMPLAR_SPAN_ID_LENGTH, member),
        to_attributes(exemplar.filtered_attributes),
    )


# -- to messages ---------------------------------------------------------------------------------


class Encoder:
    """Puts rows back as data points of ``request``; those of one scope with equal headers are one metric."""

    def __init__(self) -> None:
        self.request = Request()
        self._groups = Regrouping(self.request)
        self._metrics: dict[tuple[int, bytes], Metric] = {}

    def add(self, row: Row) -> None:
        """One point more. Raises ``ValueError`` or ``TypeError`` for a value that no point has."""
        metric_type, header = row["metric_type"], _metric(row)
        group = self._groups.scope_group(row)
        key = (id(group), header.SerializeToString())
        if key not in self._metrics:
            self._metrics[key] = group.metrics.add()
            self._metrics[key].CopyFrom(header)
        getattr(self._metrics[key], metric_type).data_points.append(_POINTS[metric_type](row))


def _metric(row: Row) -> Metric:
    """The metric of a row, without data points."""
    metric_type = row["metric_type"]
    if metric_type not in _POINTS:
        raise ValueError(f"metric_type {metric_type!r}; expected one of {', '.join(_POINTS)}")
    metric = Metric(
        name=row["metric_name"],
        description=row["description"],
        unit=row["unit"],
        metadata=from_attributes(row["metadata"]),
    )
    data = getattr(metric, metric_type)
    data.SetInParent()
    if metric_type in _WITH_TEMPORALITY:
        data.aggregation_temporality = row["aggregation_temporality"] or 0
    if metric_type == "sum":
        data.is_monotonic = row["is_monotonic"] or False
    return metric


# In all four a None given to a message's constructor leaves the field unset.


def _number_point(row: Row) -> NumberDataPoint:
    return NumberDataPoint(
        as_int=row["int_value"], as_double=row["double_value"], exemplars=_exemplars(row), **_common(row)
    )


def _histogram_point(row: Row) -> HistogramDataPoint:
    return HistogramDataPoint(
        count=row["count"],
        sum=row["sum"],
        min=row["min"],
        max=row["max"],
        bucket_counts=row["bucket_counts"],
        explicit_bounds=row["explicit_bounds"],
        exemplars=_exemplars(row),
        **_common(row),
    )


def _exponential_histogram_point(row: Row) -> ExponentialHistogramDataPoint:
    buckets = ExponentialHistogramDataPoint.Buckets
    return ExponentialHistogramDataPoint(
        count=row["count"],
        sum=row["sum"],
        min=row["min"],
        max=row["max"],
        scale=row["scale"],
        zero_count=row["zero_count"],
        zero_threshold=row["zero_threshold"],
        positive=buckets(offset=row["positive_offset"], bucket_counts=row["positive_bucket_counts"]),
        negative=buckets(offset=row["negative_offset"], bucket_counts=row["negative_bucket_counts"]),
        exemplars=_exemplars(row),
        **_common(row),
    )


def _summary_point(row: Row) -> SummaryDataPoint:
    return SummaryDataPoint(
        count=row["count"],
        sum=row["sum"],
        quantile_values=[
            SummaryDataPoint.ValueAtQuantile(quantile=quantile, value=value)
            for quantile, value in row["quantiles"] or ()
        ],
        **_common(row),
    )


_POINTS = {
    "gauge": _number_point,
    "sum": _number_point,
    "histogram": _histogram_point,
    "exponential_histogram": _exponential_histogram_point,
    "summary": _summary_point,
}


def _common(row: Row) -> dict[str, Any]:
    return {
        "start_time_unix_nano": row["start_time_unix_nano"],
        "time_unix_nano": row["time_unix_nano"],
        "attributes": from_attributes(row["attributes"]),
        "flags": row["flags"],
    }


def _exemplars(row: Row) -> list[Exemplar]:
    return [
        Exemplar(
            time_unix_nano=time_unix_nano,
            as_int=int_value,
            as_double=double_value,
            trace_id=trace_id,
            span_id=span_id,
            filtered_attributes=from_attributes(attributes),
        )
        for time_unix_nano, int_value, double_value, trace_id, span_id, attributes in row["exemplars"]
    ]
