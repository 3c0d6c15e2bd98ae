"""A stage's scalars as Prometheus metrics: the few that a dashboard shows, by the names the stages log them under."""

from __future__ import annotations

import re
from collections.abc import Mapping

from components.telemetry.metrics import listening, put

PART = re.compile(r"time/(\w+)_s")

# What the RL loop and the loops of components.training.loop log -> the metric.
SHOWN: Mapping[str, str] = {
    "time/step_s": "ringflow_step_seconds",
    "seconds": "ringflow_step_seconds",
    "rollout/tokens_per_s": "ringflow_tokens_per_second",
    "tokens_per_second": "ringflow_tokens_per_second",
    "reward/mean": "ringflow_reward_mean",
    "reward/error_fraction": "ringflow_reward_error_ratio",
    "mismatch/infer_train_kl": "ringflow_mismatch_kl",
    "mismatch/mean_abs_dlogp": "ringflow_mismatch_mean_abs_dlogp",
    "mismatch/max_abs_dlogp": "ringflow_mismatch_max_abs_dlogp",
    "staleness/mean": "ringflow_staleness_mean_steps",
    "rollout/length_mean": "ringflow_response_tokens_mean",
    "rollout/truncated_fraction": "ringflow_response_truncated_ratio",
    "train/loss": "ringflow_loss",
    "loss": "ringflow_loss",
    "train/grad_norm": "ringflow_gradient_norm",
    "grad_norm": "ringflow_gradient_norm",
}


def measured(stage: str, values: Mapping[str, float], step: int) -> None:
    """Shows what a stage logs at a step; of other values nothing is said."""
    for name, value in values.items():
        if name in SHOWN:
            put(SHOWN[name], value, stage=stage)
        elif part := PART.fullmatch(name):
            put("ringflow_step_part_seconds", value, stage=stage, part=part[1])
    put("ringflow_step", step, stage=stage)


def measured_here(stage: str, values: Mapping[str, float], step: int) -> None:
    """The same, if this process has an endpoint that shows it."""
    if listening():
        measured(stage, values, step)
