"""The flow `evaluate-standard`: any model on standard benchmarks; two stages, each with its lineage and its reuse.

A model is a registered one or a checkpoint (our engines hold it), a Hugging Face directory (vLLM serves it meanwhile),
or MODEL@URL, an OpenAI-compatible endpoint.
"""

from __future__ import annotations

import os
from typing import Any

from prefect import flow
from prefect.context import get_run_context
from prefect.states import State
from prefect.task_runners import ThreadPoolTaskRunner

from components.artifacts.store import Store
from flows.evaluate_flow import checkpoint_of
from flows.execute import execute
from flows.naming import stamped
from flows.references import find_artifact
from flows.standard_request import StandardRequest


def flow_run_name() -> str:
    request: dict[str, Any] = get_run_context().parameters["request"]
    model = str(StandardRequest.model_validate(request).model).rstrip("/").rsplit("/", 1)[-1]
    return stamped("evaluate", model)


@flow(name="evaluate-standard", flow_run_name=flow_run_name, task_runner=ThreadPoolTaskRunner(max_workers=2))
def evaluate_standard(request: StandardRequest) -> State:
    """Evaluates a model on standard benchmarks; a result that is known already is reused."""
    graph, loaded = request.load()
    given: dict[str, Any] = {}
    if request.served() is None:
        store = Store.open(os.environ.get("RINGFLOW_STORE"))
        store.check(deadline_s=20)
        model = checkpoint_of(find_artifact(request.model, store), store)
        given = {"model": model.model_dump(mode="json")}
    tags = {"ringflow.evaluates": request.model}
    return execute(graph, loaded, allowed=frozenset(graph.nodes), given=given, tags=tags)
