"""The flow `evaluate`: any registered model or checkpoint on the benchmarks of a recipe."""

from __future__ import annotations

import os

from prefect import flow
from prefect.states import State
from prefect.task_runners import ThreadPoolTaskRunner

from components.artifacts.ref import ArtifactRef
from components.artifacts.store import Store
from components.failures import BadInput
from flows.execute import execute
from flows.naming import run_name
from flows.references import find_artifact
from flows.request import EvaluateRequest


@flow(name="evaluate", flow_run_name=run_name, task_runner=ThreadPoolTaskRunner(max_workers=2))
def evaluate_model(request: EvaluateRequest) -> State:
    """Evaluates a model on the held-out benchmarks of a recipe; a result that is known already is reused."""
    graph, loaded = request.load()
    store = Store.open(os.environ.get("RINGFLOW_STORE"))
    store.check(deadline_s=20)
    model = checkpoint_of(find_artifact(request.model, store), store)
    return execute(
        graph,
        loaded,
        allowed=frozenset(graph.nodes),
        given={"model": model.model_dump(mode="json")},
        tags={"ringflow.evaluates": request.model, "ringflow.model_uri": model.uri},
    )


def checkpoint_of(ref: ArtifactRef, store: Store) -> ArtifactRef:
    """The checkpoint to evaluate: the artifact itself, or what a release was made from (equal by its parity check).

    Raises:
        BadInput: the artifact holds no policy model.
    """
    if ref.kind == "checkpoint":
        return ref
    parent = store.read_manifest(ref).provenance.inputs.get("model") if ref.kind == "release" else None
    if parent is None:
        raise BadInput(f"a {ref.kind} cannot be evaluated", where=ref.uri, remedy="Name a checkpoint or a release")
    return parent
