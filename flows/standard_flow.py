"""The flow `evaluate-standard`: any model on standard benchmarks; two stages, each with its lineage and its reuse.

A model is a registered one or a checkpoint (our engines hold it), a Hugging Face directory (vLLM serves it meanwhile),
or MODEL@URL, an OpenAI-compatible endpoint.
"""

from __future__ import annotations

import os
from typing import Any

from prefect import flow
from prefect.states import State
from prefect.task_runners import ThreadPoolTaskRunner

from components.artifacts.store import Store
from flows.evaluated import with_models
from flows.execute import execute
from flows.naming import run_name
from flows.standard_request import StandardRequest


@flow(name="evaluate-standard", flow_run_name=run_name, task_runner=ThreadPoolTaskRunner(max_workers=2))
def evaluate_standard(request: StandardRequest) -> State:
    """Evaluates a model on standard benchmarks; a result that is known already is reused."""
    graph, loaded = request.load()
    given: dict[str, Any] = {}
    tags = {"ringflow.evaluates": request.model}
    if request.served(request.model) is None:
        store = Store.open(os.environ.get("RINGFLOW_STORE"))
        store.check(deadline_s=20)
        graph, given = with_models(graph, {"model": request.model}, store)
        tags["ringflow.model_uri"] = given["model"]["uri"]
    return execute(graph, loaded, allowed=frozenset(graph.nodes), given=given, tags=tags)
