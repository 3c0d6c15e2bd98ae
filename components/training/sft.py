"""Long-CoT SFT, and the choice of the checkpoint RL starts from.

Ring-lite (arXiv 2506.14731, 4.3) chooses by entropy, not by validation score: a checkpoint whose mean token entropy is
0.3 to 0.5 still explores; lower ones collapse early in RL, higher ones learn slowly. Entropy is measured on held-out
records, teacher-forced on their responses.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from components.artifacts.context import StageContext
from components.artifacts.stored import Stored
from components.data.schema import SftRecord
from components.recipe.training import SftConfig
from components.training.documents import plan_steps, sft_sequences
from components.training.group import LearnerGroup
from components.training.loop import run_steps
from components.training.probe import Probe, logprob_answer
from components.training.types import Sequence

HELD_OUT = 64
HELD_OUT_FRACTION = 0.05
MEASURES = "entropy.json"


def train_sft(
    context: StageContext,
    learners: LearnerGroup,
    records: Iterable[SftRecord],
    config: SftConfig,
    tokenizer: Any,
    tokenizer_source: str,
    model: Path | Stored,
) -> dict[str, float | int | str]:
    """Fine-tunes `model`; sends `candidates/<step>/` and `model/`, the chosen one, writes `selection.json`.

    Returns the summary: loss, entropy and step of the chosen candidate, steps, tokens, documents, dropped.
    """
    documents, dropped = sft_sequences(records, tokenizer, config.sequence_length)
    documents, held_out = _hold_out(documents, context.seed)
    sizes = [len(document.tokens) for document in documents]
    steps = config.steps or max(1, round(config.epochs * sum(sizes) / config.tokens_per_step))
    plan = plan_steps(sizes, config.tokens_per_step, steps, context.seed)
    outbox = context.outbox
    places = candidate_steps(steps, config.checkpoints)

    def begin() -> None:
        learners.load_hf(model)
        weight = config.mtp_loss_weight or 0.0
        learners.configure(config.optimiser, steps, config.expert_bias_rate, mtp_loss_weight=weight)

    def keep_candidate(done: int) -> None:
        if done not in places:
            return
        folder = candidate(done)
        outbox.add(folder, learners.write_hf(outbox.place(folder), tokenizer_source))
        measured = measure(learners, held_out)
        outbox.send(f"{folder}/{MEASURES}", json.dumps(measured).encode() + b"\n")
        context.metrics({f"held_out/{name}": value for name, value in measured.items()}, done)

    last = run_steps(
        context,
        learners,
        begin=begin,
        probe=Probe([d.tokens for d in held_out], logprob_answer(learners), context.execution.device),
        total=steps,
        checkpoint_every=config.checkpoint_every,
        step=lambda index: learners.train_tokens([documents[i] for i in plan[index]], config.sequence_length),
        after=keep_candidate,
        describe=lambda metrics: f"loss {metrics['loss']:.3f} entropy {metrics['entropy']:.3f}",
    )
    measured = {step: json.loads(outbox.read(f"{candidate(step)}/{MEASURES}")) for step in places}
    if config.choose == "loss":
        selection = lowest_loss(measured)
    else:
        selection = select(measured, config.entropy_low, config.entropy_high)
    (context.output / "selection.json").write_text(json.dumps(selection, indent=2) + "\n")
    chosen = selection["chosen"]
    outbox.copy(candidate(chosen), "model", without=(MEASURES,))
    tokens = sum(len(documents[i].tokens) for batch in plan for i in batch)
    return {
        "loss": last["loss"],
        "held_out_loss": measured[chosen]["loss"],
        "entropy": measured[chosen]["entropy"],
        "chosen_step": chosen,
        "selection": selection["reason"],
        "steps": steps,
        "tokens": tokens,
        "documents": len(documents),
        "dropped": len(dropped),
    }


def candidate(step: int | str) -> str:
    """Its folder in the artifact."""
    return f"candidates/{step}"


def candidate_steps(steps: int, count: int) -> list[int]:
    """Evenly spaced step numbers, the last one included."""
    return sorted({max(1, round(steps * (index + 1) / count)) for index in range(count)})


def measure(learners: LearnerGroup, held_out: list[Sequence]) -> dict[str, float]:
    """{entropy, loss}: means over the response tokens of the held-out documents, in nats."""
    scored = learners.logprobs(held_out)
    return {
        "entropy": float(np.concatenate([entropy for _, entropy in scored]).mean(dtype=np.float64)),
        "loss": float(-np.concatenate([logprobs for logprobs, _ in scored]).mean(dtype=np.float64)),
    }


def select(measured: dict[int, dict[str, float]], low: float, high: float) -> dict[str, Any]:
    """The candidate whose entropy is nearest to [low, high]; among several inside, the longest trained.

    measured: step -> {entropy, loss}. Returns the content of selection.json.
    """

    def distance(step: int) -> float:
        entropy = measured[step]["entropy"]
        return max(low - entropy, entropy - high, 0.0)

    chosen = min(measured, key=lambda step: (distance(step), -step))
    entropy, gap = measured[chosen]["entropy"], distance(chosen)
    inside = sum(distance(step) == 0 for step in measured)
    if inside:
        reason = (
            f"entropy {entropy:.3f} lies in [{low:g}, {high:g}]; longest trained of {inside} such among {len(measured)}"
        )
    else:
        reason = f"no candidate lies in [{low:g}, {high:g}]; entropy {entropy:.3f} is nearest, off by {gap:.3f}"
    return {
        "rule": "held-out token entropy nearest to the interval (arXiv 2506.14731, 4.3)",
        "low": low,
        "high": high,
        "candidates": [{"step": step, **measured[step], "distance": distance(step)} for step in sorted(measured)],
        "chosen": chosen,
        "reason": reason,
    }


def lowest_loss(measured: dict[int, dict[str, float]]) -> dict[str, Any]:
    """The candidate that knows held-out records best, for a model that no RL follows; arguments as `select`."""
    chosen = min(measured, key=lambda step: (measured[step]["loss"], -step))
    return {
        "rule": "lowest held-out loss",
        "candidates": [{"step": step, **measured[step]} for step in sorted(measured)],
        "chosen": chosen,
        "reason": f"held-out loss {measured[chosen]['loss']:.3f} is the lowest of {len(measured)} candidates",
    }


def _hold_out(documents: list[Sequence], seed: int) -> tuple[list[Sequence], list[Sequence]]:
    """(documents to train on, documents entropy is measured on); a single document serves as both."""
    count = min(HELD_OUT, int(len(documents) * HELD_OUT_FRACTION)) or 1
    if len(documents) == 1:
        return documents, documents
    chosen = set(np.random.default_rng([seed, 1]).choice(len(documents), count, replace=False).tolist())
    return (
        [document for index, document in enumerate(documents) if index not in chosen],
        [document for index, document in enumerate(documents) if index in chosen],
    )
