"""What a stage declares: its type, version, what it consumes and produces, and where its function is.

The functions live in tasks/stages/<type>.py as `run(context, inputs, config) -> StageResult`; they only fetch inputs,
call components and write below `context.output`. Modules are imported when a stage runs, never to list stages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module

from components.artifacts.context import StageFunction
from components.artifacts.ref import ArtifactKind
from components.recipe.base import StrictModel
from components.recipe.data import GateConfig
from components.recipe.model import ModelConfig


@dataclass(frozen=True)
class StageConfig:
    """Identity configuration of one node. `model` is None for stages whose result does not depend on the model.

    gates: the recipe's `corpus.gates`, for suites of later stages (mix, rollouts). They are part of the identity of the
    corpus, and so of everything made from it.
    """

    section: StrictModel
    model: ModelConfig | None
    gates: GateConfig = field(default_factory=GateConfig)


@dataclass(frozen=True)
class Stage:
    """version: raise it when the stage's code computes something else from the same config and inputs.

    consumes: input name -> artifact kind; a name ending in `*` stands for any number of inputs with that prefix.
    """

    type: str
    version: int
    consumes: Mapping[str, ArtifactKind]
    produces: ArtifactKind
    uses_model: bool = True

    def function(self) -> StageFunction:
        return import_module(f"tasks.stages.{self.type.replace('-', '_')}").run


STAGES: Mapping[str, Stage] = {
    stage.type: stage
    for stage in (
        Stage("corpus", 5, {}, "corpus"),
        Stage("decontaminate", 3, {"corpus": "corpus"}, "clean-corpus", uses_model=False),
        Stage("mix", 1, {"data": "clean-corpus"}, "clean-corpus"),
        Stage("pass-rate", 1, {"model": "checkpoint", "data": "clean-corpus"}, "clean-corpus"),
        Stage("base", 1, {"data": "clean-corpus", "release*": "release"}, "checkpoint"),
        Stage("sft", 1, {"model": "checkpoint", "data": "clean-corpus"}, "checkpoint"),
        Stage("select", 1, {"model": "checkpoint", "data": "clean-corpus"}, "checkpoint"),
        Stage("rlvr", 1, {"model": "checkpoint", "data": "clean-corpus"}, "checkpoint"),
        Stage("reward-model", 1, {"model": "checkpoint", "data": "clean-corpus"}, "reward-model"),
        Stage("rlhf", 1, {"model": "checkpoint", "reward": "reward-model", "data": "clean-corpus"}, "checkpoint"),
        Stage("benchmarks", 3, {}, "corpus", uses_model=False),
        Stage("evaluate-served", 1, {"corpus": "corpus"}, "evaluation", uses_model=False),
        Stage(
            "evaluate", 3, {"model": "checkpoint", "corpus": "corpus", "contamination*": "clean-corpus"}, "evaluation"
        ),
        Stage(
            "release",
            2,
            {"model": "checkpoint", "corpus": "corpus", "data": "clean-corpus", "evaluate-*": "evaluation"},
            "release",
        ),
    )
}
