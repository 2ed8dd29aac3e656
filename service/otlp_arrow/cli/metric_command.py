"""``metrics``: names, and series with charts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from otlp_arrow.cli.ask import FOUND, Target, said_nothing
from otlp_arrow.query import AttributeFilter, MetricQuery, SpanStore, duration_to_nanoseconds, time_to_nanoseconds

SECOND = 10**9
_BUCKETS_WANTED = 60
_BUCKETS = [n * SECOND for n in (1, 5, 10, 30, 60, 300, 600, 1800, 3600, 6 * 3600, 86_400, 7 * 86_400)]

Range = tuple[int | None, int | None]


def names(target: Target, store: SpanStore, times: Range) -> int:
    """Which metrics there are."""
    found = store.metric_names(*times)
    if not target.for_people:
        from otlp_arrow.cli import written

        written.table(found, target.format.value)
    elif len(found):
        from otlp_arrow.cli import listings
        from otlp_arrow.cli.screen import make_console

        listings.metric_names(make_console(), found.to_dicts())
    return FOUND if len(found) else said_nothing(target, "no metric")


def series(
    target: Target,
    store: SpanStore,
    name: str,
    times: Range,
    *,
    service: str | None,
    metric_type: str | None,
    group_by: Sequence[str],
    bucket: str | None,
    value: str | None,
    attribute_filters: Sequence[AttributeFilter],
) -> int:
    """One metric in buckets of time."""
    start, end = times
    length = duration_to_nanoseconds(bucket) if bucket else choose_bucket(start, end)
    query = MetricQuery(
        name=name,
        metric_type=metric_type,
        service_name=service,
        start_time_min=start,
        start_time_max=end,
        attribute_filters=attribute_filters,
    )
    found = store.metric_series(query, f"{length}ns", group_by)
    if not target.for_people:
        from otlp_arrow.cli import written

        written.table(found, target.format.value)
    elif len(found):
        from otlp_arrow.cli import listings
        from otlp_arrow.cli.screen import make_console

        known = next((row for row in store.metric_names(start, end) if row["name"] == name), {"type": "", "unit": ""})
        drawn = value or ("last" if known["type"] == "sum" else "mean")
        listings.metric_series(
            make_console(), _by_name(found.columns, found.rows), group_by, drawn, known["unit"], length
        )
    return FOUND if len(found) else said_nothing(target, f"no data point of {name} in this range of time")


def choose_bucket(start: int | None, end: int | None) -> int:
    """Nanoseconds that give some sixty buckets; a minute if the range is open."""
    if start is None:
        return 60 * SECOND
    range_ns = (time_to_nanoseconds("now") if end is None else end) - start
    # SDKs export once a minute: in shorter buckets there would be gaps.
    wanted = max(range_ns / _BUCKETS_WANTED, 60 * SECOND if range_ns >= 600 * SECOND else SECOND)
    return next((length for length in _BUCKETS if length >= wanted), _BUCKETS[-1])


def _by_name(columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Dictionaries in which the first column of a name counts: an attribute may be called as one of ours."""
    return [dict(reversed(list(zip(columns, row, strict=True)))) for row in rows]
