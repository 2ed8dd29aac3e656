"""The files open in pyarrow, Polars, pandas and DuckDB, as the README says, growing and closed."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import polars
import pyarrow as pa
import pytest

from otlp_arrow.model import Signal
from samples import samples
from served import Served
from waiting import wait_until


def with_pyarrow(path: Path) -> int:
    return sum(len(value) for value in pa.ipc.open_stream(str(path)).read_all().column("attributes").to_pylist())


def with_polars(path: Path) -> int:
    frame = polars.read_ipc_stream(path).select("service_name", "attributes")
    return sum(len(value) for value in frame["attributes"].to_list())


def with_pandas(path: Path) -> int:
    return sum(len(value) for value in pa.ipc.open_stream(str(path)).read_pandas()["attributes"])


def with_duckdb(path: Path) -> int:
    table = duckdb.from_arrow(pa.ipc.open_stream(str(path)).read_all())
    return table.query("t", "select sum(len(map_keys(attributes))) from t").fetchall()[0][0]


READERS: list[Callable[[Path], int]] = [with_pyarrow, with_polars, with_pandas, with_duckdb]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A collector that was sent every sample twice, so that each file has two record batches."""
    with Served(tmp_path_factory.mktemp("readers"), "--set=write_interval_secs=1") as running:
        for _ in range(2):
            sent = dict.fromkeys(Signal, 0)
            for sample in samples():
                request = urllib.request.Request(
                    f"http://localhost:{running.http_port}/v1/{sample.signal.value}",
                    sample.payload,
                    {"Content-Type": "application/x-protobuf"},
                )
                with urllib.request.urlopen(request, timeout=10) as reply:
                    assert reply.status == 200
            for signal in Signal:
                sent[signal] = int(running.metric(f"otelcol_receiver_accepted_{signal.records}_total"))
                assert sent[signal] > 0
                wait_until(
                    lambda s=signal, n=sent[signal]: (
                        running.metric("otlp_arrow_stored_records_total", signal=s.value) == n
                    )
                )
        yield running


def rows_and_attributes(directory: Path, signal: Signal) -> tuple[int, int]:
    (path,) = (directory / "otlp" / signal.value).glob("*.arrows")
    table = pa.ipc.open_stream(path.read_bytes()).read_all()
    return table.num_rows, sum(len(value) for value in table.column("attributes").to_pylist())


@pytest.mark.parametrize("signal", Signal)
@pytest.mark.parametrize("reader", READERS)
def test_a_file_opens_while_it_grows(served: Served, reader: Callable[[Path], int], signal: Signal) -> None:
    (path,) = (served.output_dir / "otlp" / signal.value).glob("*.arrows")
    assert not path.read_bytes().endswith(b"\xff\xff\xff\xff\0\0\0\0"), "still open"
    _, attributes = rows_and_attributes(served.output_dir, signal)
    assert reader(path) == attributes > 0


@pytest.mark.parametrize("signal", Signal)
@pytest.mark.parametrize("reader", READERS)
def test_a_closed_file_opens(served: Served, reader: Callable[[Path], int], signal: Signal) -> None:
    if served.process.poll() is None:
        assert served.stop() == 0
    (path,) = (served.output_dir / "otlp" / signal.value).glob("*.arrows")
    assert path.read_bytes().endswith(b"\xff\xff\xff\xff\0\0\0\0")
    _, attributes = rows_and_attributes(served.output_dir, signal)
    assert reader(path) == attributes > 0
