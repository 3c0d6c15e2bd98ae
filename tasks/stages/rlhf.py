"""Stage `rlhf`: general RL. Reward-model prompts mixed with verifiable ones, so that reasoning is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.artifacts.context import StageContext, StageResult
from components.artifacts.ref import ArtifactRef
from components.recipe.rl import RlhfConfig
from components.rewards.types import Scorer
from tasks.stage import StageConfig
from tasks.stages.rlvr import run_phase


def run(context: StageContext, inputs: Mapping[str, ArtifactRef], config: StageConfig) -> StageResult:
    """inputs: model (checkpoint), reward (reward model), data (clean corpus)."""
    phase: RlhfConfig = config.section
    reward_model = context.locate(inputs["reward"])

    def open_ended(learners: Any, tokenizer: Any) -> Scorer:
        from components.model.tokenizer import encode_response, encode_text
        from components.rewards.reward_model import RewardModelScorer

        learners.load_reward(reward_model)
        return RewardModelScorer(
            learners.score,
            lambda prompt, response: encode_text(tokenizer, prompt) + encode_response(tokenizer, response),
        )

    share = phase.verifiable_fraction
    parts = [(phase.domains, 1.0 - share), (phase.verifiable_domains, share)]
    return run_phase(context, inputs, config, parts, open_ended)
