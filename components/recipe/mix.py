"""Recipe sections for the optional stages `mix` and `pass-rate`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from components.recipe.base import StrictModel
from components.recipe.data import Domain

MixPreset = Literal["none", "ring-sft", "ring-rlvr"]

# Ring-1T report (arXiv 2510.18855): SFT math 46, STEM 26, code 20, other 8 %; RLVR math 42.2, logic 21.3, code 18.6,
# science 17.8 % (which sums to 99.9: shares are of their sum).
PRESETS: dict[str, dict[str, float]] = {
    "ring-sft": {"math": 46, "science": 26, "code": 20, "general|logic": 8},
    "ring-rlvr": {"math": 42.2, "logic": 21.3, "code": 18.6, "science": 17.8},
}


class SplitMix(StrictModel):
    """How one split is put together. Without ratios or preset, groups keep their natural shares (see temperature)."""

    preset: MixPreset = "none"
    by: Literal["domain", "family", "source"] = Field(default="domain", description="What a group is: a record's ...")
    ratios: dict[str, float] = Field(
        default={}, description="Group -> weight; `a|b` is one group of two. Groups without a weight are left out"
    )
    unit: Literal["records", "tokens"] = Field(default="records", description="What the ratios are shares of")
    temperature: float = Field(default=1.0, gt=0, description="Natural shares to the power 1/temperature, renormalised")
    records: int | None = Field(default=None, ge=1, description="How many in all; as many as the scarcest group allows")
    max_epochs: float = Field(default=1.0, gt=0, description="How often a record may be used at most, on average")
    caps: dict[str, int] = Field(default={}, description="Group -> most records of it")
    shuffle: bool = True

    @property
    def weights(self) -> dict[str, float]:
        """Group -> weight; empty for natural shares."""
        return dict(self.ratios) or dict(PRESETS.get(self.preset, {}))

    @model_validator(mode="after")
    def _consistent(self) -> SplitMix:
        if self.ratios and self.preset != "none":
            raise ValueError("ratios and a preset exclude each other")
        if self.weights and self.temperature != 1.0:
            raise ValueError("temperature reshapes natural shares; with ratios or a preset there are none")
        if any(weight <= 0 for weight in self.ratios.values()):
            raise ValueError("a ratio is above 0; leave a group out to leave its records out")
        return self


class MixConfig(StrictModel):
    """The optional stage between decontamination and training. A split that is not named passes unchanged."""

    pretrain: SplitMix | None = None
    sft: SplitMix | None = None
    rl: SplitMix | None = None
    preference: SplitMix | None = None

    def splits(self) -> dict[str, SplitMix]:
        return {name: mix for name in type(self).model_fields if (mix := getattr(self, name)) is not None}

    @model_validator(mode="after")
    def _rl_once(self) -> MixConfig:
        if self.rl is not None and self.rl.max_epochs > 1:
            raise ValueError("rl.max_epochs is at most 1: the prompt ledger repeats prompts, one epoch after another")
        return self


class PassRateConfig(StrictModel):
    """The optional stage that lets the SFT model try every RL prompt, and drops those it always or never solves
    (Ring-lite, arXiv 2506.14731): their groups have no advantage, so their rollouts are lost."""

    samples: int = Field(default=8, ge=2, description="Responses per prompt")
    domains: tuple[Domain, ...] = ("math", "code", "logic", "science")
    min_rate: float = Field(default=0.0, ge=0, le=1, description="Prompts solved at this rate or less are dropped")
    max_rate: float = Field(default=1.0, ge=0, le=1, description="Prompts solved at this rate or more are dropped")
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_new_tokens: int = Field(ge=1)
    engine_dtype: Literal["float32", "bfloat16"] = "float32"
    reward_timeout_s: float = Field(default=10.0, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> PassRateConfig:
        if self.min_rate >= self.max_rate:
            raise ValueError("min_rate is below max_rate")
        return self
