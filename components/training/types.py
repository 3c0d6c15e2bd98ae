"""Batches a learner takes, as plain arrays so that they cross process boundaries without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch


@dataclass(frozen=True)
class Sequence:
    """One document for SFT, or one prompt plus response for RL.

    tokens: [length] int64 token ids.
    loss_mask: [length] bool; position t is True when predicting token t counts (responses only). loss_mask[0] is False.
    experts: [length - 1, sparse layers, topk] experts to route every token but the last to, as the engine did; None:
        the router chooses. All sequences of a call have them, or none.
    """

    tokens: np.ndarray
    loss_mask: np.ndarray
    experts: np.ndarray | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class PolicySequence(Sequence):
    """A scored rollout. Arrays are over the response tokens only, [response length], in order.

    behaviour_logprobs: the engine's processed log-probs when it drew the tokens (pi_infer).
    old_logprobs: the trainer's log-probs at the start of this update (pi_train(theta_old)).
    reference_logprobs: of the reference policy, or None when the KL coefficient is 0.
    advantages: per token.
    weights: per token factor of the objective, e.g. 1 / (|y_i| * responses in the step): denominators are explicit.
    """

    behaviour_logprobs: np.ndarray
    old_logprobs: np.ndarray
    reference_logprobs: np.ndarray | None
    advantages: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class PolicyTokens:
    """What a policy loss sees: all response tokens of one micro-batch, flat, [n] float32 each.

    `logprobs` carries gradient (current theta). `entropy` is the policy's per-token entropy, detached.
    `response` [n] int64 says which response of the micro-batch a token belongs to.
    """

    logprobs: torch.Tensor
    old_logprobs: torch.Tensor
    behaviour_logprobs: torch.Tensor
    reference_logprobs: torch.Tensor | None
    advantages: torch.Tensor
    weights: torch.Tensor
    entropy: torch.Tensor
    response: torch.Tensor


@dataclass(frozen=True)
class LossResult:
    """loss: scalar, the weighted SUM over tokens (the weights hold every denominator, so micro-batches just add up).

    sums: scalar tensors that add up over micro-batches and ranks (counts, weighted sums).
    maxima: scalar tensors combined by maximum.
    """

    loss: torch.Tensor
    sums: Mapping[str, torch.Tensor]
    maxima: Mapping[str, torch.Tensor]


PolicyLoss = Callable[[PolicyTokens], LossResult]
