"""What the job of a stage has to do: a node with its inputs and the run it is for, as JSON in the store.

`<project>/<stage>/<fingerprint>/jobs/<submission id>-<digest>.json`, written once before the job is submitted and
removed with the resume points when the stage is committed. It is JSON and not a pickle: whoever may write to the store
must not get to run code by it. A job computes the fingerprint from it again, and refuses to go on with another.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from components.artifacts.digest import bytes_sha256
from components.artifacts.fingerprint import fingerprint_of
from components.artifacts.ref import ArtifactRef
from components.artifacts.store import Store
from components.failures import BadInput, IntegrityError
from components.recipe.base import StrictModel
from components.recipe.data import GateConfig
from components.recipe.execution import ExecutionConfig
from components.recipe.load import LoadedRecipe
from components.recipe.model import ModelConfig
from components.recipe.recipe import Recipe
from tasks.node import Node
from tasks.session import Session
from tasks.stage import STAGES, StageConfig

SECTIONS = "components.recipe."
FOLDER = "jobs"


class RecipeRecord(BaseModel):
    """A LoadedRecipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: Recipe
    path: str
    overrides: tuple[str, ...]
    origins: dict[str, str]
    values: dict[str, Any]
    text: str

    @classmethod
    def of(cls, loaded: LoadedRecipe) -> RecipeRecord:
        return cls.model_construct(**{**vars(loaded), "path": str(loaded.path)})

    def loaded(self) -> LoadedRecipe:
        return LoadedRecipe(
            **{name: getattr(self, name) for name in type(self).model_fields} | {"path": Path(self.path)}
        )


class StageOrder(BaseModel):
    """section: the class of the node's section and its values. refs: the inputs' artifacts.

    repeat: tells a forced repetition from the first result. run, pipeline, experiment: the Prefect run and the MLflow
    run that this is for. sources, commit: the code that the flow runs, which must be the job's too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    stage: str
    version: int
    inputs: dict[str, str]
    section: tuple[str, dict[str, Any]]
    model: ModelConfig | None
    gates: GateConfig
    seed: int
    key: str
    instead: dict[str, str]
    outside: dict[str, str]
    refs: dict[str, ArtifactRef]
    repeat: str | None
    fingerprint: str
    execution: ExecutionConfig
    recipe: RecipeRecord | None
    run: str
    pipeline: str
    experiment: str
    sources: str
    commit: str

    @classmethod
    def of(cls, node: Node, session: Session, refs: Mapping[str, ArtifactRef], repeat: str | None) -> StageOrder:
        section, parent = node.config.section, getattr(session.tracker, "parent", None)
        return cls(
            name=node.name,
            stage=node.stage.type,
            version=node.stage.version,
            inputs=dict(node.inputs),
            section=(f"{type(section).__module__}:{type(section).__qualname__}", section.model_dump(mode="json")),
            model=node.config.model,
            gates=node.config.gates,
            seed=node.seed,
            key=node.key,
            instead=dict(node.instead),
            outside=dict(node.outside),
            refs=dict(refs),
            repeat=repeat,
            fingerprint=fingerprint_of(node.identity(refs, repeat)),
            execution=session.execution,
            recipe=RecipeRecord.of(session.loaded) if session.loaded is not None else None,
            run=session.run_id,
            pipeline=parent.run_id if parent else "",
            experiment=parent.experiment_id if parent else "",
            sources=session.sources,
            commit=session.code.commit,
        )

    @property
    def root(self) -> str:
        """`<project>/<stage>/<fingerprint>` of the result."""
        return f"{self.execution.project}/{self.stage}/{self.fingerprint}"

    def node(self) -> Node:
        """Raises BadInput when this code has another version of the stage, IntegrityError for another fingerprint."""
        stage = STAGES.get(self.stage)
        if stage is None or stage.version != self.version:
            raise BadInput(
                f"the flow has version {self.version} of stage {self.stage}, this node "
                f"{f'version {stage.version}' if stage else 'none'}",
                where=self.name,
                remedy="Give the flow and Ray's nodes the same code",
            )
        name, values = self.section
        config = StageConfig(_section(name).model_validate(values, strict=False), self.model, self.gates)
        node = Node(self.name, stage, self.inputs, config, self.seed, self.key, self.instead, self.outside)
        found = fingerprint_of(node.identity(self.refs, self.repeat))
        if found != self.fingerprint:
            raise IntegrityError(f"{self.name} has fingerprint {found} here and {self.fingerprint} in the flow")
        return node

    def check_code(self, sources: str, commit: str) -> None:
        """Raises BadInput when this node has other code than the flow had at its start, committed or not."""
        if sources != self.sources:
            raise BadInput(
                f"the code of this node (commit {commit[:12] or 'unknown'}) is not that of the flow when it began "
                f"(commit {self.commit[:12] or 'unknown'})",
                where=self.name,
                remedy="Give Ray's nodes the flow's components/ and tasks/, uncommitted changes too; or start again",
            )

    def put(self, store: Store, job: str) -> str:
        """Stores it for a job; its key. The same order may be stored again."""
        data = self.model_dump_json().encode()
        key = f"{self.root}/{FOLDER}/{job}-{bytes_sha256(data)[:16]}.json"
        store.objects.create(key, data)
        return key

    @classmethod
    def get(cls, store: Store, key: str) -> StageOrder | None:
        """None when it was removed: the stage is finished. Raises IntegrityError for other bytes."""
        stored = store.objects.read(key)
        if stored is None:
            return None
        if bytes_sha256(stored.data)[:16] != key.rpartition("-")[2].removesuffix(".json"):
            raise IntegrityError(f"{store.url}/{key}: these are not the bytes that were written")
        return cls.model_validate_json(stored.data)


def clear_orders(store: Store, root: str) -> None:
    """Nobody needs them once the stage is committed."""
    store.objects.remove(f"{root}/{FOLDER}")


def _section(name: str) -> type[StrictModel]:
    """The class of a section; sections are classes of components.recipe and nothing else."""
    module, _, kind = name.partition(":")
    found = getattr(import_module(module), kind, None) if module.startswith(SECTIONS) else None
    if not (isinstance(found, type) and issubclass(found, StrictModel)):
        raise IntegrityError(f"{name} is no section of a recipe")
    return found
