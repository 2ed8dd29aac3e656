"""Files of telemetry as pieces that a sink takes: segments, requests in protobuf, OTLP/JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from otlp_arrow import codec
from otlp_arrow.codec.schema import SCHEMAS, SIGNAL_KEY
from otlp_arrow.model import Corrupt, Rejected, Signal
from otlp_arrow.storage.snapshot import TimeRange, rows_inside

_SUFFIXES = {
    ".arrows": "arrow",
    ".arrow": "arrow",
    ".pb": "protobuf",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
}
_ROWS = 4_096  # of a segment in one piece; about 2 MiB of OTLP
_TOP_LEVEL = {"resourceSpans": Signal.TRACES, "resourceMetrics": Signal.METRICS, "resourceLogs": Signal.LOGS}

SUFFIXES = tuple(_SUFFIXES)


@dataclass(slots=True)
class Piece:
    """Part of a file: rows as columns, or a request as it is. ``end``: bytes of the file used up to here."""

    signal: Signal
    end: int
    columns: pa.RecordBatch | None = None
    payload: bytes = b""

    def rows(self) -> pa.RecordBatch:
        """As columns. Raises ``Rejected``."""
        return codec.decode(self.signal, self.payload) if self.columns is None else self.columns


def pieces(path: Path, signal: Signal | None, times: TimeRange) -> Iterator[Piece]:
    """What a file holds inside ``times``, in its order. ``signal`` is for ``.pb`` files whose name does not say.

    Raises ``Rejected`` or ``Corrupt`` where it cannot be read, ``OSError`` if it cannot be opened.
    """
    match _SUFFIXES.get(path.suffix):
        case "arrow":
            found = _of_segment(path)
        case "protobuf":
            found = _of_request(path, signal)
        case "json":
            found = _of_json(path)
        case _:
            raise Rejected(f"{path}: not one of {', '.join(SUFFIXES)}")
    for piece in found:
        if not times:
            yield piece
            continue
        for columns in rows_inside(piece.signal, piece.rows(), times):
            yield Piece(piece.signal, piece.end, columns)


def _of_segment(path: Path) -> Iterator[Piece]:
    with pa.memory_map(str(path)) as source:
        try:
            with pa.ipc.open_stream(source) as reader:
                name = (reader.schema.metadata or {}).get(SIGNAL_KEY, b"").decode()
                if name not in [s.value for s in Signal] or not reader.schema.equals(SCHEMAS[Signal(name)]):
                    raise Rejected(f"{path}: an Arrow stream, but not in the schema of a segment")
                for batch in reader:
                    for start in range(0, batch.num_rows, _ROWS):
                        yield Piece(Signal(name), source.tell(), batch.slice(start, _ROWS))
        except (pa.ArrowInvalid, OSError) as error:
            raise Corrupt(path, source.tell(), f"cannot be read any further: {error}") from error


def _of_request(path: Path, signal: Signal | None) -> Iterator[Piece]:
    if signal is None:
        named = [s for s in Signal if s.singular in path.stem]
        if len(named) != 1:
            raise Rejected(f"{path}: whose signal? Name it with --signal, or in the name of the file")
        signal = named[0]
    payload = path.read_bytes()
    yield Piece(signal, len(payload), payload=payload)


def _of_json(path: Path) -> Iterator[Piece]:
    """One request a line, or one in the whole file."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                content = json.loads(line)
            except ValueError as error:
                if number > 1:
                    raise Rejected(f"{path}, line {number}: not JSON: {error}") from None
                content = _whole(path)
                line = path.read_bytes()
                file.seek(0, 2)
            found = [_TOP_LEVEL[key] for key in content if key in _TOP_LEVEL] if isinstance(content, dict) else []
            if not found:
                raise Rejected(f"{path}, line {number}: not OTLP/JSON: none of {', '.join(_TOP_LEVEL)}")
            yield Piece(found[0], file.tell(), payload=codec.json_to_protobuf(found[0], line))


def _whole(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise Rejected(f"{path}: not JSON: {error}") from None
