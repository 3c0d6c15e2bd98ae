"""Stage `reward-model`: a Bradley-Terry reward model on the policy's backbone, gated by held-out accuracy.

Output: model/ (backbone, Hugging Face directory), head.safetensors (scalar head).
"""

from __future__ import annotations

from collections.abc import Mapping

from components.artifacts.context import StageContext, StageResult
from components.artifacts.ref import ArtifactRef
from components.data.jsonl import read_records
from components.data.schema import PreferenceRecord
from components.model.spec import spec_for
from components.model.tokenizer import contract, load_tokenizer
from components.training.group import borrow_learners
from components.training.reward_model import train_reward_model
from tasks.stage import StageConfig


def run(context: StageContext, inputs: Mapping[str, ArtifactRef], config: StageConfig) -> StageResult:
    """Raises Diverged when held-out accuracy is below `reward_model.min_accuracy`."""
    model = config.model
    tokenizer = load_tokenizer(model.tokenizer)
    start = context.locate(inputs["model"], "model")
    pairs = read_records(context.fetch(inputs["data"], "data/preference.jsonl"), PreferenceRecord)
    held_out = read_records(context.fetch(inputs["data"], "data/preference_heldout.jsonl"), PreferenceRecord)
    with borrow_learners(model, context.execution) as learners:
        summary = train_reward_model(
            context, learners, pairs, held_out, config.section, tokenizer, model.tokenizer, start
        )
    return StageResult(summary=summary, contract=contract(tokenizer, spec_for(model)))
