"""The queue between the threads that end spans and the one that stores them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from otlp_arrow.sdk.span_queue import BatchQueue


def opened(handle: Callable[[Sequence[int]], None], **more: float) -> BatchQueue[int]:
    settings = {"max_size": 100, "batch_size": 4, "delay_s": 3600.0, **more}
    return BatchQueue(handle, name="test", **settings)  # type: ignore[arg-type]


def test_a_full_batch_is_handled_without_waiting_for_the_delay():
    seen: list[list[int]] = []
    arrived = threading.Event()
    queue = opened(lambda batch: (seen.append(list(batch)), arrived.set()))
    assert all(queue.put(number) for number in range(4))
    assert arrived.wait(10)
    assert seen == [[0, 1, 2, 3]]
    assert queue.close(10) == 0


def test_waiting_for_items_has_them_handled_at_once_and_in_order():
    seen: list[int] = []
    queue = opened(seen.extend)
    for number in range(10):
        queue.put(number)
    assert queue.wait_handled(10)
    assert seen == list(range(10))
    assert queue.wait_handled(0)
    assert queue.close(10) == 0


def test_a_delay_after_the_first_item_a_part_of_a_batch_is_handled():
    arrived = threading.Event()
    queue = opened(lambda batch: arrived.set(), delay_s=0.01)
    queue.put(1)
    assert arrived.wait(10)
    queue.close(10)


def test_a_full_queue_refuses_and_a_closed_one_does_too():
    begun, go = threading.Event(), threading.Event()
    seen: list[int] = []

    def handle(batch: Sequence[int]) -> None:
        begun.set()
        go.wait(10)
        seen.extend(batch)

    queue = opened(handle, max_size=5, batch_size=1)
    assert queue.put(0)
    assert begun.wait(10)
    assert [queue.put(number) for number in range(1, 8)] == [True] * 5 + [False] * 2
    assert not queue.wait_handled(0.01)
    go.set()
    assert queue.close(10) == 0
    assert seen == [0, 1, 2, 3, 4, 5]
    assert not queue.put(9)


def test_closing_gives_up_after_its_time_and_says_how_many_are_left():
    begun, go = threading.Event(), threading.Event()
    seen: list[int] = []

    def handle(batch: Sequence[int]) -> None:
        begun.set()
        go.wait(10)
        seen.extend(batch)

    queue = opened(handle, batch_size=1)
    for number in range(3):
        queue.put(number)
    assert begun.wait(10)
    assert queue.close(0.01) == 2
    go.set()
    queue._thread.join(10)
    assert seen == [0]
