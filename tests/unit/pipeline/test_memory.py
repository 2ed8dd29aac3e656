"""What becomes of memory that is free; in processes of their own, as it holds for all of one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from otlp_arrow.pipeline import memory

pytestmark = pytest.mark.skipif(memory._mallopt is None, reason="not glibc")

PIECES = 8
PIECE_BYTES = 3 << 20
PAGES = PIECES * PIECE_BYTES // 4096

_FAULTS_OF_A_SECOND_ROUND = f"""
import resource, sys
from otlp_arrow.pipeline import memory

def pages_faulted() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    pieces = [bytearray({PIECE_BYTES}) for _ in range({PIECES})]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

kept = memory.keep_freed_memory() if "keep" in sys.argv else None
pages_faulted()
again = pages_faulted()
memory.release_unused_memory()
print(kept, again, pages_faulted())
"""


def child(*arguments: str, **environment: str) -> tuple[str, int, int]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_"))}
    said = subprocess.run(
        [sys.executable, "-c", _FAULTS_OF_A_SECOND_ROUND, *arguments],
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    kept, again, after_release = said.stdout.split()
    return kept, int(again), int(after_release)


def test_freed_memory_is_used_again_without_a_fault_until_it_is_released():
    kept, again, after_release = child("keep")
    assert kept == "True"
    assert again < PAGES // 10
    assert after_release > PAGES // 2


def test_it_would_be_faulted_in_again_otherwise():
    _, again, _ = child()
    assert again > PAGES // 2


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_what_the_environment_says_of_the_allocator_holds(name: str):
    value = "glibc.malloc.trim_threshold=131072" if name == "GLIBC_TUNABLES" else "131072"
    kept, _, _ = child("keep", **{name: value})
    assert kept == "False"
