"""The writer's cursor."""

from __future__ import annotations

import contextlib
import errno
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otlp_arrow.model import Corrupt, Signal
from otlp_arrow.storage.cursor import decode_cursor, encode_cursor, load_cursor, store_cursor
from otlp_arrow.storage.disk import SystemDisk
from otlp_arrow.testing.faulty_disk import FaultyDisk, PowerCut

PATH = Path("writer.json")
SOME = {Signal.TRACES: 7, Signal.METRICS: 0, Signal.LOGS: 2**60}


@given(st.fixed_dictionaries({signal: st.integers(0, 2**63) for signal in Signal}))
def test_a_cursor_comes_back_as_it_was(sequences: dict[Signal, int]):
    assert decode_cursor(PATH, encode_cursor(sequences)) == sequences


def test_a_cursor_is_json_that_a_person_can_read():
    content = json.loads(encode_cursor(SOME))
    assert content["version"] == 1
    assert content["sequences"] == {"traces": 7, "metrics": 0, "logs": 2**60}


def test_every_flipped_byte_of_a_cursor_is_noticed_or_changes_nothing():
    data = encode_cursor(SOME)
    for position in range(len(data)):
        for bits in (0x01, 0x10, 0x80):
            damaged = bytearray(data)
            damaged[position] ^= bits
            try:
                assert decode_cursor(PATH, bytes(damaged)) == SOME, (position, bits)
            except Corrupt:
                pass


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{}", b'{"version": 1, "sequences": []}', b"\xff\xfe"])
def test_anything_else_is_corrupt(content: bytes):
    with pytest.raises(Corrupt):
        decode_cursor(PATH, content)


def test_a_cursor_of_another_version_is_corrupt():
    content = json.loads(encode_cursor(SOME))
    content["version"] = 2
    with pytest.raises(Corrupt):
        decode_cursor(PATH, json.dumps(content).encode())


def test_no_cursor_means_nothing_is_known_to_be_stored(tmp_path: Path):
    assert load_cursor(SystemDisk(), tmp_path / "writer.json") == dict.fromkeys(Signal, 0)


@pytest.mark.parametrize("operation", ["create", "append", "sync", "rename"])
def test_the_old_cursor_stands_when_the_new_one_cannot_be_stored(tmp_path: Path, operation: str):
    disk = FaultyDisk(tmp_path)
    path = tmp_path / "writer.json"
    store_cursor(disk, path, SOME)
    disk.fail(operation, errno.ENOSPC, after_bytes=3)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="No space"):
        store_cursor(disk, path, dict.fromkeys(Signal, 9))
    assert load_cursor(disk, path) == SOME
    store_cursor(disk, path, dict.fromkeys(Signal, 9))
    disk.crash()
    assert load_cursor(disk, path) == dict.fromkeys(Signal, 9)


@pytest.mark.parametrize("count", range(7))
def test_a_power_cut_leaves_the_old_cursor_or_the_new_one(tmp_path: Path, count: int):
    disk = FaultyDisk(tmp_path)
    path = tmp_path / "writer.json"
    store_cursor(disk, path, SOME)
    disk.cut_power_before(count)
    with contextlib.suppress(PowerCut):
        store_cursor(disk, path, dict.fromkeys(Signal, 9))
    disk.crash(torn_bytes=5, names=count % 2 == 0)
    assert load_cursor(disk, path) in (SOME, dict.fromkeys(Signal, 9))
