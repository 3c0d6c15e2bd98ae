"""The recipe: one YAML file that says what is trained, on what, and how it is judged.

A recipe is data. Identity (everything but `execution` and `description`) decides what is computed and enters the stage
fingerprints; execution decides where and how fast. An unknown key, a wrong type or a value out of range is a BadInput
that names the file, the key and the accepted keys, before anything starts.
"""

from __future__ import annotations

from pydantic import Field

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
    model: ModelConfig
    corpus: CorpusConfig
    decontaminate: DecontaminateConfig = DecontaminateConfig()
    mix: MixConfig | None = None
    base: PretrainConfig | ImportConfig = Field(discriminator="kind")
    sft: SftConfig
    select: SelectConfig | None = None
    pass_rate: PassRateConfig | None = None
    rlvr: tuple[RlPhase, ...] = Field(min_length=1)
    reward_model: RewardModelConfig
    rlhf: RlhfConfig
    evaluate: EvaluationConfig
    release: ReleaseConfig
    execution: ExecutionConfig = ExecutionConfig()
