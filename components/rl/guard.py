"""The mismatch guard: a pure state machine that reads a step's metrics and says ok, warn or stop, with a diagnosis.

Trouble starts where the discrepancy of trainer and engine passes about 0.05 (arXiv 2510.18855, appendix C); a run whose
verifier fails trains on noise; a loss or gradient that is not finite has already destroyed something. A violation
warns; `patience` violations in a row stop; what can only get worse stops at once. No clients and no clocks inside.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from components.recipe.rl import GuardConfig

# Right weights in float32 differ by 1e-6 and in bfloat16 by 2e-3; stale experts differ by 0.9 (FACTS 5 and 6). A mean
# above this is no drift: the engine runs other weights, another tokenizer or other probabilities. Stop at once.
BROKEN_MEAN_ABS_DLOGP = 0.5


@dataclass(frozen=True)
class Verdict:
    """action: what the controller does. diagnosis: what was seen and the likely cause; empty when ok."""

    action: Literal["ok", "warn", "stop"]
    diagnosis: str = ""


class Guard:
    """Feed it the metrics of each step, in order; keep its state with the resume point."""

    def __init__(self, config: GuardConfig) -> None:
        self.config = config
        self.violations: dict[str, int] = {}

    def observe(self, metrics: Mapping[str, float]) -> Verdict:
        """The verdict on one step's rollouts, before they are trained on. Missing metrics are not judged."""
        at_once = self._fatal(metrics)
        if at_once:
            return Verdict("stop", at_once)
        seen = self._violations(metrics)
        self.violations = {name: self.violations.get(name, 0) + 1 for name in seen}
        lasting = [text for name, text in seen.items() if self.violations[name] >= self.config.patience]
        if lasting:
            return Verdict("stop", f"{'; '.join(lasting)}, {self.config.patience} steps in a row")
        return Verdict("warn", "; ".join(seen.values())) if seen else Verdict("ok")

    def observe_update(self, metrics: Mapping[str, float]) -> Verdict:
        """The verdict on what an update did: loss and gradient norm must be finite."""
        for name in ("train/loss", "train/grad_norm"):
            if name in metrics and not math.isfinite(metrics[name]):
                return Verdict("stop", f"{name} is {metrics[name]}: learning rate too high, or a log-prob overflowed")
        return Verdict("ok")

    def state_dict(self) -> dict[str, Any]:
        return {"violations": dict(self.violations)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.violations = dict(state["violations"])

    def _fatal(self, metrics: Mapping[str, float]) -> str:
        mean = _engine_mismatch(metrics)
        if not mean <= BROKEN_MEAN_ABS_DLOGP:
            return (
                f"mean |log pi_train - log pi_infer| is {mean:.3g}: the engine does not run the trainer's weights "
                "(stale experts, another tokenizer or raw instead of processed log-probs)"
            )
        return ""

    def _violations(self, metrics: Mapping[str, float]) -> dict[str, str]:
        bound = self.config
        seen = {}
        mean = _engine_mismatch(metrics)
        if mean > bound.max_mean_abs_dlogp:
            seen["mismatch"] = (
                f"mean |log pi_train - log pi_infer| {mean:.3g} passes {bound.max_mean_abs_dlogp:g} "
                "(engine precision, or a learning rate too high for it)"
            )
        stale = metrics.get("mismatch/stale_mean_abs_dlogp", 0.0)
        if stale > bound.max_stale_mean_abs_dlogp:
            seen["stale mismatch"] = (
                f"mean |log pi_train - log pi_infer| of tokens drawn by older weights {stale:.3g} passes "
                f"{bound.max_stale_mean_abs_dlogp:g} (staleness too high for the learning rate, or other weights in "
                "the engine)"
            )
        errors = metrics.get("reward/error_fraction", 0.0)
        if errors > bound.max_reward_error_fraction:
            seen["reward errors"] = (
                f"{errors:.1%} of the verifications failed, allowed {bound.max_reward_error_fraction:.1%} "
                "(sandbox or verifier broken; failed ones are masked, never scored 0)"
            )
        return seen


def _engine_mismatch(metrics: Mapping[str, float]) -> float:
    """Mean |dlogp| of the tokens that the present weights drew: with older ones among them, what was learned since they
    were drawn is no fault of the engine. 0 when every token is older."""
    if "mismatch/stale_mean_abs_dlogp" in metrics:
        return metrics.get("mismatch/fresh_mean_abs_dlogp", 0.0)
    return metrics.get("mismatch/mean_abs_dlogp", 0.0)
