"""The flow `ring`: a whole recipe, one Prefect task per stage, in the order of its DAG."""

from __future__ import annotations

from prefect import flow
from prefect.states import State
from prefect.task_runners import ThreadPoolTaskRunner

from flows.execute import execute
from flows.naming import run_name
from flows.request import RunRequest


@flow(name="ring", flow_run_name=run_name, task_runner=ThreadPoolTaskRunner(max_workers=4))
def ring(request: RunRequest) -> State:
    """Runs a Ring recipe: data decontamination, SFT, RLVR, RLHF, evaluation and release.

    Finished stages are reused; a stage that was interrupted goes on from its last checkpoint.
    """
    graph, loaded = request.load()
    allowed, forced = request.choice(graph)
    return execute(graph.part(allowed), loaded, allowed=allowed, forced=forced, repeat_of=request.repeat_of or None)
