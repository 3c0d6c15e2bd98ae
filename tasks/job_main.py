"""The process of a stage's job: `python -m tasks.job_main KEY`, where KEY is the order's key in the store.

It does what the flow's process would do (tasks.obtain), and says on standard output how it goes (tasks.job_events).
Prefect is not asked for anything here: whoever attends to the job speaks with it.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.artifacts.code import CodeState, sources_sha256
from components.artifacts.store import Store
from components.artifacts.tidy_local import claim_work
from components.failures import InfrastructureError, RingflowError
from components.recipe.secrets import refuse_in_addresses
from components.redact import redact_logs
from components.telemetry.logs import Place, at, json_log
from tasks.job_events import EventBoard, LogEvents, end_of, say
from tasks.job_order import StageOrder, clear_orders
from tasks.lineage import RunTracker
from tasks.obtain import Timing, obtain
from tasks.outcome import classify
from tasks.progress import Progress
from tasks.release import release_workers
from tasks.session import Session, StopSignal

log = logging.getLogger(__name__)

REPOSITORY = Path(__file__).resolve().parents[1]
STORE_S = 20
# After SIGTERM: for the stage to stop by itself before learners and engines are ended under it.
GRACE_S = 3.0


class _Tracker(RunTracker):
    """The lineage of the pipeline's run that ordered the stage."""

    def stage(self, *arguments: Any) -> Any:
        tracked = super().stage(*arguments)
        say("began", mlflow=tracked.run_id)
        return tracked


class _Silent:
    def set(self, done: int, total: int) -> None:
        """The board says it already."""


@contextmanager
def _progress(node: str) -> Iterator[Progress]:
    yield _Silent()


def main(key: str) -> int:
    """The exit code: 0 when the artifact is committed."""
    redact_logs()
    logging.basicConfig(level=logging.INFO, handlers=[LogEvents()], force=True)
    stop, timing, error = StopSignal(), Timing(), None
    signal.signal(signal.SIGTERM, lambda *_: _told_to_stop(stop))
    threading.Thread(target=_free_the_blocked, args=(stop,), daemon=True).start()
    board = EventBoard()
    try:
        with json_log(), timing.meter.active():
            _stage(key, board, stop, timing)
    except BaseException as problem:
        error = classify(problem)
        if not isinstance(error, RingflowError):
            log.error("the stage failed", exc_info=problem)
    finally:
        release_workers()
        board.close()
    say("end", **end_of(error, work_seconds=timing.work_seconds, waited=dict(timing.meter.seconds)))
    return 0 if error is None else 1


def _stage(key: str, board: EventBoard, stop: StopSignal, timing: Timing) -> None:
    refuse_in_addresses()
    home = Path(os.environ.get("RINGFLOW_HOME", ".ringflow")).absolute()
    store = Store.open(os.environ.get("RINGFLOW_STORE"), home / "cache")
    store.check(deadline_s=STORE_S)
    order = StageOrder.get(store, key)
    if order is None:
        raise InfrastructureError(f"the order {store.url}/{key} was removed: the stage was finished meanwhile")
    code = CodeState.read(REPOSITORY)
    order.check_code(sources_sha256(REPOSITORY), code.commit)
    node, work = order.node(), claim_work(home / "work")
    session = Session(
        store=store,
        tracker=_tracker(order),
        board=board,
        execution=order.execution,
        work=work,
        run_id=order.run,
        repeat=order.repeat or "",
        allowed=frozenset({node.name}),
        forced=frozenset({node.name} if order.repeat is not None else ()),
        loaded=order.recipe.loaded() if order.recipe else None,
        code=code,
        stop=stop,
        progress=_progress,
        measured=lambda node, values, step: board.metrics(values, step),
    )
    try:
        with at(Place(order.run, node.name)):
            obtain(node, session, order.refs, timing)
        clear_orders(store, order.root)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _tracker(order: StageOrder) -> RunTracker | None:
    if not order.pipeline:
        return None
    tracker = _Tracker(os.environ.get("MLFLOW_TRACKING_URI", ""), order.execution.project)
    tracker.parent.join(order.pipeline, order.experiment)
    return tracker


def _told_to_stop(stop: StopSignal) -> None:
    # Ray's handler, where it came first, has armed an alarm that aborts the process after three seconds.
    signal.alarm(0)
    stop.set("its job was told to stop")


def _free_the_blocked(stop: StopSignal) -> None:
    while not stop.wait(3600):
        pass
    time.sleep(GRACE_S)
    release_workers()


def exit_now(code: int) -> None:
    """Ends the process with what was said last as its last line: no library's farewell comes after it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    exit_now(main(sys.argv[1]))
