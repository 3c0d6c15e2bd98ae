"""How far the engine's policy is from the trainer's, with the same weights: the numbers of the paper's section 4.

With d = log pi_train(theta_old) - log pi_infer of each drawn token, k = exp(d):
    mean and max |d|; KL(infer || train) as k3, mean of k - 1 - d over tokens drawn from the engine; fractions rejected
    low and high; effective sample size (sum M)^2 / (n sum M^2); quantiles of k; entropy of masked and of kept tokens.
`mismatch_sums` gives what adds up over micro-batches and ranks, `mismatch_report` the whole of one step.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

# exp of more than this overflows float32; such tokens count as rejected high, their KL is reported at this cap.
LARGEST_LOG_RATIO = 60.0
# The paper's bounds of k: counted for every loss, so that losses that mask nothing can be compared with one that does.
PAPER_LOW, PAPER_HIGH = 0.5, 5.0


def mismatch_sums(log_k: Tensor, correction: Tensor, entropy: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(sums, maxima) of one micro-batch. log_k, correction, entropy: [tokens]; log_k may be non-finite."""
    finite = torch.isfinite(log_k)
    d = torch.where(finite, log_k, 0.0)
    capped = d.clamp(max=LARGEST_LOG_RATIO)
    masked = correction == 0
    sums = {
        "tokens": torch.ones_like(d).sum(),
        "nonfinite": (~finite).float().sum(),
        "masked_low": (masked & finite & (d < 0)).float().sum(),
        "masked_high": (masked & finite & (d > 0)).float().sum(),
        "abs_dlogp": d.abs().sum(),
        "infer_train_kl": (capped.exp() - 1 - capped).sum(),
        "correction": correction.sum(),
        "correction_squared": correction.square().sum(),
        "entropy": entropy.sum(),
        "masked_entropy": torch.where(masked, entropy, 0.0).sum(),
    }
    largest = d.abs().max() if d.numel() else d.sum()
    return sums, {"abs_dlogp": largest}


def mismatch_report(
    old_logprobs: np.ndarray, behaviour_logprobs: np.ndarray, correction: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, float]:
    """Metrics of a whole step, before any update. Both arrays: [tokens], all trained responses one after another."""
    behaviour = torch.from_numpy(np.array(behaviour_logprobs, np.float32))
    log_k = torch.from_numpy(np.asarray(old_logprobs, np.float32) - behaviour.numpy())
    finite = torch.isfinite(log_k)
    known = [torch.where(finite, values, 0.0) for values in (log_k, behaviour)]
    weight = torch.where(finite, correction(*known), 0.0)
    sums, maxima = mismatch_sums(log_k, weight, torch.zeros_like(log_k))
    total = {name: float(value) for name, value in sums.items()}
    n = max(total["tokens"], 1.0)
    report = {
        "mismatch/mean_abs_dlogp": total["abs_dlogp"] / n,
        "mismatch/max_abs_dlogp": float(maxima["abs_dlogp"]),
        "mismatch/mean_dlogp": float(known[0].sum()) / n,
        "mismatch/infer_train_kl": total["infer_train_kl"] / n,
        "mismatch/rejected_low": total["masked_low"] / n,
        "mismatch/rejected_high": total["masked_high"] / n,
        "mismatch/nonfinite": total["nonfinite"] / n,
        "mismatch/ess": total["correction"] ** 2 / (n * total["correction_squared"])
        if total["correction_squared"]
        else 0.0,
    }
    d = log_k[finite]
    report["mismatch/outside_low"] = float((d < math.log(PAPER_LOW)).sum()) / n
    report["mismatch/outside_high"] = float((d > math.log(PAPER_HIGH)).sum()) / n
    k = d.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).double().exp().numpy()
    for quantile in (0.001, 0.01, 0.5, 0.99, 0.999):
        report[f"mismatch/k_q{quantile * 100:g}"] = float(np.quantile(k, quantile)) if k.size else 1.0
    return report


def surprise_report(logprobs: np.ndarray, entropies: np.ndarray) -> dict[str, float]:
    """Were the tokens drawn from these log-probs? Then -log p minus the entropy has mean 0 at every position, given
    all positions before, so its mean over [tokens] is a sum of martingale differences and its standard error is known.

    errors: that mean in standard errors. share: over the mean entropy.
    """
    if len(logprobs) < 2 or not np.isfinite(logprobs).all():
        return {}
    gap = -np.asarray(logprobs, np.float64) - np.asarray(entropies, np.float64)
    error, entropy = gap.std() / math.sqrt(len(gap)), float(np.mean(entropies))
    if not (error and entropy):
        return {}
    return {
        "sampling/surprise_errors": float(gap.mean() / error),
        "sampling/surprise_share": float(gap.mean()) / entropy,
    }


def update_report(sums: dict[str, float], maxima: dict[str, float]) -> dict[str, float]:
    """Per-token means of what the loss summed over the updates of a step."""
    n = max(sums.get("tokens", 0.0), 1.0)
    masked = sums["masked_low"] + sums["masked_high"] + sums["nonfinite"]
    report = {
        "policy/entropy": sums["entropy"] / n,
        "policy/entropy_kept": (sums["entropy"] - sums["masked_entropy"]) / max(n - masked, 1.0),
        "policy/clip_fraction": sums["clipped"] / n,
        "policy/ratio_mean": sums["ratio"] / n,
        "policy/ratio_max": maxima["ratio"],
        "policy/update_nonfinite": sums["update_nonfinite"] / n,
    }
    if masked:  # without masked tokens there is no entropy of theirs, which 0 would claim
        report["policy/entropy_masked"] = sums["masked_entropy"] / masked
    if "reference_kl" in sums:
        report["policy/reference_kl"] = sums["reference_kl"] / n
    return report
