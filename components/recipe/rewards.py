"""Recipe section for rewards: which reward a domain's prompts have, how several are mixed, and what is watched.

Without it, prompts have the rule verifier of their record, and in RLHF open-ended ones the trained reward model. A
judge is named here by its model, which decides what is computed; where it answers stands in `execution.judges`.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from components.recipe.base import StrictModel
from components.recipe.data import Domain


class RuleReward(StrictModel):
    """The rule verifier of the prompt's record."""

    kind: Literal["rule"] = "rule"


class ModelReward(StrictModel):
    """The reward model that the recipe trained; only in RLHF."""

    kind: Literal["reward-model"] = "reward-model"


class PairwiseReward(StrictModel):
    """Generative pairwise reward: every response of a group against every other, in both orders; ties count half."""

    kind: Literal["pairwise"] = "pairwise"
    judges: tuple[str, ...] = Field(min_length=1, description="Models; with several the mean, and they are compared")
    opponents: int | None = Field(default=None, ge=1, description="Opponents of each response; all when absent")
    max_new_tokens: int = Field(default=1024, ge=1, description="Of one verdict")


class Criterion(StrictModel):
    """One line of a rubric. Negative points are taken off when it is met."""

    text: str = Field(min_length=1)
    points: float


class RubricReward(StrictModel):
    """Points of the met criteria over all positive points, cut to [0, 1], as HealthBench does.

    Without criteria here each prompt brings its own: verifier.reference.rubric_items = [{text, points}].
    """

    kind: Literal["rubric"] = "rubric"
    judges: tuple[str, ...] = Field(min_length=1)
    criteria: tuple[Criterion, ...] = ()
    max_new_tokens: int = Field(default=2048, ge=1, description="Of one verdict")

    @model_validator(mode="after")
    def _can_be_earned(self) -> Self:
        if self.criteria and not any(criterion.points > 0 for criterion in self.criteria):
            raise ValueError("a rubric needs a criterion with positive points")
        return self


class RewardPart(StrictModel):
    """normalise: `group` is (value - mean) / deviation inside the group, `rank` the mean rank there in [0, 1]; both
    bring rewards of different scales together before they are mixed."""

    reward: Annotated[RuleReward | ModelReward | PairwiseReward | RubricReward, Field(discriminator="kind")]
    weight: float = Field(default=1.0, gt=0)
    normalise: Literal["none", "group", "rank"] = "none"


class DomainReward(StrictModel):
    """open_only: prompts of the domain that have a rule verifier keep it."""

    domain: Domain
    parts: tuple[RewardPart, ...] = Field(min_length=1)
    open_only: bool = True


class ShapingConfig(StrictModel):
    """Taken off a reward that broke a form; the report uses none, so both are 0.

    format: the response has no single `<think>...</think>` followed by an answer.
    language: share of its letters in a script that the prompt does not use.
    """

    format: float = Field(default=0.0, ge=0)
    language: float = Field(default=0.0, ge=0)


class MonitorConfig(StrictModel):
    """Bounds of the reward-hacking monitors (components.rewards.monitor); one that is passed is an alarm, no stop."""

    max_length_correlation: float = Field(default=0.6, gt=0, le=1, description="Of reward and length inside groups")
    max_repetition: float = Field(default=0.4, gt=0, le=1, description="Mean share of repeated 8-grams of words")
    max_empty_fraction: float = Field(default=0.3, gt=0, le=1, description="Responses without an answer")
    max_hard_coded_fraction: float = Field(default=0.02, gt=0, le=1, description="Accepted programs that print a test")
    max_judge_disagreement: float = Field(default=0.5, gt=0, le=1, description="Pairs judged differently when turned")


class RewardsConfig(StrictModel):
    domains: tuple[DomainReward, ...] = ()
    instruction_mode: Literal["strict", "loose"] = "strict"
    shaping: ShapingConfig = ShapingConfig()
    monitors: MonitorConfig = MonitorConfig()

    @model_validator(mode="after")
    def _one_reward_per_domain(self) -> Self:
        names = [row.domain for row in self.domains]
        if len(set(names)) != len(names):
            raise ValueError("a domain has two rewards: mix them as parts of one")
        return self

    def judges(self) -> tuple[str, ...]:
        """Names of all judge models, in order of appearance."""
        named = (name for row in self.domains for part in row.parts for name in getattr(part.reward, "judges", ()))
        return tuple(dict.fromkeys(named))
