"""The rows that were acknowledged and that no segment holds yet, decoded from the WAL's files.

The files are read as they are, without their writer's help: frames are checked by their checksums; what is cut off
again after a failed sync is forgotten; a frame that the next file's name makes void is none.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from otlp_arrow.codec import new_builder
from otlp_arrow.model import Encoding, Rejected, Signal
from otlp_arrow.query.segments import BatchUnit, SegmentFile
from otlp_arrow.storage.frames import FRAME_HEADER, FRAME_MAGIC, FRAMES_BEGIN, Frame, frame_size
from otlp_arrow.storage.frames import _frame_at as frame_at
from otlp_arrow.storage.gathering import columns_of_frame
from otlp_arrow.storage.layout import WAL_SUFFIX, Layout

_BLOCK_BYTES = 1024 * 1024
_MAX_SMALL_BATCHES = 8
_SMALL_ROWS = 4096
"""Batches below this size are merged when there are more than a few: each costs a query about 0.1 ms. Merging costs
1 µs a row, and requests of 512 rows are to be merged once, not twice."""

_SIGNALS = {signal.code: signal for signal in Signal}


@dataclass(slots=True)
class _File:
    """How far one file was read."""

    file: SegmentFile
    first: int
    offset: int = FRAMES_BEGIN
    last_at: int = -1  # the frame before ``offset``
    last_header: bytes = b""


@dataclass(slots=True)
class _Decoded:
    """Rows of consecutive frames: how many each has."""

    frames: list[tuple[int, int]]  # sequence, rows
    batch: pa.RecordBatch
    unit: BatchUnit | None = None


@dataclass(slots=True)
class WalTail:
    """Not thread-safe: the source has a lock."""

    layout: Layout
    _files: dict[Path, _File] = field(default_factory=dict)
    _fresh: dict[Signal, list[Frame]] = field(default_factory=lambda: {signal: [] for signal in Signal})
    _decoded: dict[Signal, list[_Decoded]] = field(default_factory=lambda: {signal: [] for signal in Signal})

    def read(self, stored: Mapping[Signal, int]) -> None:
        """Take in what was written since the last time, above the sequences that are stored for sure."""
        found = _wal_files(self.layout.wal)
        for path in [p for p in self._files if p not in dict(found)]:
            del self._files[path]
        lowest = min(stored.values())
        for index, (path, first) in enumerate(found):
            void_from = found[index + 1][1] if index + 1 < len(found) else None
            if void_from is not None and void_from - 1 <= lowest:
                self._files.pop(path, None)
                continue
            try:
                self._read_file(path, first, void_from, stored)
            except FileNotFoundError:  # released: segments hold all of it
                self._files.pop(path, None)

    def units(self, signal: Signal, watermark: int) -> list[BatchUnit]:
        """The rows above the watermark, oldest first; what lies below is forgotten."""
        self._decode(signal, watermark)
        kept: list[_Decoded] = []
        for each in self._decoded[signal]:
            if each.frames[-1][0] <= watermark:
                continue
            if each.frames[0][0] <= watermark:
                skipped = sum(rows for sequence, rows in each.frames if sequence <= watermark)
                frames = [frame for frame in each.frames if frame[0] > watermark]
                each = _Decoded(frames, each.batch.slice(skipped))
            kept.append(each)
        small = [each for each in kept if each.batch.num_rows < _SMALL_ROWS]
        if len(small) > _MAX_SMALL_BATCHES:
            kept = _merged(kept)
        self._decoded[signal] = kept
        units = []
        for each in kept:
            if each.batch.num_rows:
                each.unit = each.unit or BatchUnit(signal, each.batch, each.frames[0][0], each.frames[-1][0])
                units.append(each.unit)
        return units

    def frames(self, signal: Signal) -> tuple[tuple[int, int], ...]:
        """Sequence and rows of what ``units`` gave last."""
        return tuple(frame for each in self._decoded[signal] for frame in each.frames)

    def newest(self, signal: Signal) -> int:
        """The highest sequence seen of a signal that is not stored, 0 if there is none."""
        decoded, fresh = self._decoded[signal], self._fresh[signal]
        return fresh[-1].sequence if fresh else decoded[-1].frames[-1][0] if decoded else 0

    def _read_file(self, path: Path, first: int, void_from: int | None, stored: Mapping[Signal, int]) -> None:
        known = self._files.get(path)
        if known is None:
            known = self._files[path] = _File(SegmentFile(path), first)
        elif known.last_at >= 0 and known.file.read(known.last_at, FRAME_HEADER.size) != known.last_header:
            self._forget_from(first)  # cut after a failed sync, and written again
            known.offset, known.last_at = FRAMES_BEGIN, -1
        size = known.file.stat().st_size
        block, start = b"", known.offset
        while known.offset + FRAME_HEADER.size <= size:
            at = known.offset - start
            if at + FRAME_HEADER.size > len(block):
                block, start, at = known.file.read(known.offset, _BLOCK_BYTES), known.offset, 0
                if len(block) < FRAME_HEADER.size:
                    return
            magic, _, length, _, sequence, _, code, _, padding = FRAME_HEADER.unpack_from(block, at)
            total = frame_size(length, padding)
            if magic != FRAME_MAGIC or known.offset + FRAME_HEADER.size + length > size:
                return
            signal = _SIGNALS.get(code)
            if signal is None or sequence > stored[signal]:
                if at + total > len(block):
                    block, start, at = known.file.read(known.offset, max(total, _BLOCK_BYTES)), known.offset, 0
                frame = frame_at(block, at)
                if not isinstance(frame, Frame):
                    return  # being written, or damaged: recovery will say
                if void_from is not None and sequence >= void_from:
                    return
                if sequence > self.newest(frame.signal):
                    self._fresh[frame.signal].append(frame)
            known.last_at, known.last_header = known.offset, block[at : at + FRAME_HEADER.size]
            known.offset += total

    def _forget_from(self, sequence: int) -> None:
        for signal in Signal:
            self._fresh[signal] = [f for f in self._fresh[signal] if f.sequence < sequence]
            kept = []
            for each in self._decoded[signal]:
                frames = [frame for frame in each.frames if frame[0] < sequence]
                if len(frames) == len(each.frames):
                    kept.append(each)
                elif frames:
                    kept.append(_Decoded(frames, each.batch.slice(0, sum(rows for _, rows in frames))))
            self._decoded[signal] = kept

    def _decode(self, signal: Signal, watermark: int) -> None:
        frames = [frame for frame in self._fresh[signal] if frame.sequence > watermark]
        self._fresh[signal] = []
        otlp: list[Frame] = []
        for frame in frames:
            if frame.encoding is Encoding.OTLP:
                otlp.append(frame)
                continue
            self._decode_otlp(signal, otlp)
            otlp = []
            try:
                batch = columns_of_frame(signal, frame.payload)
            except Rejected:
                continue
            self._decoded[signal].append(_Decoded([(frame.sequence, batch.num_rows)], batch))
        self._decode_otlp(signal, otlp)

    def _decode_otlp(self, signal: Signal, frames: list[Frame]) -> None:
        if not frames:
            return
        builder = new_builder(signal)
        outcomes = builder.append([frame.payload for frame in frames])
        counted = [(frame.sequence, outcome.rows) for frame, outcome in zip(frames, outcomes, strict=True)]
        self._decoded[signal].append(_Decoded(counted, builder.finish()))  # nobody clears this builder


def _merged(decoded: list[_Decoded]) -> list[_Decoded]:
    """Runs of small batches as one each."""
    merged: list[_Decoded] = []
    run: list[_Decoded] = []
    for each in [*decoded, None]:
        if each is not None and each.batch.num_rows < _SMALL_ROWS:
            run.append(each)
            continue
        if len(run) > 1:
            frames = [frame for member in run for frame in member.frames]
            merged.append(_Decoded(frames, pa.concat_batches([member.batch for member in run])))
        else:
            merged += run
        run = []
        if each is not None:
            merged.append(each)
    return merged


def _wal_files(directory: Path) -> list[tuple[Path, int]]:
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    return [
        (directory / name, int(name[: -len(WAL_SUFFIX)]))
        for name in names
        if name.endswith(WAL_SUFFIX) and name[: -len(WAL_SUFFIX)].isdigit()
    ]
