"""Spans on their way from the threads that end them to the one that stores them. Bounded, and nobody waits to put."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")


class BatchQueue(Generic[Item]):
    """Calls ``handle`` with batches, on a thread of its own: when one is full, or ``delay_s`` after its first item."""

    def __init__(
        self, handle: Callable[[Sequence[Item]], None], *, max_size: int, batch_size: int, delay_s: float, name: str
    ) -> None:
        self._handle = handle
        self._max_size = max_size
        self._batch_size = batch_size
        self._delay_s = delay_s
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._put = 0  # items ever taken in
        self._done = 0  # and handled
        self._wanted = 0  # somebody waits for so many to be handled
        self._closed = False
        self._abandoned = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, item: Item) -> bool:
        """Whether there was room."""
        with self._changed:
            if self._closed or len(self._items) >= self._max_size:
                return False
            self._items.append(item)
            self._put += 1
            if len(self._items) == 1 or len(self._items) >= self._batch_size:
                self._changed.notify_all()
            return True

    def wait_handled(self, timeout_s: float) -> bool:
        """Whether everything that was put before is handled now; what waits is handled at once."""
        with self._changed:
            until = self._put
            self._wanted = max(self._wanted, until)
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._done >= until, timeout_s)

    def close(self, timeout_s: float) -> int:
        """Take nothing any more, handle what waits. Items that were not handled in time; they never are."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(max(0.0, deadline - time.monotonic()))
        with self._changed:
            self._abandoned = True
            left = len(self._items)
            self._items.clear()
            self._changed.notify_all()
        return left

    def _work(self) -> None:
        while batch := self._next():
            try:
                self._handle(batch)
            finally:
                with self._changed:
                    self._done += len(batch)
                    self._changed.notify_all()
            del batch

    def _next(self) -> list[Item]:
        """The next batch; empty at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed)
            self._changed.wait_for(self._is_due, self._delay_s)
            if self._abandoned:
                return []
            return [self._items.popleft() for _ in range(min(len(self._items), self._batch_size))]

    def _is_due(self) -> bool:
        return self._closed or len(self._items) >= self._batch_size or self._wanted > self._done
