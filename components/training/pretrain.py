"""Pre-training from scratch: next-token cross entropy on raw text, expert bias moving."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from components.artifacts.context import StageContext
from components.data.schema import PretrainRecord
from components.recipe.training import PretrainConfig
from components.training.documents import plan_steps, pretrain_sequences
from components.training.group import LearnerGroup
from components.training.loop import run_steps
from components.training.probe import Probe, logprob_answer


def train_base(
    context: StageContext,
    learners: LearnerGroup,
    records: Iterable[PretrainRecord],
    config: PretrainConfig,
    tokenizer: Any,
    tokenizer_source: str,
) -> dict[str, float]:
    """Trains from `context.seed` and sends `model/`. Returns the summary: loss, steps, tokens, documents."""
    documents = pretrain_sequences(records, tokenizer, config.sequence_length)
    plan = plan_steps(
        [len(document.tokens) for document in documents], config.tokens_per_step, config.steps, context.seed
    )

    def begin() -> None:
        learners.initialise(context.seed)
        weight = config.mtp_loss_weight or 0.0
        learners.configure(config.optimiser, config.steps, config.expert_bias_rate, mtp_loss_weight=weight)

    last = run_steps(
        context,
        learners,
        begin=begin,
        probe=Probe([d.tokens for d in documents], logprob_answer(learners), context.execution.device),
        total=config.steps,
        checkpoint_every=config.checkpoint_every,
        step=lambda index: learners.train_tokens([documents[i] for i in plan[index]], config.sequence_length),
    )
    context.outbox.add("model", learners.write_hf(context.outbox.place("model"), tokenizer_source))
    tokens = sum(len(documents[i].tokens) for batch in plan for i in batch)
    return {"loss": last["loss"], "steps": config.steps, "tokens": tokens, "documents": len(documents)}
