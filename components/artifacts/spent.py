"""Seconds by what a thread waited for, so that a run can say what its orchestration cost.

`with meter.active():` makes a meter the thread's own; `with spent_on("S3"):` inside adds to it, wherever the call
stands. A part inside another is taken out of the outer one, so the parts add up to time that really passed. Without a
meter `spent_on` does nothing. Other threads are not measured: what they do behind the stage's back costs no wall time,
and what the stage waits for is measured where it waits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Part = Literal["S3", "hashing", "leases", "MLflow", "Prefect", "report"]

_HERE = threading.local()


class Meter:
    """seconds: part -> wall seconds of the thread it was active in."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inside: list[float] = []

    def total(self) -> float:
        return sum(self.seconds.values())

    @contextmanager
    def active(self) -> Iterator[Meter]:
        before, _HERE.meter = getattr(_HERE, "meter", None), self
        try:
            yield self
        finally:
            _HERE.meter = before

    @contextmanager
    def on(self, part: Part | None) -> Iterator[None]:
        began = time.monotonic()
        self._inside.append(0.0)
        try:
            yield
        finally:
            took = time.monotonic() - began
            own = took - self._inside.pop()
            if part is not None:
                self.seconds[part] = self.seconds.get(part, 0.0) + own
            if self._inside:
                self._inside[-1] += took


@contextmanager
def spent_on(part: Part) -> Iterator[None]:
    """Adds the block's (or the decorated call's) seconds to this thread's meter, if it has one."""
    meter: Meter | None = getattr(_HERE, "meter", None)
    if meter is None:
        yield
    else:
        with meter.on(part):
            yield


@contextmanager
def own_work() -> Iterator[None]:
    """Takes the block out of the part it stands in: the stage's own work, called back from a wait."""
    meter: Meter | None = getattr(_HERE, "meter", None)
    if meter is None:
        yield
    else:
        with meter.on(None):
            yield
