"""One process per output directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from otlp_arrow.model import DirectoryLocked, OtlpIOError
from otlp_arrow.storage.lock import DirectoryLock


def test_the_second_one_is_told_who_holds_the_directory(tmp_path: Path):
    with (
        DirectoryLock(tmp_path / "lock"),
        pytest.raises(DirectoryLocked, match=rf"in use by process {os.getpid()}; stop it"),
    ):
        DirectoryLock(tmp_path / "lock").acquire()
    with DirectoryLock(tmp_path / "lock"):
        pass


def test_a_process_that_dies_lets_go(tmp_path: Path):
    code = (
        "import sys, time; from pathlib import Path; from otlp_arrow.storage.lock import DirectoryLock\n"
        "DirectoryLock(Path(sys.argv[1])).acquire(); print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lock")], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(DirectoryLocked, match=f"process {holder.pid}"):
            DirectoryLock(tmp_path / "lock").acquire()
        holder.kill()
        holder.wait(10)
    with DirectoryLock(tmp_path / "lock"):
        pass


def test_a_directory_that_cannot_be_written_says_so(tmp_path: Path):
    with pytest.raises(OtlpIOError, match="cannot write to the output directory"):
        DirectoryLock(tmp_path / "missing" / "lock").acquire()


def test_a_lock_whose_holder_cannot_be_noted_is_held_all_the_same(tmp_path: Path, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    lock = DirectoryLock(tmp_path / "lock")
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        lock.acquire()
    with pytest.raises(DirectoryLocked, match="another process"):
        DirectoryLock(tmp_path / "lock").acquire()
    lock.release()
    lock.release()
    with DirectoryLock(tmp_path / "lock"):
        pass
