"""The log of a job that runs elsewhere, line by line, as it is written."""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from contextlib import suppress


class Following(ABC):
    """A context manager; its thread ends with it. A subclass reads in `_run`, until `_stop` is set or nothing follows.

    ended: nothing follows. caught_up: the lines that were there before have been read.
    """

    def __init__(self, job: str) -> None:
        self._job = job
        self._chunks: queue.Queue[str] = queue.Queue()
        self._rest, self._read = "", 0
        self._stop = threading.Event()
        self.ended = threading.Event()
        self.caught_up = False
        self._thread = threading.Thread(target=self._until_ended, name=f"log of {job}", daemon=True)

    def __enter__(self) -> Following:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    @property
    def waiting(self) -> bool:
        """Whether there are lines that `lines` has not given yet."""
        return not self._chunks.empty()

    def lines(self, wait_s: float) -> list[str]:
        """What came since the last call, waiting for something at most so long. [] once it has ended."""
        chunks = []
        with suppress(queue.Empty):
            chunks.append(self._chunks.get(timeout=wait_s))
            while True:
                chunks.append(self._chunks.get_nowait())
        # What there is comes without a pause; further lines come when they are written.
        self.caught_up = self.caught_up or (not chunks and self._read > 0 and wait_s >= 1.0)
        *whole, self._rest = (self._rest + "".join(chunks)).split("\n")
        return whole

    def _until_ended(self) -> None:
        try:
            self._run()
        finally:
            self.ended.set()

    @abstractmethod
    def _run(self) -> None:
        """Takes what is said, until `_stop` is set or nothing follows."""

    def _take(self, text: str) -> None:
        if text:
            self._read += len(text)
            self._chunks.put(text)
