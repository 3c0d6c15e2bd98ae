"""The flow `evaluate`: any registered model or checkpoint on the benchmarks of a recipe."""

from __future__ import annotations

import os

from prefect import flow
from prefect.states import State
from prefect.task_runners import ThreadPoolTaskRunner

from components.artifacts.store import Store
from flows.evaluated import with_models
from flows.execute import execute
from flows.naming import run_name
from flows.request import EvaluateRequest


@flow(name="evaluate", flow_run_name=run_name, task_runner=ThreadPoolTaskRunner(max_workers=2))
def evaluate_model(request: EvaluateRequest) -> State:
    """Evaluates a model on the held-out benchmarks of a recipe; a result that is known already is reused."""
    graph, loaded = request.load()
    store = Store.open(os.environ.get("RINGFLOW_STORE"))
    store.check(deadline_s=20)
    graph, given = with_models(graph, {"model": request.model}, store)
    tags = {"ringflow.evaluates": request.model, "ringflow.model_uri": given["model"]["uri"]}
    return execute(graph, loaded, allowed=frozenset(graph.nodes), given=given, tags=tags)
