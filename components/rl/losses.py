"""Policy losses as pure functions of token tensors. The trainer calls whichever it is given and knows none by name.

Two ratios are easily confused (arXiv 2510.18855, section 4.1):
    k = pi_train(y; theta_old) / pi_infer(y; theta_old)    two engines, same weights; detached
    r = pi_train(y; theta)     / pi_train(y; theta_old)    one engine, two weights; carries the gradient
and each token adds, with its advantage A and its factor w (which holds every denominator),

    loss = -w * [ M(k) * min(r A, clip(r, 1 - eps, 1 + eps) A) - gamma * KL(pi_theta || pi_ref) ]

    IcePop   M(k) = k inside [alpha, beta], else 0     a weight and a mask; the masked token stays in the denominator
    TIS      M(k) = min(k, C)                          (fengyao.notion.site/off-policy-rl; C = 2)
    GRPO     M(k) = 1

KL is the k3 estimator, exp(d) - 1 - d with d = log pi_ref - log pi_theta (Schulman, "Approximating KL"), outside M.
Bounds are compared in log space, before exp, so k = inf is a large number and not an accident. A token whose log-ratio
is not finite has no defined policy gradient: it is masked and counted, whichever loss is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from components.recipe.rl import GrpoLoss, IcePopLoss, Loss, TisLoss
from components.rl.mismatch import mismatch_sums
from components.training.types import LossResult, PolicyLoss, PolicyTokens

Correction = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class IcePopCorrection:
    """log k -> M(k) = k inside [alpha, beta], 0 outside; both bounds belong to the inside."""

    alpha: float
    beta: float

    def __call__(self, log_k: Tensor) -> Tensor:
        inside = (log_k >= math.log(self.alpha)) & (log_k <= math.log(self.beta))
        return torch.where(inside, torch.where(inside, log_k, 0.0).exp(), 0.0)


@dataclass(frozen=True)
class TruncatedCorrection:
    """log k -> min(k, cap)."""

    cap: float

    def __call__(self, log_k: Tensor) -> Tensor:
        return log_k.clamp(max=math.log(self.cap)).exp()


@dataclass(frozen=True)
class NoCorrection:
    """log k -> 1."""

    def __call__(self, log_k: Tensor) -> Tensor:
        return torch.ones_like(log_k)


@dataclass(frozen=True)
class ClippedPolicyLoss:
    """The loss above for one correction M. Picklable, so it travels to the learners.

    engine_is_old: r divides by the engine's log-probs instead of the trainer's: plain GRPO as commonly written, which
        hides the mismatch. Only for comparison.
    """

    correction: Correction
    clip_epsilon: float
    kl_coefficient: float
    engine_is_old: bool = False

    def __call__(self, tokens: PolicyTokens) -> LossResult:
        old = tokens.behaviour_logprobs if self.engine_is_old else tokens.old_logprobs
        log_k = (tokens.old_logprobs - tokens.behaviour_logprobs).detach()
        log_r = tokens.logprobs - old.detach()
        finite = torch.isfinite(log_k) & torch.isfinite(log_r.detach())
        # where() before exp(): the gradient of a token left out by multiplication with 0 would be 0 * inf = nan.
        correction = torch.where(finite, self.correction(torch.where(finite, log_k, 0.0)), 0.0)
        ratio = torch.where(finite, log_r, 0.0).exp()
        clipped = ratio.clamp(1 - self.clip_epsilon, 1 + self.clip_epsilon)
        surrogate = torch.minimum(ratio * tokens.advantages, clipped * tokens.advantages)
        objective = correction * surrogate
        sums = {}
        if self.kl_coefficient:
            if tokens.reference_logprobs is None:
                raise ValueError("kl_coefficient > 0 needs reference_logprobs in every PolicySequence")
            difference = tokens.reference_logprobs.detach() - tokens.logprobs
            known = torch.isfinite(difference.detach())
            difference = torch.where(known, difference, 0.0)
            kl = difference.exp() - 1 - difference
            objective = objective - self.kl_coefficient * kl
            sums["reference_kl"] = kl.detach().sum()
        loss = -(tokens.weights * objective).sum()
        beyond = torch.where(tokens.advantages > 0, ratio > 1 + self.clip_epsilon, ratio < 1 - self.clip_epsilon)
        extra, maxima = mismatch_sums(log_k, correction, tokens.entropy)
        sums |= extra | {
            "clipped": (beyond & finite & (tokens.advantages != 0)).float().sum(),
            "ratio": ratio.detach().sum(),
            "update_nonfinite": (~finite).float().sum(),
        }
        return LossResult(loss=loss, sums=sums, maxima=maxima | {"ratio": ratio.detach().max()})


def correction_of(config: Loss) -> Correction:
    """M(k) of a loss, for the metrics of the whole batch."""
    if isinstance(config, IcePopLoss):
        return IcePopCorrection(config.alpha, config.beta)
    if isinstance(config, TisLoss):
        return TruncatedCorrection(config.cap)
    return NoCorrection()


def policy_loss(config: Loss) -> PolicyLoss:
    """The loss a recipe names, ready to be sent to the learners."""
    return ClippedPolicyLoss(
        correction_of(config),
        config.clip_epsilon,
        config.kl_coefficient,
        engine_is_old=isinstance(config, GrpoLoss) and config.old_policy == "engine",
    )
