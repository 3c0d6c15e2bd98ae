"""The flow `ring`: a whole recipe, one Prefect task per stage, in the order of its DAG."""

from __future__ import annotations

import time
from pathlib import Path

from prefect import flow
from prefect.context import get_run_context
from prefect.states import State
from prefect.task_runners import ThreadPoolTaskRunner

from flows.execute import execute
from flows.request import RunRequest


def flow_run_name() -> str:
    """Recipe and time, such as nano-1122-004659: readable in lists, and unique in practice."""
    request = RunRequest.model_validate(get_run_context().parameters["request"])
    return f"{Path(request.recipe_file).stem if request.recipe_file else request.recipe}-{time.strftime('%m%d-%H%M%S')}"


@flow(name="ring", flow_run_name=flow_run_name, task_runner=ThreadPoolTaskRunner(max_workers=4))
def ring(request: RunRequest) -> State:
    """Runs a Ring recipe: data decontamination, SFT, RLVR, RLHF, evaluation and release.

    Finished stages are reused; a stage that was interrupted goes on from its last checkpoint.
    """
    graph, loaded = request.load()
    return execute(
        graph,
        loaded,
        allowed=frozenset(graph.selection(request.start_at or None, request.only)),
        forced=frozenset(graph.require(request.force, "--force")),
        repeat_of=request.repeat_of or None,
    )
