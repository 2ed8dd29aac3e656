"""An output directory worked by hand: the log and the segments without an event loop, step by step."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otlp_arrow.codec import decode
from otlp_arrow.model import Encoding, Signal
from otlp_arrow.storage.catalog import Segment
from otlp_arrow.storage.gathering import BuilderPool
from otlp_arrow.storage.replay import Replayed, replay
from otlp_arrow.storage.store import Findings, StorageSettings, Store
from otlp_arrow.storage.wal import Entry
from otlp_arrow.testing.faulty_disk import FaultyDisk
from otlp_arrow.testing.manual_clock import ManualClock
from records import request


@dataclass
class Recovery:
    """What a start found and did."""

    findings: Findings
    replayed: Replayed

    @property
    def lost(self) -> int:
        """Records counted as lost."""
        return sum(self.findings.lost_rows.values()) + sum(self.replayed.undecodable_rows.values())


class Directory:
    """``accept`` puts a request into the log, ``flush`` its rows into a segment; ``restart`` is the next process."""

    def __init__(self, root: Path, disk: FaultyDisk | None = None, **settings: Any) -> None:
        self.root = root
        self.disk = disk or FaultyDisk(root)
        self.clock = ManualClock()
        self.settings = StorageSettings(root, **settings)
        self.accepted: list[tuple[int, Signal, bytes]] = []  # not flushed yet
        self.store = Store(self.settings, disk=self.disk, time_ns=self.clock.time_ns)
        self.recovery = self.start()

    def start(self) -> Recovery:
        """Open, replay, release: what the pipeline does before its doors open."""
        self.store = Store(self.settings, disk=self.disk, time_ns=self.clock.time_ns)
        findings = self.store.open()
        try:
            pools = {signal: BuilderPool(signal) for signal in Signal}
            replayed = replay(self.store, pools, max_batch_rows=65_536, stop=threading.Event())
            self.store.finish_recovery()
        except BaseException:
            self.store.abandon()
            raise
        self.recovery = Recovery(findings, replayed)
        return self.recovery

    def accept(self, signal: Signal, *ids: int) -> int:
        """A request in the log; its sequence. Raises ``OSError``."""
        payload = request(signal, ids)
        sequence = self.store.wal.append([Entry(signal, Encoding.OTLP, len(ids), 0, payload)])
        self.store.wal.sync()
        self.store.wal.confirm()
        self.accepted.append((sequence, signal, payload))
        return sequence

    def flush(self, signal: Signal) -> Segment:
        """Everything accepted of a signal, as one unit. Raises ``OSError``; then it may be tried again."""
        waiting = [item for item in self.accepted if item[1] is signal]
        rows = decode(signal, b"".join(payload for _, _, payload in waiting))
        segment = self.store.write(signal, rows, waiting[0][0], waiting[-1][0])
        self.accepted = [item for item in self.accepted if item[1] is not signal]
        return segment

    def stored_up_to(self) -> int:
        """The sequence up to which everything is in segments."""
        return min((sequence for sequence, _, _ in self.accepted), default=self.store.wal.next_sequence) - 1

    def release(self) -> int:
        """Let the log go of what is in segments."""
        return self.store.release(self.stored_up_to())

    def kill(self) -> None:
        """The process is gone; the disk has everything that was written."""
        self.store._lock.release()
        self.accepted = []

    def crash(self, **survival: Any) -> None:
        """The power is gone; see ``FaultyDisk.crash``."""
        self.kill()
        self.disk.crash(**survival)

    def stop(self) -> None:
        """The process ends as it should."""
        self.store.close(self.stored_up_to())

    def restart(self) -> Recovery:
        """The next process, after the end of the last one however that came."""
        self.kill()
        return self.start()

    def segments(self, signal: Signal) -> list[Path]:
        """The segment files of a signal."""
        return sorted(self.store.layout.segments(signal).iterdir())

    def quarantined(self) -> list[str]:
        """Names in quarantine, the reasons apart."""
        return sorted(p.name for p in self.store.layout.quarantine.iterdir() if p.suffix != ".reason")

    def wal_files(self) -> list[Path]:
        """The files of the log."""
        return sorted(self.store.layout.wal.iterdir())


def flip(path: Path, position: int, bits: int = 0x41) -> None:
    """Damage one byte; a negative position counts from the end."""
    data = bytearray(path.read_bytes())
    data[position] ^= bits
    path.write_bytes(data)
