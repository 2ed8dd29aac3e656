"""docs/metrics.md says what the catalogue says of every metric."""

from __future__ import annotations

import re
from pathlib import Path

from otlp_arrow.model.meter import Metric, catalogue

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


def row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |"


def test_every_metric_has_its_row_and_no_row_is_left_over():
    rows = [
        line
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if re.match(r"\| `(otelcol|otlp)_[a-z_]+` \|", line)
    ]
    assert rows == [row(metric) for metric in catalogue()]


def test_every_metric_that_the_page_asks_about_exists():
    """A suffix is allowed as Prometheus shows it."""
    names = {metric.name for metric in catalogue()}
    shown = names | {f"{name}{suffix}" for name in names for suffix in ("_total", "_bucket", "_sum", "_count")}
    text = PAGE.read_text(encoding="utf-8")
    mentioned = set(re.findall(r"\b(?:otelcol|otlp_arrow)_[a-z_]*[a-z]\b", text))
    assert mentioned - shown == set()


def test_names_are_unique_and_say_a_sentence():
    metrics = catalogue()
    assert len({metric.name for metric in metrics}) == len(metrics)
    for metric in metrics:
        assert (metric.help.endswith(".") and metric.help[0].isupper()) or metric.help[0].isdigit(), metric.name
        assert not metric.name.endswith("_total"), metric.name
        assert (metric.kind == "histogram") == bool(metric.buckets), metric.name
