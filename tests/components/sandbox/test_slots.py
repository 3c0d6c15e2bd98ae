"""Who gets the next worker, and how many may wait."""

from __future__ import annotations

import threading
import time

import pytest

from components.failures import DeadlineExceeded, InfrastructureError
from components.sandbox.slots import Saturated, Slots


def test_the_nearest_deadline_goes_first():
    slots: Slots[int] = Slots([1], max_waiting=10)
    item = slots.take(time.monotonic() + 10)
    order, threads = [], []

    def wait(name: str, deadline: float) -> None:
        taken = slots.take(deadline)
        order.append(name)
        slots.give(taken)

    now = time.monotonic()
    for number, (name, seconds) in enumerate((("late", 300), ("soon", 100), ("middle", 200))):
        threads.append(threading.Thread(target=wait, args=(name, now + seconds)))
        threads[-1].start()
        while slots.waiting <= number:
            time.sleep(0.001)
    slots.give(item)
    for thread in threads:
        thread.join(10)
    assert order == ["soon", "middle", "late"]
    assert slots.free() == [1]


def test_a_full_queue_pushes_back_and_a_passed_deadline_leaves_it():
    slots: Slots[int] = Slots([1], max_waiting=1)
    item = slots.take(0)
    waiting = threading.Thread(target=lambda: slots.give(slots.take(time.monotonic() + 10)))
    waiting.start()
    while not slots.waiting:
        time.sleep(0.001)
    with pytest.raises(Saturated) as caught:
        slots.take(time.monotonic() + 10)
    assert isinstance(caught.value, InfrastructureError)
    slots.give(item)
    waiting.join(10)
    assert slots.take(0) == 1
    with pytest.raises(DeadlineExceeded, match="no sandbox worker"):
        slots.take(time.monotonic() + 0.01)
    assert slots.waiting == 0


def test_a_started_worker_that_has_rested_longest_goes_first():
    slots: Slots[str | None] = Slots([None, None, None], max_waiting=1)
    assert [slots.take(0), slots.take(0)] == [None, None]
    slots.give("first")
    slots.give("second")
    assert [slots.take(0), slots.take(0), slots.take(0)] == ["first", "second", None]
