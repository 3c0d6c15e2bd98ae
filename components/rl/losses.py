"""Policy losses as pure functions of token tensors. The trainer calls whichever it is given and knows none by name.

Two ratios are easily confused (arXiv 2510.18855, section 4.1):
    k = pi_train(y; theta_old) / pi_infer(y; theta_old)    two engines, same weights; detached
    r = pi_train(y; theta)     / pi_train(y; theta_old)    one engine, two weights; carries the gradient
and each token adds, with its advantage A and its factor w (which holds every denominator),

    loss = -w * [ M(k) * min(r A, clip(r, 1 - eps, 1 + eps) A) - gamma * KL(pi_theta || pi_ref) ]

    IcePop   M(k) = k inside [alpha, beta], else 0     a weight and a mask; the masked token stays in the denominator
    TIS      M(k) = min(k, C)                          (fengyao.notion.site/off-policy-rl; C = 2)
    KPop     M(k) = k where the binary KL of p_train and p_infer is at most phi both ways, else 0  (arXiv 2606.15079)
    GRPO     M(k) = 1      also GSPO, Dr.GRPO and C3PO, which differ elsewhere:

    GSPO     r is the geometric mean of its response's ratios, one for the whole response       (arXiv 2507.18071)
    Dr.GRPO  A is not divided by the group's deviation; w has a constant instead of the length   (arXiv 2503.20783)
    C3PO     w = 1 / Phi                                                                         (arXiv 2506.14731)

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

from components.recipe.rl import GrpoLoss, GspoLoss, IcePopLoss, KPopLoss, Loss, TisLoss
from components.rl.mismatch import mismatch_sums
from components.training.types import LossResult, PolicyLoss, PolicyTokens

# (log k, log pi_infer), [tokens] each and finite -> M [tokens].
Correction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class IcePopCorrection:
    """log k -> M(k) = k inside [alpha, beta], 0 outside; both bounds belong to the inside."""

    alpha: float
    beta: float

    def __call__(self, log_k: Tensor, behaviour: Tensor | None = None) -> Tensor:
        inside = (log_k >= math.log(self.alpha)) & (log_k <= math.log(self.beta))
        return torch.where(inside, torch.where(inside, log_k, 0.0).exp(), 0.0)


@dataclass(frozen=True)
class TruncatedCorrection:
    """log k -> min(k, cap)."""

    cap: float

    def __call__(self, log_k: Tensor, behaviour: Tensor | None = None) -> Tensor:
        return log_k.clamp(max=math.log(self.cap)).exp()


@dataclass(frozen=True)
class NoCorrection:
    """log k -> 1."""

    def __call__(self, log_k: Tensor, behaviour: Tensor | None = None) -> Tensor:
        return torch.ones_like(log_k)


@dataclass(frozen=True)
class BinaryKlCorrection:
    """(log k, log q) -> k where KL(p || q) and KL(q || p) of Bernoulli(p) and Bernoulli(q) are at most phi; else 0.

    Two outcomes, the drawn token and any other: a lower bound of the full KL, known without the other tokens' logits.
    Computed in float64, where 1 - p is exact enough; a probability of 1 against one below 1 is infinitely far.
    """

    phi: float

    def __call__(self, log_k: Tensor, behaviour: Tensor) -> Tensor:
        log_q = behaviour.double().clamp(max=0.0)
        log_p = (behaviour.double() + log_k.double()).clamp(max=0.0)
        kept = (binary_kl(log_p, log_q) <= self.phi) & (binary_kl(log_q, log_p) <= self.phi)
        return torch.where(kept, torch.where(kept, log_k, 0.0).exp(), 0.0)


def binary_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(Bernoulli(p) || Bernoulli(q)) in nats, elementwise; inf where p has an outcome that q has not."""
    rest_p, rest_q = -torch.expm1(log_p), -torch.expm1(log_q)
    other = torch.where(rest_p > 0, rest_p * (rest_p.log() - rest_q.log()), 0.0)
    return log_p.exp() * (log_p - log_q) + other


@dataclass(frozen=True)
class TokenRatio:
    """log r of every token as it is."""

    def __call__(self, log_r: Tensor, response: Tensor) -> Tensor:
        return log_r


@dataclass(frozen=True)
class SequenceRatio:
    """log r -> the mean of log r over the token's response, which must be whole in the micro-batch. Carries gradient.

    With w = 1 / (|y| N) the |y| equal terms of a response add up to its one term of GSPO.
    """

    def __call__(self, log_r: Tensor, response: Tensor) -> Tensor:
        if not response.numel():
            return log_r
        counts = torch.bincount(response)
        sums = torch.zeros(len(counts), dtype=log_r.dtype, device=log_r.device).index_add(0, response, log_r)
        return (sums / counts.clamp(min=1))[response]


@dataclass(frozen=True)
class ClippedPolicyLoss:
    """The loss above for one correction M. Picklable, so it travels to the learners.

    clip_epsilon, clip_epsilon_high: clipping below and above 1; equal when the second is absent.
    level: what r is a ratio of, a token or a response.
    engine_is_old: r divides by the engine's log-probs instead of the trainer's: plain GRPO as commonly written, which
        hides the mismatch. Only for comparison.
    """

    correction: Correction
    clip_epsilon: float
    kl_coefficient: float
    engine_is_old: bool = False
    clip_epsilon_high: float | None = None
    level: TokenRatio | SequenceRatio = TokenRatio()

    def __call__(self, tokens: PolicyTokens) -> LossResult:
        old = tokens.behaviour_logprobs if self.engine_is_old else tokens.old_logprobs
        log_k = (tokens.old_logprobs - tokens.behaviour_logprobs).detach()
        log_r = tokens.logprobs - old.detach()
        finite = torch.isfinite(log_k) & torch.isfinite(log_r.detach())
        # where() before exp(): the gradient of a token left out by multiplication with 0 would be 0 * inf = nan.
        known_k, known_q = torch.where(finite, log_k, 0.0), torch.where(finite, tokens.behaviour_logprobs, 0.0)
        correction = torch.where(finite, self.correction(known_k, known_q), 0.0)
        ratio = self.level(torch.where(finite, log_r, 0.0), tokens.response).exp()
        low, high = 1 - self.clip_epsilon, 1 + (self.clip_epsilon_high or self.clip_epsilon)
        clipped = ratio.clamp(low, high)
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
        beyond = torch.where(tokens.advantages > 0, ratio > high, ratio < low)
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
    if isinstance(config, KPopLoss):
        return BinaryKlCorrection(config.phi)
    return NoCorrection()


def policy_loss(config: Loss) -> PolicyLoss:
    """The loss a recipe names, ready to be sent to the learners."""
    if isinstance(config, GspoLoss):
        return ClippedPolicyLoss(
            correction_of(config),
            config.clip_low,
            config.kl_coefficient,
            clip_epsilon_high=config.clip_high,
            level=SequenceRatio(),
        )
    return ClippedPolicyLoss(
        correction_of(config),
        config.clip_epsilon,
        config.kl_coefficient,
        engine_is_old=isinstance(config, GrpoLoss) and config.old_policy == "engine",
    )
