"""The writer's cursor: a durable floor of what is in segments, per signal."""

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
    named = {signal.value: sequences.get(signal, 0) for signal in Signal}
    return json.dumps({"version": 1, "sequences": named, "crc32": _checksum(named)}, indent=1).encode() + b"\n"


def decode_cursor(path: Path, data: bytes) -> Sequences:
    """The sequences of a cursor file. Raises ``Corrupt``."""
    try:
        content = json.loads(data)
        named = content["sequences"]
        if content["version"] != 1 or content["crc32"] != _checksum(named):
            raise Corrupt(path, 0, "checksum or version of the cursor is wrong")
        return {signal: int(named[signal.value]) for signal in Signal}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corrupt(path, 0, f"not a cursor: {error!r}") from error


def load_cursor(disk: Disk, path: Path) -> Sequences:
    """What the file says; zeros if there is none. Raises ``Corrupt`` or ``OSError``."""
    try:
        data = disk.read(path)
    except FileNotFoundError:
        return dict.fromkeys(Signal, 0)
    return decode_cursor(path, data)


def store_cursor(disk: Disk, path: Path, sequences: Mapping[Signal, int]) -> None:
    """Durable when it returns. Raises ``OSError``; the old cursor stands then."""
    disk.replace(path, encode_cursor(sequences))


def _checksum(named: dict[str, int]) -> str:
    return f"{zlib.crc32(json.dumps(named, sort_keys=True, separators=(',', ':')).encode()):08x}"
