"""Runs whose process ended without a word (kill -9, out of memory, power): found, and marked as crashed.

Prefect and MLflow go on saying RUNNING of such a run. Every run therefore writes down in Prefect, as labels of the flow
run, which process it is and a beat that it raises. A run is crashed when that process is certainly dead (same machine),
or when its beat stood still while somebody watched for several beats; no clocks are compared.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime
from typing import Any

from components.artifacts.process import ProcessIdentity
from components.artifacts.tidy import Leftover
from components.failures import RingflowError
from flows.prefect_api import FLOWS, ask, task_runs
from tasks.parent_run import end_runs_of

log = logging.getLogger(__name__)

PROCESS, BEAT = "ringflow.process", "ringflow.beat"
BEAT_EVERY_S = 15.0
# A busy machine or a restarting server may swallow two beats.
WATCH_S = 3.5 * BEAT_EVERY_S
ALIVE = ("RUNNING", "CANCELLING")
# A run that is retried has the labels of its earlier process until it has read its recipe.
SETTLED_S = 60.0
GONE = "its process is gone"
MESSAGE = (
    "The process of this run ended without a word (kill -9, out of memory, power): {why}. Finished stages and resume "
    "points are kept: Retry here, or ringflow rerun {name}"
)


class Heartbeat:
    """A context manager around a run. A beat that Prefect does not take is missed, nothing more."""

    def __init__(self, run_id: str) -> None:
        self._path = f"/flow_runs/{run_id}/labels"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat of the run", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def _beat(self) -> None:
        number, labels = 0, {PROCESS: ProcessIdentity.current().model_dump_json()}
        while True:
            number += 1
            try:
                ask("PATCH", self._path, {**labels, BEAT: f"{os.getpid()}/{number}"})
            except RingflowError as error:
                log.debug("no heartbeat in Prefect: %s", error)
            if self._stop.wait(BEAT_EVERY_S):
                return


def survey_runs(settled_s: float = SETTLED_S) -> list[Leftover]:
    """Crashed runs. Changes nothing; takes a minute when one may live on another machine.

    settled_s: runs that entered their state later than that are not judged.
    """
    running = {key: run for key, run in _running().items() if _seconds_in_state(run) > settled_s}
    dead = {run["id"]: GONE for run in running.values() if _gone(run)}
    unsure = {key: _beat_of(run) for key, run in running.items() if key not in dead and _beat_of(run)}
    unsure = {key: beat for key, beat in unsure.items() if not _here(running[key])}
    if unsure:
        time.sleep(WATCH_S)
        now = _running()
        still = [key for key, beat in unsure.items() if key in now and _beat_of(now[key]) == beat]
        dead |= dict.fromkeys(still, f"no heartbeat for {WATCH_S:.0f} s")
    return [Leftover("run", running[key]["name"], why, key=key) for key, why in dead.items()]


def mark(found: list[Leftover], at_work: Collection[str] = ()) -> list[Leftover]:
    """Sets the runs, and their tasks that seem to run, to CRASHED. `kept` where Prefect did not take it.

    at_work: fingerprints whose stage goes on without its run, as a Ray job does; it still writes to its MLflow run.
    """
    done = []
    for item in found:
        message = MESSAGE.format(why=item.why, name=item.place)
        try:
            for task in task_runs(item.key):
                if task["state_type"] in (*ALIVE, "PENDING"):
                    _crash(f"/task_runs/{task['id']}/set_state", item.why)
            _crash(f"/flow_runs/{item.key}/set_state", message)
            end_runs_of(os.environ.get("MLFLOW_TRACKING_URI", ""), item.key, message, at_work)
        except RingflowError as error:
            item = replace(item, kept=str(error))
        done.append(item)
    return done


def _crash(path: str, message: str) -> None:
    ask("POST", path, {"state": {"type": "CRASHED", "name": "Crashed", "message": message}, "force": True})


def _running() -> dict[str, dict[str, Any]]:
    body = {
        "flows": {"name": {"any_": list(FLOWS)}},
        "flow_runs": {"state": {"type": {"any_": list(ALIVE)}}},
        "limit": 200,
    }
    return {run["id"]: run for run in ask("POST", "/flow_runs/filter", body)}


def _seconds_in_state(run: dict[str, Any]) -> float:
    return time.time() - datetime.fromisoformat(run["state"]["timestamp"]).timestamp()


def _process(run: dict[str, Any]) -> ProcessIdentity | None:
    try:
        return ProcessIdentity.model_validate_json(str((run.get("labels") or {}).get(PROCESS, "")))
    except ValueError:
        return None


def died(run: dict[str, Any]) -> bool:
    """Whether Prefect takes for running what certainly is not; False of a run of another machine, or of one in its
    state since a moment ago."""
    return run["state_type"] in ALIVE and _seconds_in_state(run) > SETTLED_S and _gone(run)


def _gone(run: dict[str, Any]) -> bool:
    process = _process(run)
    return process is not None and process.certainly_dead()


def _here(run: dict[str, Any]) -> bool:
    """A living process of this machine, however slow its beats are."""
    process = _process(run)
    return process is not None and process.machine == ProcessIdentity.current().machine


def _beat_of(run: dict[str, Any]) -> str:
    return str((run.get("labels") or {}).get(BEAT, ""))
