"""From the WAL into segments at start: what was acknowledged and had not been written yet."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from otlp_arrow.model import Encoding, Rejected, Signal
from otlp_arrow.model.limits import SEAL_BYTES
from otlp_arrow.storage.frames import Frame
from otlp_arrow.storage.gathering import BuilderPool, Gathering
from otlp_arrow.storage.store import Store

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Replayed:
    """What was replayed, per signal."""

    frames: int = 0
    rows: dict[Signal, int] = field(default_factory=lambda: dict.fromkeys(Signal, 0))
    undecodable_rows: dict[Signal, int] = field(default_factory=lambda: dict.fromkeys(Signal, 0))
    undecodable_frames: int = 0


def replay(
    store: Store,
    pools: dict[Signal, BuilderPool],
    *,
    max_batch_rows: int,
    stop: threading.Event,
    progress: Callable[[int], None] = lambda frames: None,
) -> Replayed:
    """Write every unstored frame to segments; they are synced when this returns.

    Raises ``OSError`` if the disk refuses (what was written so far is not written again next time).
    Returns early when ``stop`` is set.
    """
    done = Replayed()
    gatherings = {signal: Gathering(signal, pools[signal]) for signal in Signal}
    for frame in store.unstored_frames():
        if stop.is_set():
            return done
        gathering = gatherings[frame.signal]
        _append(store, gathering, frame, done)
        if gathering.rows >= max_batch_rows or gathering.nbytes >= SEAL_BYTES:
            _write(store, gathering, pools, done)
        done.frames += 1
        if done.frames % 1000 == 0:
            progress(done.frames)
    for gathering in gatherings.values():
        _write(store, gathering, pools, done)
    return done


def _append(store: Store, gathering: Gathering, frame: Frame, done: Replayed) -> None:
    try:
        if frame.encoding is Encoding.ARROW:
            gathering.append_arrow(frame.payload)
        else:
            (outcome,) = gathering.append([frame.payload])
            if outcome.error is not None:
                raise Rejected(outcome.error)
    except Rejected as error:
        done.undecodable_frames += 1
        done.undecodable_rows[frame.signal] += frame.rows
        suffix = "arrows" if frame.encoding is Encoding.ARROW else "pb"
        store.quarantine.keep(f"{frame.signal.value}_{frame.sequence:020}.{suffix}", frame.payload, str(error))
        return
    gathering.note_sequences(frame.sequence, frame.sequence)


def _write(store: Store, gathering: Gathering, pools: dict[Signal, BuilderPool], done: Replayed) -> None:
    chunk = gathering.seal()
    if chunk is None:
        return
    store.write(chunk.signal, chunk.content(), chunk.wal_first, chunk.wal_last)
    done.rows[chunk.signal] += chunk.rows
    chunk.builder.clear()
    pools[chunk.signal].give(chunk.builder)
