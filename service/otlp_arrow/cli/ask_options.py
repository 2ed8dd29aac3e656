"""Options that the commands that ask have in common."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer


class Format(enum.StrEnum):
    """How an answer is written."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    ARROW = "arrow"


class SignalName(enum.StrEnum):
    """The signals by their names."""

    TRACES = "traces"
    METRICS = "metrics"
    LOGS = "logs"


class Status(enum.StrEnum):
    """Of a span."""

    UNSET = "unset"
    OK = "ok"
    ERROR = "error"


class Kind(enum.StrEnum):
    """Of a span."""

    UNSPECIFIED = "unspecified"
    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"
    PRODUCER = "producer"
    CONSUMER = "consumer"


class Severity(enum.StrEnum):
    """The least one of a log record."""

    TRACE = "trace"
    DEBUG = "debug"
    INFO = "info"
    WARN = "warn"
    ERROR = "error"
    FATAL = "fatal"

    @property
    def number(self) -> int:
        """Where its range of OTLP's numbers begins."""
        return 1 + 4 * list(Severity).index(self)


class SpanOrder(enum.StrEnum):
    """What spans are ordered by; the largest comes first."""

    START = "start"
    END = "end"
    DURATION = "duration"

    @property
    def field(self) -> str:
        """Its name in ``SpanQuery``."""
        return {"start": "start_time", "end": "end_time", "duration": "duration_ns"}[self.value]


class MetricType(enum.StrEnum):
    """As stored."""

    GAUGE = "gauge"
    SUM = "sum"
    HISTOGRAM = "histogram"
    EXPONENTIAL_HISTOGRAM = "exponential_histogram"
    SUMMARY = "summary"


class SeriesValue(enum.StrEnum):
    """What of a bucket is drawn."""

    MEAN = "mean"
    LAST = "last"
    MIN = "min"
    MAX = "max"
    SUM = "sum"
    POINTS = "points"


class ExportFormat(enum.StrEnum):
    """Of a file."""

    PARQUET = "parquet"
    OTLP = "otlp"
    ARROW = "arrow"
    CSV = "csv"


Directory = Annotated[
    Path | None,
    typer.Option(
        "--dir", metavar="DIR", help="Ask this output directory; else the configured one.", show_default=False
    ),
]
Url = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help="Ask a collector at its admin port instead.", show_default=False),
]
Header = Annotated[
    list[str] | None,
    typer.Option("--header", metavar="NAME=VALUE", help="With --url; repeatable.", show_default=False),
]
Token = Annotated[
    str | None, typer.Option("--token", metavar="TOKEN", help="With --url: a bearer token.", show_default=False)
]
CaFile = Annotated[
    Path | None,
    typer.Option("--cafile", metavar="FILE", help="With --url: authorities (PEM) for https.", show_default=False),
]
Timeout = Annotated[float, typer.Option("--timeout-secs", help="Give a question up after so long.", min=0.1)]
Output = Annotated[Format, typer.Option("--format", help="How the answer is written.")]

Since = Annotated[
    str | None, typer.Option("--since", metavar="DURATION", help="The last 30m, 2h, 1d …", show_default=False)
]
Start = Annotated[
    str | None,
    typer.Option("--start", metavar="TIME", help="From: ISO 8601, nanoseconds, or 30m (ago).", show_default=False),
]
End = Annotated[str | None, typer.Option("--end", metavar="TIME", help="Before.", show_default=False)]
Service = Annotated[str | None, typer.Option("--service", help="service.name is this.", show_default=False)]
Name = Annotated[str | None, typer.Option("--name", help="The span's name is this.", show_default=False)]
Attr = Annotated[
    list[str] | None,
    typer.Option(
        "--attr",
        metavar="FILTER",
        help="As 'http.route=/cart'; also != ~ (contains) ^= (starts with) > < >= <=, or a key alone; repeatable.",
        show_default=False,
    ),
]
Limit = Annotated[int, typer.Option("--limit", help="Rows at most.", min=1, max=100_000)]
Ascending = Annotated[bool, typer.Option("--ascending", help="The smallest or oldest first.")]
MinDuration = Annotated[
    str | None, typer.Option("--min-duration", metavar="DURATION", help="As 250ms.", show_default=False)
]
MaxDuration = Annotated[str | None, typer.Option("--max-duration", metavar="DURATION", show_default=False)]
