"""What lies in an output directory, as a table and as JSON."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from otlp_arrow.app.settings import Settings
from otlp_arrow.app.wiring import open_collector
from otlp_arrow.cli.commands import app
from otlp_arrow.cli.inspect import _size, as_json, problems_of
from otlp_arrow.model import Batch, Signal
from otlp_arrow.storage.inspection import inspect_directory
from samples import samples

FLAGS = {f"protocols.{name}_enabled": False for name in ("protobuf", "http", "arrow_flight")}


async def fill(directory: Path, *, flush: bool) -> dict[str, int]:
    """One request of each signal; the rows of each. Looked at before the collector closes."""
    settings = Settings.load(flags={**FLAGS, "output_dir": directory, "write_interval_secs": 3600}, environ={}).settings
    rows = {}
    async with open_collector(settings, admin=False) as collector:
        for signal in Signal:
            payload = next(sample.payload for sample in samples() if sample.signal is signal)
            rows[signal.value] = (await collector.pipeline.intake.accept(Batch(signal, payload))).rows
        if flush:
            await asyncio.wait_for(collector.pipeline.flush(), 20)
        rows["beside"] = inspect_json(directory)
    return rows


def inspect_json(directory: Path, *arguments: str) -> dict:
    result = CliRunner().invoke(app, ["inspect", str(directory), "--format", "json", *arguments])
    assert result.exit_code in (0, 1), result.output
    return json.loads(result.stdout)


async def test_rows_in_the_wal_and_rows_in_segments_are_told_apart_while_it_runs(tmp_path: Path):
    rows = await fill(tmp_path / "wal", flush=False)
    flushed = await fill(tmp_path / "segments", flush=True)
    for signal in Signal:
        beside = rows["beside"]["signals"][signal.value]
        assert (beside["rows"], beside["rows_only_in_wal"]) == (0, rows[signal.value])
        beside = flushed["beside"]["signals"][signal.value]
        assert (beside["rows"], beside["rows_only_in_wal"]) == (rows[signal.value], 0)
    assert not flushed["beside"]["segments"][0]["closed"]
    assert rows["beside"]["wal"][0]["frames"] == {"traces": 1, "metrics": 1, "logs": 1}


async def test_a_closed_directory_shows_ranges_of_time_and_sequence(tmp_path: Path):
    await fill(tmp_path, flush=True)
    found = inspect_json(tmp_path, "--verify")
    assert found["problems"] == []
    assert set(found["cursors"]) == {"writer"}
    for segment in found["segments"]:
        assert segment["closed"]
        assert segment["wal_first"] <= segment["wal_last"]
        assert 0 < segment["time_min"] <= segment["time_max"]
        assert (tmp_path / segment["path"]).stat().st_size == segment["bytes"]


async def test_a_flipped_byte_is_found_when_checksums_are_compared_and_is_exit_code_1(tmp_path: Path):
    await fill(tmp_path, flush=True)
    segment = next((tmp_path / "otlp" / "traces").glob("*.arrows"))
    data = bytearray(segment.read_bytes())
    data[-200] ^= 1
    segment.write_bytes(data)

    result = CliRunner().invoke(app, ["inspect", str(tmp_path), "--verify"])
    assert result.exit_code == 1
    assert "checksum" in result.output
    assert "damaged" in result.output


async def test_the_table_names_every_file_and_what_is_in_quarantine(tmp_path: Path):
    await fill(tmp_path, flush=True)
    (tmp_path / "quarantine" / "00001.wal").write_bytes(b"rubbish")
    (tmp_path / "quarantine" / "00001.wal.reason").write_text("the header is [damaged]\n")
    result = CliRunner().invoke(app, ["inspect", str(tmp_path)])
    assert result.exit_code == 0
    for path in (*tmp_path.rglob("*.arrows"), *(tmp_path / "wal").iterdir()):
        assert path.name in result.output
    assert "the header is [damaged]" in result.output


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 * 2**30, "5.0 GiB"), (2**50, "1024.0 TiB")]
)
def test_sizes_are_for_people(size: int, text: str):
    assert _size(size) == text


async def test_beside_a_busy_collector_no_acknowledged_record_is_missing_and_nothing_looks_damaged(tmp_path: Path):
    flags = {**FLAGS, "output_dir": tmp_path, "max_batch_rows": 50, "max_file_size": "64KiB"}
    payload = next(sample.payload for sample in samples() if sample.signal is Signal.TRACES)
    async with (
        asyncio.timeout(40),
        open_collector(Settings.load(flags=flags, environ={}).settings, admin=False) as collector,
    ):
        accepted, stop = 0, asyncio.Event()

        async def send() -> None:
            nonlocal accepted
            while not stop.is_set():
                accepted += (await collector.pipeline.intake.accept(Batch(Signal.TRACES, payload))).rows

        sending = asyncio.create_task(send())
        for _ in range(15):
            before = accepted
            found = await asyncio.to_thread(lambda: as_json(view := inspect_directory(tmp_path), problems_of(view)))
            seen = found["signals"]["traces"]
            assert seen["rows"] + seen["rows_only_in_wal"] >= before
            assert found["problems"] == []
        stop.set()
        await sending
    found = inspect_json(tmp_path, "--verify")
    assert (found["signals"]["traces"]["rows"], found["problems"]) == (accepted, [])
