"""The flow `stage`: one stage of a recipe on its own, and nothing that comes after it."""

from __future__ import annotations

from prefect import flow
from prefect.states import State
from prefect.task_runners import ThreadPoolTaskRunner

from flows.execute import execute
from flows.naming import run_name
from flows.request import StageRequest


@flow(name="stage", flow_run_name=run_name, task_runner=ThreadPoolTaskRunner(max_workers=4))
def one_stage(request: StageRequest) -> State:
    """Runs one stage of a recipe; what it reads must be finished, or is computed first if so asked."""
    graph, loaded = request.load()
    allowed, forced = request.choice(graph)
    return execute(graph, loaded, allowed=allowed, forced=forced, repeat_of=request.repeat_of or None)
