"""Whether a directory is on a file system that is written past the page cache."""

from __future__ import annotations

from pathlib import Path

from otlp_arrow.model.limits import DIRECT_BLOCK_BYTES
from otlp_arrow.storage.disk import SystemDisk


def takes_direct(directory: Path) -> bool:
    file = SystemDisk().create(directory / "tried", direct=True)
    try:
        file.append([bytes(DIRECT_BLOCK_BYTES)])
        return file.block_bytes == DIRECT_BLOCK_BYTES
    finally:
        file.close()
        file.path.unlink()
