"""Parcels, and how the forwarder behaves at moments that a real remote makes hard to hit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otlp_arrow.app.telemetry import PrometheusMeter
from otlp_arrow.model import Batch, Encoding, OtlpConfigError, Signal
from otlp_arrow.model import meter as m
from otlp_arrow.sinks.breaker import BreakerSettings, State
from otlp_arrow.sinks.destination import Destination
from otlp_arrow.sinks.forwarder import Forwarder
from otlp_arrow.sinks.lane import Lane
from otlp_arrow.sinks.parcels import Packer
from otlp_arrow.sinks.refused import RefusedItems
from otlp_arrow.sinks.retry import RetrySettings
from otlp_arrow.sinks.sink import DeliveryResult, Fault, Permanent, Transient
from otlp_arrow.storage.frames import Frame
from otlp_arrow.storage.reader import WalReader
from otlp_arrow.storage.store import StorageSettings, Store
from otlp_arrow.storage.wal import Entry
from remotes import all_ids, spans, until


# -- parcels -------------------------------------------------------------------------------------------
@given(sizes=st.lists(st.integers(0, 50), max_size=40), step=st.integers(1, 40))
def test_parcels_hold_every_frame_once_in_order_within_the_bound(sizes: list[int], step: int):
    made = [Frame(n, Signal.LOGS, Encoding.OTLP, 1, 1, b"x" * size) for n, size in enumerate(sizes, 1)]
    packer = Packer(60)
    parcels = [p for n in range(0, len(made), step) for p in packer.add(made[n : n + step], 0.0)]
    packer.close(0.0)
    assert all(p.closed for p in parcels)
    assert [f for p in parcels for f in p.frames] == made
    for parcel in parcels:
        assert parcel.nbytes == sum(len(f.payload) for f in parcel.frames)
        assert parcel.nbytes <= 60 or len(parcel.frames) == 1


def test_a_parcel_stays_open_until_it_is_full_or_closed():
    def frames(*sizes: int) -> list[Frame]:
        return [Frame(n, Signal.TRACES, Encoding.OTLP, 1, 1, b"x" * size) for n, size in enumerate(sizes, 1)]

    packer = Packer(100)
    (first,) = packer.add(frames(40), now=1.0)
    assert packer.add(frames(50), now=2.0) == []
    assert (first.nbytes, first.closed) == (90, False)
    (second,) = packer.add(frames(30), now=3.0)
    assert (first.closed, second.closed) == (True, False)
    packer.close(begun_before=2.9)
    assert not second.closed
    packer.close(begun_before=3.0)
    assert second.closed
    (third,) = packer.add(frames(10), now=4.0)
    third.closed = True  # given up
    (fourth,) = packer.add(frames(10), now=5.0)
    assert (third.nbytes, fourth.nbytes) == (10, 10)


# -- a sink that does what the test says ---------------------------------------------------------------
class Scripted:
    """A sink whose every answer the test gives, when it gives it."""

    encoding = Encoding.OTLP
    takes_parts = False

    def __init__(self, answer: Callable[[int, Batch], Any] = lambda n, batch: None) -> None:
        self.answer = answer
        self.calls = 0
        self.payloads: list[bytes] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.under_way = 0

    async def __aenter__(self) -> Scripted:
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    async def send(self, batch: Batch) -> DeliveryResult:
        self.calls += 1
        answer = self.answer(self.calls, batch)
        self.under_way += 1
        try:
            await self.hold.wait()
        finally:
            self.under_way -= 1
        if isinstance(answer, Exception):
            raise answer
        self.payloads.append(batch.payload)
        return answer or DeliveryResult()


class Bench:
    """A store, and one forwarder on it."""

    def __init__(self, directory: Path, sink: Scripted, **more: Any) -> None:
        linger_s = more.pop("linger_s", 0.01)
        self.store = Store(StorageSettings(directory, wal_file_bytes=more.pop("wal_file_bytes", 4096)))
        settings = {
            "retry": RetrySettings(0.001, 0.002),
            "breaker": BreakerSettings(3, 0.05),
            "max_batch_bytes": 1000,
            "max_in_flight": 2,
            **more,
        }
        self.destination = Destination("there", "http://there:1", "grpc", **settings)
        self.backlog = self.store.register_reader("there", self.destination.max_backlog_bytes, self.destination.signals)
        self.meter = PrometheusMeter()
        self.sink = sink
        refused = RefusedItems(self.store.quarantine, self.store.layout.quarantine)
        self.forwarder = Forwarder(self.destination, self.backlog, sink, refused, self.meter, linger_s=linger_s)

    @property
    def reader(self) -> WalReader:
        return self.backlog.readers[Signal.TRACES]

    @property
    def lane(self) -> Lane:
        return next(lane for lane in self.forwarder._lanes if lane.signal is Signal.TRACES)

    def append(self, *payloads: bytes, rows: int = 1, signal: Signal = Signal.TRACES) -> None:
        self.store.wal.append([Entry(signal, Encoding.OTLP, rows, 1, p) for p in payloads])
        self.store.wal.sync()
        self.store.wal.confirm()

    def forget_what_is_in_memory(self) -> None:
        self.reader._tail._max_bytes = 0
        self.reader._tail._drop_oldest()

    async def until(self, condition: Callable[[], bool]) -> None:
        await until(condition, 10)

    async def settled(self) -> None:
        await self.until(lambda: not any(reader.behind for reader in self.backlog.readers.values()))

    def sent(self) -> float:
        return self.meter.value(m.EXPORTER_SENT[Signal.TRACES], "there")

    def failed(self) -> float:
        return self.meter.value(m.EXPORTER_FAILED[Signal.TRACES], "there")


@asynccontextmanager
async def bench(directory: Path, sink: Scripted, **more: Any) -> AsyncIterator[Bench]:
    made = Bench(directory, sink, **more)
    made.store.open()
    try:
        async with made.forwarder:
            yield made
    finally:
        made.store.close(made.store.wal.confirmed_sequence)


async def test_the_cursor_moves_over_confirmed_frames_only_and_in_order(tmp_path: Path):
    sink = Scripted()
    gates = {1: asyncio.Event(), 2: asyncio.Event()}

    async def send(batch: Batch) -> DeliveryResult:
        sink.calls += 1
        await gates.setdefault(sink.calls, asyncio.Event()).wait()
        return DeliveryResult()

    sink.send = send  # type: ignore[method-assign]
    async with bench(tmp_path, sink, max_batch_bytes=1) as b:
        b.append(spans(1), spans(1))
        await b.until(lambda: sink.calls == 2)
        gates[2].set()
        await b.until(lambda: b.sent() == 1)
        assert b.reader.confirmed == 0, "the first is not there yet"
        gates[1].set()
        await b.until(lambda: b.reader.confirmed == 2)


async def test_a_delivery_cancelled_before_its_first_step_gives_its_slot_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    create_task = asyncio.create_task
    cancelled: list[asyncio.Task[Any]] = []

    def create_and_cancel(work: Any, *, name: str | None = None) -> asyncio.Task[Any]:
        task = create_task(work, name=name)
        if not cancelled and str(name).startswith("otlp-deliver"):
            cancelled.append(task)
            task.cancel()
        return task

    async with bench(tmp_path, Scripted(), max_in_flight=1) as b:
        monkeypatch.setattr(asyncio, "create_task", create_and_cancel)
        b.append(spans(1))
        await b.until(lambda: bool(cancelled) and cancelled[0].done())
        assert not b.lane._slots.locked()


async def test_frames_of_a_signal_that_nobody_wants_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from otlp_arrow.sinks import forwarder

    monkeypatch.setattr(forwarder, "CURSOR_INTERVAL_S", 0.02)
    async with bench(tmp_path, Scripted(), signals=frozenset({Signal.LOGS})) as b:
        b.append(spans(1))
        await b.until(lambda: b.backlog.needs_above == 1)
        assert b.sink.calls == 0


async def test_the_cursor_is_kept_while_requests_have_come_that_nobody_has_taken_yet(tmp_path: Path):
    async with bench(tmp_path, Scripted(), linger_s=0.05) as b:
        b.append(spans(1))
        b.lane.keep_up()
        assert b.reader.position == 0
        await b.settled()
        assert b.sent() == 1


async def test_a_cancelled_forwarder_keeps_its_cursor_before_what_was_under_way(tmp_path: Path):
    sink = Scripted()
    async with bench(tmp_path, sink, max_batch_bytes=1) as b:
        b.append(first := spans(1))
        await b.settled()
        sink.hold.clear()
        b.append(second := spans(1))
        await b.until(lambda: sink.under_way == 1)
    assert b.reader.stored == 1
    sink.hold.set()
    async with bench(tmp_path, sink) as again:
        await again.settled()
    assert sink.payloads == [first, second]


async def test_a_signal_that_the_remote_is_slow_on_holds_up_no_other(tmp_path: Path):
    """More of it than may be under way or in memory, and a breaker, a pause and a pace of its own."""
    sink = Scripted()
    held = asyncio.Event()

    async def send(batch: Batch) -> DeliveryResult:
        sink.calls += 1
        if batch.signal is Signal.TRACES:
            sink.under_way += 1
            await held.wait()
        sink.payloads.append(batch.payload)
        return DeliveryResult()

    sink.send = send  # type: ignore[method-assign]
    async with bench(tmp_path, sink, max_batch_bytes=1, max_in_flight=1) as b:
        b.reader._tail._max_bytes = 1000
        slow = [spans(1) for _ in range(50)]
        b.append(*slow)
        await b.until(lambda: sink.under_way == 1)
        b.append(b"a log", signal=Signal.LOGS)
        await b.until(lambda: sink.payloads == [b"a log"])
        assert b.forwarder.status().details["signals"]["logs"]["lag_records"] == 0
        assert b.forwarder.status().details["signals"]["traces"]["lag_records"] == 50
        held.set()
        await b.settled()
        assert sink.payloads[1:] == slow


async def test_a_signal_that_the_remote_does_not_take_now_pauses_no_other(tmp_path: Path):
    """Its breaker opens, or it is asked to wait; both concern the signal alone."""
    answers: dict[Signal, Any] = {
        Signal.TRACES: Transient("down"),
        Signal.METRICS: Transient("busy", 60.0, Fault.BUSY),
        Signal.LOGS: None,
    }
    sink = Scripted(lambda n, batch: answers[batch.signal])
    async with bench(tmp_path, sink, breaker=BreakerSettings(3, 60.0)) as b:
        b.append(b"t")
        b.append(b"m", signal=Signal.METRICS)
        await b.until(lambda: b.lane.delivery.breaker.state is State.OPEN)
        b.append(b"l", signal=Signal.LOGS)
        await b.until(lambda: sink.payloads == [b"l"])
        details = b.forwarder.status().details
        assert [found["breaker"] for found in details["signals"].values()] == ["open", "closed", "closed"]
        assert details["breaker"] == "open", "the worst"
        assert b.forwarder.status().reason == "traces: cannot be reached: down"


async def test_a_stop_just_after_an_accepted_request_ends_while_the_remote_is_gone(tmp_path: Path):
    """The stop wakes who waits for company for the request, and cancels him in the same breath."""
    sink = Scripted(lambda n, batch: Transient("down"))
    async with asyncio.timeout(10):
        async with bench(tmp_path, sink, breaker=BreakerSettings(1, 60.0), linger_s=2.0) as b:
            b.append(spans(1))
            b.lane.drain()
            await b.until(lambda: b.lane.delivery.breaker.state is State.OPEN)
            b.lane._draining.clear()
            b.append(spans(1))
            for _ in range(5):
                await asyncio.sleep(0)
            await asyncio.gather(b.forwarder.drain(5))
        assert b.backlog.confirmed == 0


async def test_a_stop_does_not_try_a_remote_that_is_gone_until_its_time_is_up(tmp_path: Path):
    sink = Scripted(lambda n, batch: Transient("down"))
    async with bench(tmp_path, sink, breaker=BreakerSettings(1_000_000, 60.0)) as b:
        b.append(spans(1))
        async with asyncio.timeout(10):
            await b.forwarder.drain(600)


async def test_a_cancelled_probe_does_not_wedge_the_breaker(tmp_path: Path):
    """The probe's frames are given up while it waits for an answer; the next sender must get through."""
    sink = Scripted(lambda n, batch: Transient("down") if n <= 3 else None)
    async with bench(tmp_path, sink, max_batch_bytes=1, max_in_flight=1, wal_file_bytes=64) as b:
        b.append(spans(1))
        await b.until(lambda: sink.calls == 3)
        sink.hold.clear()
        await b.until(lambda: sink.under_way == 1)
        assert b.lane.delivery.breaker.state is State.HALF_OPEN
        b.append(newest := spans(1))
        b.backlog.give_up(b.store.wal.files[0])
        b.lane._pass_given_up()
        sink.hold.set()
        await b.settled()
        assert sink.payloads == [newest]
        assert b.meter.value(m.EXPORTER_GIVEN_UP, "there", "traces", "backlog") == 1


async def test_while_the_breaker_is_open_nothing_is_sent_and_then_one(tmp_path: Path):
    sink = Scripted(lambda n, batch: Transient("down"))
    async with bench(
        tmp_path, sink, max_batch_bytes=1, max_in_flight=4, breaker=BreakerSettings(failures=4, open_s=0.3)
    ) as b:
        b.append(*(spans(1) for _ in range(4)))
        await b.until(lambda: b.lane.delivery.breaker.state is State.OPEN)
        calls = sink.calls
        sink.hold.clear()
        await b.until(lambda: sink.under_way > 0)
        assert sink.calls == calls + 1, "four are waiting, one tries"
        assert b.lane.delivery.breaker.state is State.HALF_OPEN
        sink.answer = lambda n, batch: None
        sink.hold.set()
        await b.settled()
        assert b.sent() == 4


async def test_while_the_breaker_is_open_nothing_more_leaves_the_log(tmp_path: Path):
    sink = Scripted(lambda n, batch: Transient("down"))
    async with bench(tmp_path, sink, max_batch_bytes=1, breaker=BreakerSettings(2, 0.1)) as b:
        b.append(spans(1))
        await b.until(lambda: b.lane.delivery.breaker.state is State.OPEN)
        b.append(*(spans(1) for _ in range(20)))
        calls = sink.calls
        await b.until(lambda: sink.calls >= calls + 2)
        assert b.reader.position == 1, "the first one tries for all of them"
        sink.answer = lambda n, batch: None
        await b.settled()
        assert b.sent() == 21


async def test_when_all_that_was_under_way_is_given_up_the_next_one_tries(tmp_path: Path):
    sink = Scripted(lambda n, batch: Transient("down"))
    async with bench(tmp_path, sink, max_batch_bytes=1, wal_file_bytes=64, breaker=BreakerSettings(2, 0.3)) as b:
        b.append(spans(1))
        await b.until(lambda: b.lane.delivery.breaker.state is State.OPEN)
        b.append(spans(1))
        await b.until(lambda: len(b.lane.delivery._answered._waiters) == 2)  # the delivery, and who would take more
        b.backlog.give_up(b.store.wal.files[0])
        b.lane.keep_up()
        sink.answer = lambda n, batch: None
        await b.settled()
        assert b.sent() == 1
        assert b.meter.value(m.EXPORTER_GIVEN_UP, "there", "traces", "backlog") == 1


async def test_when_the_last_that_was_under_way_ends_while_the_breaker_is_open_the_next_one_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    may_write, keep = threading.Event(), RefusedItems.keep

    def keep_later(self: RefusedItems, *what: Any) -> int:
        assert may_write.wait(10)
        return keep(self, *what)

    monkeypatch.setattr(RefusedItems, "keep", keep_later)
    sink = Scripted(lambda n, batch: Transient("down") if n == 1 else Permanent("no") if n == 2 else None)
    sink.hold.clear()
    async with bench(tmp_path, sink, max_batch_bytes=1, wal_file_bytes=64, breaker=BreakerSettings(1, 30)) as b:
        waiting = b.lane.delivery
        b.append(spans(1))
        b.append(spans(1))
        await b.until(lambda: sink.under_way == 2)
        sink.hold.set()
        await b.until(lambda: b.failed() == 1)  # the second is refused, and being written aside
        b.append(spans(1))
        await b.until(lambda: len(waiting._answered._waiters) == 2)  # the first delivery, and who would take more
        b.backlog.give_up(b.store.wal.files[0])
        b.lane.keep_up()
        await b.until(lambda: len(waiting._answered._waiters) == 1)
        waiting.breaker._open_until = 0.0
        may_write.set()
        await b.settled()
        assert (b.sent(), b.failed()) == (1, 1)


async def test_a_remote_that_asks_for_a_pause_gets_it_from_every_sender(tmp_path: Path):
    loop = asyncio.get_running_loop()
    times: list[float] = []

    def answer(n: int, batch: Batch) -> Any:
        times.append(loop.time())
        return Transient("busy", 0.2, Fault.BUSY) if n == 1 else None

    async with bench(tmp_path, Scripted(answer), max_batch_bytes=1, max_in_flight=1) as b:
        b.append(*(spans(1) for _ in range(3)))
        await b.settled()
        assert times[1] - times[0] >= 0.19
        assert b.lane.delivery.breaker.state is State.CLOSED


async def test_a_mistake_of_ours_in_a_sink_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    sink = Scripted(lambda n, batch: ZeroDivisionError("ours") if n == 1 else None)
    async with bench(tmp_path, sink) as b:
        b.append(spans(1))
        await b.settled()
        assert b.sent() == 1
    assert "an unexpected error" in caplog.text


async def test_rotated_credentials_that_cannot_be_used_wait_for_better_ones(tmp_path: Path):
    sink = Scripted(lambda n, batch: OtlpConfigError("forwarding.tls.ca_file", "x", "y") if n == 1 else None)
    async with bench(tmp_path, sink) as b:
        b.append(spans(1))
        await b.settled()
        assert b.meter.value(m.EXPORTER_REQUESTS, "there", "credentials") == 1


async def test_a_mistake_of_ours_in_a_parcel_is_written_aside_and_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from otlp_arrow.sinks import delivery

    convert = delivery.convert
    broken = spans(1)

    def mistaken(frames: list[Frame], *rest: Any, **more: Any) -> Any:
        if frames[0].payload == broken:
            raise ZeroDivisionError("ours")
        return convert(frames, *rest, **more)

    monkeypatch.setattr(delivery, "convert", mistaken)
    async with bench(tmp_path, Scripted(), max_batch_bytes=1) as b:
        b.append(broken, spans(1))
        await b.settled()
        assert (b.sent(), b.failed()) == (1, 1)
    (kept,) = (tmp_path / "quarantine").glob("refused_*.pb")
    assert kept.read_bytes() == broken


async def test_damaged_frames_are_passed_over_and_counted(tmp_path: Path):
    sink = Scripted(lambda n, batch: Transient("down"))
    made = Bench(tmp_path, sink, wal_file_bytes=64)
    made.store.open()
    payloads = [spans(1) for _ in range(4)]
    for payload in payloads:
        made.append(payload)
    file = made.store.wal.files[1]
    content = bytearray(file.path.read_bytes())
    content[-9] ^= 0xFF
    file.path.write_bytes(content)
    sink.answer = lambda n, batch: None
    made.forget_what_is_in_memory()
    try:
        async with made.forwarder:
            await made.settled()
            assert all_ids(sink.payloads) == all_ids([payloads[0], *payloads[2:]])
            assert made.meter.value(m.EXPORTER_GIVEN_UP, "there", "traces", "unreadable") == 1
            assert made.reader.lag().rows == 0
    finally:
        made.store.close(4)


async def test_a_log_that_cannot_be_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from otlp_arrow.sinks import lane

    monkeypatch.setattr(lane, "_READ_RETRY_S", 0.01)
    made = Bench(tmp_path, Scripted())
    made.store.open()
    read_at, errors = made.store.disk.read_at, [OSError(5, "Input/output error")] * 2

    def failing(*arguments: Any) -> bytes:
        if errors:
            raise errors.pop()
        return read_at(*arguments)

    monkeypatch.setattr(made.store.disk, "read_at", failing)
    made.append(spans(1))
    made.forget_what_is_in_memory()
    try:
        async with made.forwarder:
            await made.settled()
            assert made.sent() == 1
    finally:
        made.store.close(1)


async def test_a_cursor_that_cannot_be_stored_is_logged_and_stored_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    from otlp_arrow.sinks import forwarder

    monkeypatch.setattr(forwarder, "CURSOR_INTERVAL_S", 0.02)
    async with bench(tmp_path, Scripted()) as b:
        replace, errors = b.store.disk.replace, [OSError(28, "No space left on device")]

        def failing(*arguments: Any) -> None:
            if errors:
                raise errors.pop()
            replace(*arguments)

        monkeypatch.setattr(b.store.disk, "replace", failing)
        b.append(spans(1))
        await b.until(lambda: b.reader.stored == 1)
    assert "cannot store the cursor" in caplog.text


async def test_a_task_that_dies_shows_in_health(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async with bench(tmp_path, Scripted()) as b:
        monkeypatch.setattr(b.lane._packer, "add", lambda *arguments: 1 / 0)
        b.append(spans(1))
        await b.until(lambda: b.forwarder.status().state == "degraded")
        assert "died" in b.forwarder.status().reason
        await b.forwarder.drain(5)  # does not wait for it


async def test_permanent_refusals_end_and_are_counted(tmp_path: Path):
    sink = Scripted(lambda n, batch: Permanent("never"))
    async with bench(tmp_path, sink) as b:
        b.append(spans(2), spans(3), rows=2)
        await b.settled()
        assert (b.sent(), b.failed()) == (0, 4)
        b.forwarder.report()
        assert b.meter.value(m.EXPORTER_QUEUE_SIZE, "there") == 0
        assert b.meter.value(m.EXPORTER_LAG_SECONDS, "there") == 0
