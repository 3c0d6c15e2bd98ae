"""How a run's failure is told to Prefect.

A worker takes every exit code but 0 for a crash and writes CRASHED over whatever state the run has by then. Between the
failure and the end of its process are seconds, and somebody who presses Retry in them would lose the retry. A failure
that Prefect has already recorded is no crash: the process ends with 0.
"""

from __future__ import annotations

import sys

from prefect.exceptions import Abort
from prefect.states import Failed, State

# What a worker's process runs.
ENGINES = ("prefect.engine", "prefect.flow_engine")


def failed(message: str) -> State:
    """The final state of a failed run, to be returned by its flow.

    Prefect records it and then raises what is in it. Abort is its signal to end without another word; in a process of
    our own (`ringflow run`, `prefect flow-run retry --entrypoint`) there is none in it, and the exit code tells.
    """
    return Failed(message=message, data=Abort(message) if _in_worker() else None)


def _in_worker() -> bool:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec is not None and spec.name in ENGINES
