"""The zero-learning-rate probe: the whole loop, sampling to weight exchange, with updates that change nothing.

At 1e-30 an AdamW step is smaller than the last bit of any weight, so weights must come out bit for bit as they went in,
and the mismatch of step 40 must be that of step 1: whatever drifts, drifts in the machinery. The guard acts.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from components.artifacts.local import LocalContext
from components.failures import Diverged
from components.recipe.execution import ExecutionConfig
from components.recipe.rl import GuardConfig, IcePopLoss
from components.rl.ledger import PromptMixture
from flows.bench import Bench, Figure
from flows.bench.icepop import Condition, HeldOut, Rounding, Workplace, phase

LR = 1e-30
# Both halves are means over hundreds of thousands of tokens; their difference is judged by its own standard error.
MOST_ERRORS = 4.0


def run_probe(place: Workplace, steps: int, precision: str) -> Bench:
    """Raises Diverged when weights or mismatch moved, or the guard said anything."""
    from components.rl.controller import train_rl

    condition = Condition(precision, LR, steps)
    config = phase(IcePopLoss(), condition, GuardConfig())
    stop = (place.tokenizer.eos_token_id,)
    place.learners.load_hf(place.folder / "start")
    place.learners.configure(config.optimiser, steps * condition.minibatches, expert_bias_rate=0.0)
    before = digest(place)
    with tempfile.TemporaryDirectory() as folder:
        context = LocalContext(Path(folder), "probe", 0, ExecutionConfig(learners=1, engines=1))
        held_out = HeldOut(place.held_out, place.decode, place.scorer, stop)
        engines = Rounding(place.engine, condition, held_out, context)
        mixture = PromptMixture([(range(len(place.prompts)), 1.0)], 0)
        summary = train_rl(
            context, place.learners, engines, place.scorer, place.prompts, mixture, config, place.decode, stop
        )
        means = [value for _, value in context.series("mismatch/mean_abs_dlogp")]
        largest = [value for _, value in context.series("mismatch/max_abs_dlogp")]
    place.scorer.close()
    errors = drift(means)
    problems = [f"the guard said: {line}" for line in summary.warnings]
    problems += [f"weights were {before}, are {after}"] if (after := digest(place)) != before else []
    problems += [f"mean |dlogp| moved by {errors:.1f} standard errors"] if abs(errors) > MOST_ERRORS else []
    if problems:
        raise Diverged("the probe at a learning rate of zero drifted: " + "; ".join(problems))
    half = len(means) // 2
    figures = {
        "mean |dlogp|, first half": Figure.of(means[:half], "nats"),
        "mean |dlogp|, second half": Figure.of(means[half:], "nats"),
        "drift of the mean": Figure(errors, "standard errors", errors, errors),
        "max |dlogp|": Figure.of(largest, "nats"),
    }
    setup = {"steps": steps, "learning_rate": LR, "engine": precision, "weights_sha256": before, "guard": "silent"}
    return Bench(figures, setup)


def drift(values: Sequence[float]) -> float:
    """Second half's mean minus the first's, in standard errors of that difference."""
    half = len(values) // 2
    first, second = np.asarray(values[:half]), np.asarray(values[half:])
    error = np.sqrt(first.var(ddof=1) / len(first) + second.var(ddof=1) / len(second))
    return float((second.mean() - first.mean()) / error) if error else 0.0


def digest(place: Workplace) -> str:
    weights = place.learners.weights()
    return hashlib.sha256(b"".join(weights[name].tobytes() for name in sorted(weights))).hexdigest()[:16]
