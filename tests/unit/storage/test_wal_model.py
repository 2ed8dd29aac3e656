"""The log against a plain list, on tiny files, a disk that fails and power cuts at any time."""

from __future__ import annotations

import errno
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from otlp_arrow.model import Encoding, Signal
from otlp_arrow.storage.layout import Layout
from otlp_arrow.storage.quarantine import Quarantine
from otlp_arrow.storage.wal import Entry, Wal
from otlp_arrow.testing.faulty_disk import FaultyDisk

FAULTS = st.none() | st.tuples(
    st.sampled_from(["append", "sync", "sync", "truncate", "create", "delete", "sync_directory"]),
    st.sampled_from([errno.EIO, errno.ENOSPC]),
    st.integers(0, 2),  # so many go well before
    st.integers(1, 3),  # so many fail
    st.integers(0, 90) | st.sampled_from([512, 4096, 8200]),  # bytes that an append writes all the same
)
PAYLOADS = st.lists(st.binary(max_size=60) | st.just(b"large" * 1000), min_size=1, max_size=4)


class WalModel(RuleBasedStateMachine):
    """``kept`` is the list: what was confirmed, by sequence. ``maybe`` may turn up after a crash, once."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.kept: dict[int, bytes] = {}
        self.maybe: dict[int, set[bytes]] = {}
        self.released = 0

    @initialize(direct=st.booleans())
    def begin(self, direct: bool) -> None:
        self.disk = FaultyDisk(self.root)
        self.disk.takes_direct = direct
        for directory in Layout(self.root).directories():
            self.disk.make_directory(directory)
        self.reopen()

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    def reopen(self) -> None:
        layout = Layout(self.root)
        file_bytes = 3 * 4096 if self.disk.takes_direct else 150
        quarantine = Quarantine(self.disk, layout.quarantine)
        self.wal = Wal(self.disk, layout, quarantine, file_bytes=file_bytes, direct=True)
        self.findings = self.wal.recover(self.released + 1)

    # -- what may happen -------------------------------------------------------------------------

    @rule(payloads=PAYLOADS, fault=FAULTS)
    def keep(self, payloads: list[bytes], fault: tuple[str, int, int, int, int] | None) -> None:
        self.plan(fault)
        expected = self.wal.next_sequence
        try:
            assert self.wal.append([Entry(Signal.LOGS, Encoding.OTLP, 1, 0, p) for p in payloads]) == expected
            self.wal.sync()
        except OSError:
            assert self.wal.next_sequence == expected
            self.note_maybe(expected, payloads)
            return
        self.wal.confirm()
        self.kept.update(enumerate(payloads, expected))

    @rule(payloads=PAYLOADS, synced=st.booleans(), fault=FAULTS)
    def take_back(self, payloads: list[bytes], synced: bool, fault: tuple[str, int, int, int, int] | None) -> None:
        self.plan(fault)
        expected = self.wal.next_sequence
        self.note_maybe(expected, payloads)
        try:
            self.wal.append([Entry(Signal.LOGS, Encoding.OTLP, 1, 0, p) for p in payloads])
            if synced:
                self.wal.sync()
        except OSError:
            pass
        else:
            self.wal.rollback()
        assert self.wal.next_sequence == expected

    @rule(back=st.integers(0, 6))
    def release(self, back: int) -> None:
        up_to = max(self.released, self.wal.confirmed_sequence - back)
        self.released = up_to
        try:
            self.wal.release(up_to)
        except OSError:
            pass

    def plan(self, fault: tuple[str, int, int, int, int] | None) -> None:
        if fault is not None:
            operation, number, skip, times, after_bytes = fault
            self.disk.fail(operation, number, skip=skip, times=times, after_bytes=after_bytes)  # type: ignore[arg-type]

    @rule()
    def heal(self) -> None:
        self.disk.heal()

    @rule(torn_bytes=st.integers(0, 200) | st.integers(4000, 8300), zeros=st.booleans(), names=st.booleans())
    def power_cut(self, torn_bytes: int, zeros: bool, names: bool) -> None:
        self.disk.heal()
        self.disk.crash(torn_bytes=torn_bytes, zeros=zeros, names=names)
        self.restart()

    @rule()
    def kill(self) -> None:
        self.disk.heal()
        self.disk.crash(torn_bytes=1 << 20, names=True)
        self.restart()

    @precondition(lambda self: self.wal.confirmed_sequence > 0)
    @rule()
    def close(self) -> None:
        self.disk.heal()
        self.wal.close()
        self.restart()

    # -- what must hold --------------------------------------------------------------------------

    def note_maybe(self, first: int, payloads: list[bytes]) -> None:
        for sequence, payload in enumerate(payloads, first):
            self.maybe.setdefault(sequence, set()).add(payload)

    def restart(self) -> None:
        self.reopen()
        for frame in self.wal.read(self.released):
            if frame.sequence not in self.kept:
                assert frame.payload in self.maybe[frame.sequence], "a frame that nobody wrote"
                self.kept[frame.sequence] = frame.payload
        assert self.findings.missing_frames == 0
        assert self.wal.next_sequence > max(self.kept, default=0)

    @invariant()
    def holds_what_was_kept_and_nothing_else(self) -> None:
        if not hasattr(self, "wal"):
            return
        wanted = {sequence: payload for sequence, payload in self.kept.items() if sequence > self.released}
        frames = [(f.sequence, f.payload) for f in self.wal.read(self.released)]
        assert dict(frames) == wanted
        assert [sequence for sequence, _ in frames] == sorted(wanted)


WalModel.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestWalModel = WalModel.TestCase
