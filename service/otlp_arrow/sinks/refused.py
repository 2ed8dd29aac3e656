"""What remotes refused for good, written aside below a bound."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from otlp_arrow.model import Signal
from otlp_arrow.model.limits import MAX_REFUSED_BYTES
from otlp_arrow.sinks.convert import Refusal
from otlp_arrow.storage.quarantine import Quarantine

log = logging.getLogger(__name__)

_PREFIX = "refused_"


class RefusedItems:
    """The part of ``quarantine/`` that belongs to forwarding. Blocking; on any thread."""

    def __init__(self, quarantine: Quarantine, directory: Path, max_bytes: int = MAX_REFUSED_BYTES) -> None:
        self._quarantine = quarantine
        self._directory = directory
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._bytes: int | None = None
        self._full = False

    def keep(self, destination: str, signal: Signal, first_sequence: int, refusals: Sequence[Refusal]) -> int:
        """Write refused records aside, one file for each kind and reason; how many files were written."""
        grouped: dict[tuple[str, str], list[bytes]] = defaultdict(list)
        for refusal in refusals:
            grouped[refusal.suffix, refusal.reason].append(refusal.payload)
        name = f"{_PREFIX}{destination}_{signal.value}_{first_sequence:020}"
        with self._lock:
            return sum(
                self._write(f"{name}.{suffix}", payload, f"{destination} refused it: {reason}")
                for (suffix, reason), payloads in grouped.items()
                # Protobuf requests join into one; Arrow streams do not.
                for payload in ([b"".join(payloads)] if suffix == "pb" else payloads)
            )

    def _write(self, name: str, payload: bytes, reason: str) -> bool:
        if self._bytes is None:
            self._bytes = self._bytes_there()
        if self._bytes + len(payload) > self._max_bytes:
            if not self._full:
                self._full = True
                log.error(
                    "quarantine/ holds %d bytes that destinations refused; more is counted and not kept there "
                    "(the records are in the segments)",
                    self._bytes,
                )
            return False
        if self._quarantine.keep(name, payload, reason) is None:
            return False
        self._bytes += len(payload)
        return True

    def _bytes_there(self) -> int:
        total = 0
        for path in self._directory.glob(f"{_PREFIX}*"):
            with contextlib.suppress(OSError):  # somebody tidies up just now
                total += path.stat().st_size
        return total
