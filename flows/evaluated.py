"""What an evaluation on its own takes from outside its DAG: the model, and what its training data held of benchmarks.

A pipeline's evaluation reads both from the stages before it. On its own it finds them in the model's lineage, so that
its fingerprint is that of the pipeline's, which is then reused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.artifacts.ref import ArtifactRef
from components.artifacts.store import Store
from components.failures import BadInput
from components.lineage.graph import lineage
from flows.graph import Graph
from flows.references import find_artifact


def with_models(graph: Graph, models: Mapping[str, str], store: Store) -> tuple[Graph, dict[str, Any]]:
    """The DAG with what its evaluations read of these models, and those artifacts as JSON, by the names nodes use.

    models: name that nodes use -> what a person calls it. Raises BadInput for one that cannot be evaluated.
    """
    given: dict[str, Any] = {}
    further: dict[str, dict[str, str]] = {}
    for name, reference in models.items():
        model = checkpoint_of(find_artifact(reference, store), store)
        given[name] = model.model_dump(mode="json")
        cleaned = trained_on(model, store)
        readers = [node.name for node in graph.nodes.values() if node.inputs.get("model") == name]
        if cleaned is not None and "corpus" in graph.nodes:
            given[f"{name}-data"] = cleaned.model_dump(mode="json")
            further |= {reader: {"contamination": f"{name}-data"} for reader in readers}
    return graph.with_inputs(further), given


def checkpoint_of(ref: ArtifactRef, store: Store) -> ArtifactRef:
    """What to evaluate: a checkpoint itself; for a release in float32 the checkpoint it was made from, whose weights it
    holds to the last bit, so that known scores are found; a release in another dtype itself, since it is another model.

    Raises:
        BadInput: the artifact holds no policy model.
    """
    if ref.kind == "checkpoint":
        return ref
    parent = store.read_manifest(ref).provenance.inputs.get("model") if ref.kind == "release" else None
    if parent is None:
        raise BadInput(f"a {ref.kind} cannot be evaluated", where=ref.uri, remedy="Name a checkpoint or a release")
    return parent if ref.summary.get("dtype", "float32") == "float32" else ref


def trained_on(model: ArtifactRef, store: Store) -> ArtifactRef | None:
    """The decontaminated data that a checkpoint's stages read; the nearest where several were; None for none."""
    return next((node.ref for node in lineage(store, model).cleaned), None)
