"""`python -m tasks.job_stop KEY SECONDS`: ends the process of a stage's job in this pod, in good order.

A pod that is deleted, preempted or drained runs it before its containers end, so that the stage gives its lease back
and closes its MLflow run instead of being killed with Ray. It gives up after SECONDS; the pod ends as it would have.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress

import psutil


def stop(key: str, seconds: float) -> bool:
    """Whether `python -m tasks.job_main KEY`, if it runs, ended in time."""
    told = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if command[-3:] == ["-m", "tasks.job_main", key]:
            with suppress(psutil.Error):
                process.terminate()
                told.append(process)
    give_up = time.monotonic() + seconds
    while any(_alive(process) for process in told):
        if time.monotonic() > give_up:
            return False
        time.sleep(0.1)
    return True


def _alive(process: psutil.Process) -> bool:
    """One that nobody has asked for its exit code yet is dead all the same."""
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


if __name__ == "__main__":
    sys.exit(0 if stop(sys.argv[1], float(sys.argv[2])) else 1)
