"""Cursor files: a durable floor of what is done with, per signal; the writer's, and one for each destination."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

from otlp_arrow.model import Corrupt, Signal
from otlp_arrow.storage.disk import Disk

Sequences = dict[Signal, int]


def encode_cursor(sequences: Mapping[Signal, int]) -> bytes:
    """The content of a cursor file (docs/formats.md)."""
    named = {signal.value: sequences[signal] for signal in Signal if signal in sequences}
    return json.dumps({"version": 1, "sequences": named, "crc32": _checksum(named)}, indent=1).encode() + b"\n"


def decode_cursor(path: Path, data: bytes) -> Sequences:
    """The sequences of a cursor file; not of every signal, if it is a destination's. Raises ``Corrupt``."""
    try:
        content = json.loads(data)
        named = content["sequences"]
        if content["version"] != 1 or content["crc32"] != _checksum(named):
            raise Corrupt(path, 0, "checksum or version of the cursor is wrong")
        return {Signal(name): int(sequence) for name, sequence in named.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corrupt(path, 0, f"not a cursor: {error!r}") from error


def load_cursor(disk: Disk, path: Path) -> Sequences:
    """What the writer's file says; zeros if there is none. Raises ``Corrupt`` or ``OSError``."""
    try:
        data = disk.read(path)
    except FileNotFoundError:
        return dict.fromkeys(Signal, 0)
    found = decode_cursor(path, data)
    if found.keys() != set(Signal):
        raise Corrupt(path, 0, "not a cursor: a signal is missing")
    return found


def store_cursor(disk: Disk, path: Path, sequences: Mapping[Signal, int]) -> None:
    """Durable when it returns. Raises ``OSError``; the old cursor stands then."""
    disk.replace(path, encode_cursor(sequences))


def _checksum(named: dict[str, int]) -> str:
    return f"{zlib.crc32(json.dumps(named, sort_keys=True, separators=(',', ':')).encode()):08x}"
