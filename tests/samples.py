"""The recorded requests that tests run on, all as protobuf."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

from otlp_arrow.codec import json_to_protobuf
from otlp_arrow.model import Signal

SAMPLES_DIR = Path(__file__).resolve().parents[1] / "../shared/samples"

_SIGNALS = {
    "trace": Signal.TRACES,
    "traces": Signal.TRACES,
    "metrics": Signal.METRICS,
    "logs": Signal.LOGS,
    "events": Signal.LOGS,
}


class Sample(NamedTuple):
    """One request. ``json`` is the OTLP/JSON text it was made from, if it was."""

    name: str
    signal: Signal
    payload: bytes
    json: bytes | None = None


@functools.cache
def samples() -> tuple[Sample, ...]:
    """Every sample, in a fixed order."""
    found = []
    for path in sorted(SAMPLES_DIR.rglob("*")):
        name = f"{path.parent.name}/{path.name}"
        if path.suffix == ".pb":
            found.append(Sample(name, _SIGNALS[path.stem.split("_")[0]], path.read_bytes()))
        elif path.suffix == ".json":
            signal, text = _SIGNALS[path.stem], path.read_bytes()
            found.append(Sample(name, signal, json_to_protobuf(signal, text), text))
    assert found, f"no samples in {SAMPLES_DIR}"
    return tuple(found)
