"""What remotes refuse is kept below a bound."""

from __future__ import annotations

from pathlib import Path

import pytest

from otlp_arrow.model import Signal
from otlp_arrow.sinks.convert import Refusal
from otlp_arrow.sinks.refused import RefusedItems
from otlp_arrow.storage.disk import SystemDisk
from otlp_arrow.storage.quarantine import Quarantine


def items(directory: Path, max_bytes: int = 1000) -> RefusedItems:
    return RefusedItems(Quarantine(SystemDisk(), directory), directory, max_bytes)


def files(directory: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in directory.iterdir() if p.suffix != ".reason"}


def test_requests_refused_for_one_reason_are_one_file(tmp_path: Path):
    refusals = [Refusal(1, b"a", "pb", "bad"), Refusal(1, b"b", "pb", "bad"), Refusal(1, b"c", "pb", "worse")]
    assert items(tmp_path).keep("there", Signal.TRACES, 7, refusals) == 2
    found = files(tmp_path)
    assert sorted(found.values()) == [b"ab", b"c"]
    assert all(name.startswith("refused_there_traces_00000000000000000007") for name in found)
    reasons = {p.read_text() for p in tmp_path.glob("*.reason")}
    assert reasons == {"there refused it: bad\n", "there refused it: worse\n"}


def test_arrow_streams_stay_apart(tmp_path: Path):
    assert items(tmp_path).keep("there", Signal.LOGS, 1, [Refusal(1, b"a", "arrows", "x")] * 2) == 2


def test_beyond_the_bound_nothing_more_is_kept_even_after_a_restart(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    kept = items(tmp_path)
    assert kept.keep("there", Signal.TRACES, 1, [Refusal(1, b"x" * 800, "pb", "a")]) == 1
    assert kept.keep("there", Signal.TRACES, 2, [Refusal(1, b"x" * 800, "pb", "a")]) == 0
    assert kept.keep("there", Signal.TRACES, 3, [Refusal(1, b"x" * 800, "pb", "a")]) == 0
    assert caplog.text.count("more is counted and not kept") == 1
    assert items(tmp_path).keep("there", Signal.TRACES, 4, [Refusal(1, b"x" * 800, "pb", "a")]) == 0
