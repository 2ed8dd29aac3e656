"""Where files lie below ``output_dir``, and how they are named (docs/formats.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from otlp_arrow.model import Signal

SEGMENT_SUFFIX = ".arrows"
WAL_SUFFIX = ".wal"
FORWARD_PREFIX = "forward_"

_SEGMENT_NAME = re.compile(r"otlp_(traces|metrics|logs)_(\d{8}_\d{6})_(\d{4,})\.arrows")


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders of one output directory."""

    root: Path

    @property
    def wal(self) -> Path:
        return self.root / "wal"

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def quarantine(self) -> Path:
        return self.root / "quarantine"

    @property
    def lock_file(self) -> Path:
        return self.root / "lock"

    @property
    def writer_cursor(self) -> Path:
        return self.state / "writer.json"

    def forward_cursor(self, name: str) -> Path:
        return self.state / f"{FORWARD_PREFIX}{name}.json"

    def segments(self, signal: Signal) -> Path:
        return self.root / "otlp" / signal.value

    def directories(self) -> list[Path]:
        return [self.wal, self.state, self.quarantine, *(self.segments(s) for s in Signal)]

    def segment_path(self, signal: Signal, opened_ns: int, number: int) -> Path:
        stamp = datetime.fromtimestamp(opened_ns / 1e9, UTC).strftime("%Y%m%d_%H%M%S")
        return self.segments(signal) / f"otlp_{signal.value}_{stamp}_{number:04}{SEGMENT_SUFFIX}"

    def wal_path(self, first_sequence: int) -> Path:
        return self.wal / f"{first_sequence:020}{WAL_SUFFIX}"


def segment_number(path: Path) -> int | None:
    """The counter in a segment's name, or None if the name is not one of ours."""
    match = _SEGMENT_NAME.fullmatch(path.name)
    return int(match.group(3)) if match else None
