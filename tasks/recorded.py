"""What is recorded of every stage besides its result: values with origins, code, hardware, work, and the run it was.

All of it goes to the manifest and its records, and what people search by to the stage's MLflow run. Nothing of it is
part of the stage's fingerprint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache

from components.artifacts.provenance import Hardware, Provenance, Work, recipe_version
from components.artifacts.ref import ArtifactRef
from components.artifacts.store import Store
from tasks.node import Node
from tasks.session import Session


@cache
def hardware() -> Hardware:
    """Of this process; asked once, because the answer does not change and nvidia-smi may take a second."""
    return Hardware.read()


def provenance_of(node: Node, session: Session, inputs: Mapping[str, ArtifactRef]) -> Provenance:
    """All that is known when a stage starts; `finished` adds the rest."""
    loaded = session.loaded
    facts = {}
    if loaded is not None:
        facts = {
            "recipe": loaded.recipe.name,
            "recipe_version": recipe_version(loaded.recipe),
            "recipe_seed": loaded.recipe.seed,
            "config": node.values(loaded),
        }
    return Provenance.collect(
        session.code, node.seed, inputs, hardware=hardware(), prefect_run_id=session.run_id, **facts
    )


def finished(
    made: Provenance, session: Session, reads: Mapping[str, set[str]], wall_s: float, mlflow_run_id: str
) -> Provenance:
    """The manifest's provenance. reads: URI of an input -> what the stage opened in it. wall_s: seconds of work."""
    now = Provenance.collect(session.code, made.seed, made.inputs)
    return made.model_copy(
        update={
            "created": now.created,
            "work": Work.of(session.execution, round(wall_s, 3)),
            "reads": {name: tuple(sorted(reads.get(ref.uri, ()))) for name, ref in made.inputs.items()},
            "mlflow_run_id": mlflow_run_id,
        }
    )


def records_of(session: Session) -> dict[str, bytes]:
    """Files kept beside the artifact: the whole recipe with origins, its file, and the uncommitted changes, if any."""
    records = {}
    if session.loaded is not None:
        records["config.json"] = json.dumps(session.loaded.below(""), indent=1).encode()
        records["recipe.yaml"] = session.loaded.text.encode()
    if session.code.dirty:
        records["git.diff"] = session.code.diff
    return records


def stored_records(store: Store, ref: ArtifactRef) -> dict[str, bytes]:
    """The same of a committed artifact."""
    names = [entry.path for entry in store.read_manifest(ref).records]
    return {name: data for name in names if (data := store.record(ref, name)) is not None}


def tags_of(node: Node, made: Provenance) -> dict[str, str]:
    """The tags by which people find a stage's run in MLflow; those without a value are left out."""
    machine = made.hardware or Hardware()
    overrides = dict.fromkeys(value.origin for value in made.config.values() if value.origin.startswith("--set "))
    tags = {
        "ringflow.stage_type": node.stage.type,
        "ringflow.recipe": made.recipe,
        "ringflow.recipe_version": made.recipe_version,
        "ringflow.seed": "" if made.recipe_seed is None else str(made.recipe_seed),
        "ringflow.stage_seed": str(made.seed),
        "ringflow.overrides": " ".join(origin.removeprefix("--set ") for origin in overrides),
        "prefect.flow_run_id": made.prefect_run_id,
        "git.commit": made.git_commit,
        "git.dirty": str(made.git_dirty).lower() if made.git_commit else "",
        "git.diff_sha256": made.git_diff_sha256,
        "lock.sha256": made.lock_sha256,
        "hardware.host": made.host,
        "hardware.cpu": machine.cpu,
        "hardware.cores": str(machine.cores or ""),
        "hardware.memory_gib": f"{machine.memory_bytes / 2**30:.1f}" if machine.memory_bytes else "",
        "hardware.gpus": ", ".join(machine.gpus),
    }
    return {name: value for name, value in tags.items() if value}
