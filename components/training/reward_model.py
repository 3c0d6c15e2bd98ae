"""Training of the reward model on preference pairs, with held-out accuracy as the gate."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from components.artifacts.context import StageContext
from components.artifacts.stored import Stored
from components.data.schema import PreferenceRecord
from components.failures import Diverged
from components.model.tokenizer import encode_prompt, encode_response
from components.recipe.training import RewardModelConfig
from components.training.documents import check_dropped, plan_steps
from components.training.group import LearnerGroup
from components.training.loop import run_steps
from components.training.probe import Probe, score_answer

Pair = tuple[np.ndarray, np.ndarray]


def preference_pairs(
    records: Iterable[PreferenceRecord], tokenizer: Any, sequence_length: int, where: str
) -> tuple[list[Pair], list[str]]:
    """((chosen, rejected) token arrays, ids of the records that do not fit).

    Raises:
        BadInput: no records, or too many do not fit.
    """
    pairs, dropped = [], []
    for record in records:
        prompt = encode_prompt(tokenizer, record.prompt)
        both = [
            np.asarray([*prompt, *encode_response(tokenizer, response)], dtype=np.int64)
            for response in (record.chosen, record.rejected)
        ]
        if max(map(len, both)) > sequence_length:
            dropped.append(record.id)
        else:
            pairs.append((both[0], both[1]))
    check_dropped(len(pairs), dropped, sequence_length, where)
    return pairs, dropped


def train_reward_model(
    context: StageContext,
    learners: LearnerGroup,
    records: Iterable[PreferenceRecord],
    held_out: Iterable[PreferenceRecord],
    config: RewardModelConfig,
    tokenizer: Any,
    tokenizer_source: str,
    model: Path | Stored,
) -> dict[str, float]:
    """Trains from the policy `model`; sends `model/` and `head.safetensors`.

    Returns the summary: accuracy (held-out), margin, loss, steps, pairs, held_out_pairs, dropped.

    Raises:
        Diverged: held-out accuracy is below config.min_accuracy: such a reward would mislead RLHF.
    """
    pairs, dropped = preference_pairs(records, tokenizer, config.sequence_length, "data/preference.jsonl")
    checks, _ = preference_pairs(held_out, tokenizer, config.sequence_length, "data/preference_heldout.jsonl")
    plan = plan_steps([1] * len(pairs), config.pairs_per_step, config.steps, context.seed)

    def begin() -> None:
        learners.load_hf(model)
        # The router bias keeps the policy's: a few thousand pairs are no reason to move the load balance.
        learners.configure(config.optimiser, config.steps, expert_bias_rate=0.0, reward_head=True)

    last = run_steps(
        context,
        learners,
        begin=begin,
        probe=Probe([tokens for pair in pairs for tokens in pair], score_answer(learners), context.execution.device),
        total=config.steps,
        checkpoint_every=config.checkpoint_every,
        step=lambda index: learners.train_pairs([pairs[i] for i in plan[index]]),
        describe=lambda metrics: f"loss {metrics['loss']:.3f} accuracy {metrics['accuracy']:.2f}",
    )
    accuracy, margin = held_out_accuracy(learners, checks)
    context.metrics({"held_out/accuracy": accuracy, "held_out/margin": margin}, config.steps)
    if accuracy < config.min_accuracy:
        raise Diverged(
            f"the reward model orders {accuracy:.3f} of {len(checks)} held-out pairs right, "
            f"reward_model.min_accuracy is {config.min_accuracy:g}: more steps, more pairs or a lower rate are needed"
        )
    context.outbox.add("", learners.write_reward(context.outbox.place(), tokenizer_source))
    return {
        "accuracy": accuracy,
        "margin": margin,
        "loss": last["loss"],
        "steps": config.steps,
        "pairs": len(pairs),
        "held_out_pairs": len(checks),
        "dropped": len(dropped),
    }


def held_out_accuracy(learners: LearnerGroup, pairs: list[Pair]) -> tuple[float, float]:
    """(share of pairs whose chosen response scores higher, mean margin)."""
    scores = learners.score([tokens for pair in pairs for tokens in pair]).reshape(-1, 2)
    margin = scores[:, 0] - scores[:, 1]
    return float((margin > 0).mean()), float(margin.mean())
