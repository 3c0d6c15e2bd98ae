"""Rows of a stored tensor on their way into a rank's block of it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Rows:
    """Whole rows of a stored tensor or block. start, stop: their bytes in it.

    Of what was cut by columns a rank needs a little of each row: reading rows whole is one request for many.

    Args:
        target: where the values go, in the stored dtype. there: their place in what is stored, which has `sizes`.
        done: called once with the target, in the thread of the last bytes.
    """

    def __init__(
        self,
        target: Tensor,
        there: tuple[slice, ...],
        sizes: Sequence[int],
        done: Callable[[Tensor], None] = lambda target: None,
    ) -> None:
        width = target.element_size() * math.prod(sizes[1:])
        self.start, self.stop = there[0].start * width, there[0].stop * width
        self._missing, self._lock = self.stop - self.start, threading.Lock()
        self._target: Tensor | None = target
        self._columns, self._done = there[1:], done
        whole = all(place == slice(0, size) for place, size in zip(there[1:], sizes[1:], strict=True))
        self._rows: Tensor | None = target
        if not whole or not target.is_contiguous():
            self._rows = torch.empty((there[0].stop - there[0].start, *sizes[1:]), dtype=target.dtype)

    def take(self, start: int, data: memoryview) -> None:
        """Bytes from `start` on, of which some may belong to other rows."""
        low, high = max(start, self.start), min(start + len(data), self.stop)
        if low >= high:
            return
        as_bytes(self._rows)[low - self.start : high - self.start] = data[low - start : high - start]
        with self._lock:
            self._missing -= high - low
            complete = self._missing == 0
        if complete:
            if self._rows is not self._target:
                self._target.copy_(self._rows[(slice(None), *self._columns)])
            target, self._rows, self._target = self._target, None, None
            self._done(target)


def as_bytes(values: Tensor) -> memoryview:
    """A contiguous tensor's own memory."""
    return memoryview(values.reshape(-1).view(torch.uint8).numpy())
