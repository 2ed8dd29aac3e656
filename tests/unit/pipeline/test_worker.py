"""The thread that the loop hands blocking work to."""

from __future__ import annotations

import asyncio
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from doors import until
from otlp_arrow.pipeline.worker import Worker


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker("test-worker")
    yield made
    made.end()


class Gate:
    """Work that begins, and ends when it may."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.may_end = threading.Event()
        self.ended = False

    def __call__(self) -> str:
        self.begun.set()
        assert self.may_end.wait(10)
        self.ended = True
        return "through"

    async def until_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.wait, 10)


async def test_work_is_done_in_the_thread_in_order_and_its_results_come_back(worker: Worker):
    done: list[int] = []

    def work(number: int, *, factor: int) -> tuple[int, str]:
        done.append(number)
        return number * factor, threading.current_thread().name

    results = await asyncio.gather(*(worker.run(work, number, factor=2) for number in range(50)))
    assert results == [(2 * number, "test-worker") for number in range(50)]
    assert done == list(range(50))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_the_system_knows_what_the_thread_is_called(worker: Worker):
    def called() -> str:
        return Path(f"/proc/self/task/{threading.get_native_id()}/comm").read_text().strip()

    assert await worker.run(called) == "test-worker"


async def test_an_error_of_the_work_is_raised_where_it_is_awaited_and_the_next_work_is_done(worker: Worker):
    with pytest.raises(ZeroDivisionError):
        await worker.run(lambda: 1 // 0)
    assert await worker.run(lambda: "next") == "next"


async def test_who_gives_up_waiting_stops_neither_the_work_nor_what_follows(worker: Worker):
    gate = Gate()
    given_up = worker.run(gate)
    await gate.until_begun()
    given_up.cancel()
    following = worker.run(lambda: gate.ended)
    gate.may_end.set()
    assert await following


async def test_work_that_nobody_waits_for_any_more_is_not_begun(worker: Worker):
    gate, other = Gate(), Gate()
    first = worker.run(gate)
    await gate.until_begun()
    worker.run(other).cancel()
    gate.may_end.set()
    assert await first == "through"
    await worker.run(lambda: None)
    assert not other.begun.is_set()


async def test_at_the_end_what_has_not_begun_is_cancelled_and_nothing_more_is_taken(worker: Worker):
    gate = Gate()
    running = worker.run(gate)
    await gate.until_begun()
    waiting = worker.run(lambda: "too late")
    worker.end()
    worker.end()
    async with asyncio.timeout(10):
        await asyncio.wait([waiting])
    assert waiting.cancelled()
    with pytest.raises(RuntimeError, match="test-worker was ended"):
        worker.run(lambda: None)
    gate.may_end.set()
    assert await running == "through"


def test_work_may_outlive_the_loop_that_asked_for_it(worker: Worker):
    gate = Gate()

    async def ask() -> None:
        worker.run(gate)
        await gate.until_begun()

    asyncio.run(ask())
    gate.may_end.set()

    async def ask_again() -> str:
        async with asyncio.timeout(10):
            return await worker.run(lambda: "another loop")

    assert asyncio.run(ask_again()) == "another loop"
    assert gate.ended


async def test_while_it_waits_the_thread_holds_nothing_of_what_it_did(worker: Worker):
    class Large:
        def size(self) -> int:
            return 1

    large = Large()
    held = weakref.ref(large)
    assert await worker.run(large.size) == 1
    del large
    await until(lambda: held() is None)  # the thread lets go just after the loop has heard
