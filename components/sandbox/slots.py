"""Who gets the next free worker: the waiting program whose deadline is nearest, and no more wait than are allowed.

Earliest deadline first: it is the order that keeps every deadline whenever any order does (Liu and Layland, 1973).
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque
from typing import Generic, TypeVar

from components.failures import DeadlineExceeded, InfrastructureError

T = TypeVar("T")


class Saturated(InfrastructureError):
    """Too many programs wait already: come back later. Back-pressure, so that queues do not grow without bound."""


class Slots(Generic[T]):
    """A pool of `items` that many threads share.

    Args:
        items: free at first; None is a place whose worker has not been started. A started one goes first, and of those
            the one that has rested longest: it has made itself ready for the next program meanwhile.
        max_waiting: how many may wait for an item at one time.
    """

    def __init__(self, items: list[T], max_waiting: int) -> None:
        self._free, self._max_waiting = deque(items), max_waiting
        self._waiting: list[tuple[float, int, list[T], threading.Event]] = []
        self._order = itertools.count()
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def free(self) -> list[T]:
        """The items that nobody has now."""
        with self._lock:
            return list(self._free)

    def take(self, deadline: float) -> T:
        """An item, by `deadline` (time.monotonic()).

        Raises:
            Saturated: `max_waiting` others wait.
            DeadlineExceeded: none became free in time.
        """
        with self._lock:
            if self._free and not self._waiting:
                item = next((item for item in self._free if item is not None), self._free[0])
                self._free.remove(item)
                return item
            if len(self._waiting) >= self._max_waiting:
                raise Saturated(f"{len(self._waiting)} programs wait for the sandbox already; try again later")
            given: list[T] = []
            entry = (deadline, next(self._order), given, threading.Event())
            heapq.heappush(self._waiting, entry)
        began = time.monotonic()
        entry[3].wait(max(0.0, deadline - began))
        with self._lock:
            if given:
                return given[0]
            self._waiting.remove(entry)
            heapq.heapify(self._waiting)
        raise DeadlineExceeded(f"no sandbox worker became free within {time.monotonic() - began:.1f} s")

    def give(self, item: T) -> None:
        """Puts an item back, straight into the hands of whoever has the nearest deadline."""
        with self._lock:
            if self._waiting:
                _, _, given, event = heapq.heappop(self._waiting)
                given.append(item)
                event.set()
            else:
                self._free.append(item)
