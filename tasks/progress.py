"""Moves a stage's progress in Prefect from a thread of its own: the training loop never waits for HTTP.

At most one request in a few seconds, only when something changed. Progress is decoration: if Prefect does not answer,
the stage goes on and one warning is logged; what must not be lost (state, result) goes through Prefect's own engine.
"""

from __future__ import annotations

import contextvars
import logging
import threading
from typing import Protocol

POST_EVERY_S = 5.0


class Progress(Protocol):
    def set(self, done: int, total: int) -> None:
        """May be called thousands of times a second."""


class PrefectProgress:
    """Use as a context manager inside a task run; call `set` as often as you like."""

    def __init__(self, key: str, description: str) -> None:
        self.key, self.description = key, description
        self._value: float | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._context = contextvars.copy_context()

    @classmethod
    def of(cls, node: str) -> PrefectProgress:
        return cls(f"{node}-progress", node)

    def set(self, done: int, total: int) -> None:
        self._value = 100.0 * min(done / total, 1.0) if total > 0 else 0.0
        if self._thread is None:
            self._thread = threading.Thread(
                target=lambda: self._context.run(self._pump), name=f"progress {self.key}", daemon=True
            )
            self._thread.start()

    def __enter__(self) -> PrefectProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=2)

    def _pump(self) -> None:
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        artifact, posted, warned = None, None, False
        while True:
            last = self._stop.wait(POST_EVERY_S if artifact else 0.5)
            value = self._value
            if value is not None and value != posted:
                try:
                    if artifact is None:
                        artifact = create_progress_artifact(value, key=self.key, description=self.description)
                    else:
                        update_progress_artifact(artifact, progress=value)
                    posted = value
                except Exception as error:
                    if not warned:
                        logging.getLogger(__name__).warning("progress is not shown in Prefect: %s", error)
                        warned = True
            if last:
                return
