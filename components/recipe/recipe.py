"""The recipe: one YAML file that says what is trained, on what, and how it is judged.

A recipe is data. Identity (everything but `execution` and `description`) decides what is computed and enters the stage
fingerprints; execution decides where and how fast. An unknown key, a wrong type or a value out of range is a BadInput
that names the file, the key and the accepted keys, before anything starts.

Only name, corpus and base must be given: RL stages that are left out do not run, and what the base decides or the
report publishes need not be written (flows.completed).
"""

from __future__ import annotations

from pydantic import Field, model_validator

from components.recipe.base import StrictModel
from components.recipe.data import CorpusConfig, DecontaminateConfig
from components.recipe.evaluation import EvaluationConfig, ReleaseConfig, SelectConfig
from components.recipe.execution import ExecutionConfig
from components.recipe.mix import MixConfig, PassRateConfig
from components.recipe.model import ModelConfig
from components.recipe.rl import RlhfConfig, RlPhase
from components.recipe.training import ImportConfig, PretrainConfig, RewardModelConfig, SftConfig


class Recipe(StrictModel):
    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    description: str = ""
    seed: int = Field(default=0, ge=0)
    model: ModelConfig = ModelConfig()
    corpus: CorpusConfig
    decontaminate: DecontaminateConfig = DecontaminateConfig()
    mix: MixConfig | None = None
    base: PretrainConfig | ImportConfig = Field(discriminator="kind")
    sft: SftConfig = SftConfig()
    select: SelectConfig | None = None
    pass_rate: PassRateConfig | None = None
    rlvr: tuple[RlPhase, ...] = ()
    reward_model: RewardModelConfig | None = None
    rlhf: RlhfConfig | None = None
    evaluate: EvaluationConfig = EvaluationConfig()
    release: ReleaseConfig = ReleaseConfig()
    execution: ExecutionConfig = ExecutionConfig()

    @model_validator(mode="after")
    def _what_is_made_is_read(self) -> Recipe:
        if (self.rlhf is None) != (self.reward_model is None):
            raise ValueError("rlhf and reward_model need each other: give both or leave both out")
        if self.pass_rate is not None and not self.rlvr and self.rlhf is None:
            raise ValueError("pass_rate chooses prompts for rlvr and rlhf, and the recipe has neither")
        return self
