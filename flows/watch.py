"""Notices that a run shall stop: cancelled in Prefect (UI, API, `ringflow cancel`), or stopped by a signal here.

Stages look at the stop signal at every step; one that is blocked on learners or engines is freed by ending those.
"""

from __future__ import annotations

import logging
import threading
import time

from components.failures import RingflowError
from tasks.release import release_workers
from tasks.session import StopSignal

log = logging.getLogger(__name__)

LOOK_EVERY_S = 3.0
# Time for stages to stop by themselves before learners and engines are ended under them.
GRACE_S = 3.0
STOPPING = {"CANCELLING": "cancelled", "CANCELLED": "cancelled", "CRASHED": "marked as crashed in Prefect"}


class Watcher:
    """A context manager around the stages of a run."""

    def __init__(self, run_id: str, stop: StopSignal) -> None:
        self._run_id, self._stop = run_id, stop
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch run", daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(timeout=2)

    def _watch(self) -> None:
        looked = time.monotonic()
        while not self._done.wait(0.2):
            if self._stop.is_set():
                if not self._done.wait(GRACE_S):
                    release_workers()
                return
            if time.monotonic() - looked >= LOOK_EVERY_S:
                looked = time.monotonic()
                if reason := asked_to_stop(self._run_id):
                    self._stop.set(reason)


def asked_to_stop(run_id: str) -> str | None:
    """Why Prefect wants the run to end; empty when it does not, None when it does not answer."""
    from flows.prefect_api import get_run

    try:
        return STOPPING.get(get_run(run_id)["state_type"], "")
    except RingflowError as error:  # Prefect away for a while is no reason to stop training
        log.debug("the state of the run is unknown: %s", error)
        return None
