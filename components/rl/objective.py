"""What a loss's name means outside the loss function: advantages, denominators, and which responses are trained on.

The weight of a token is 1 / divisor(|y|, responses, updates), with N = `responses` of the step (see batch) and m
`updates` that the step is cut into:

    IcePop, TIS, KPop, GRPO, GSPO   |y| * N / m      mean over responses of a mean over the response's original length
    Dr.GRPO                         L * N / m        L one constant for all responses (arXiv 2503.20783)
    C3PO                            Phi / m          Phi the step's token budget, met or not (arXiv 2506.14731)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from components.recipe.rl import C3poLoss, DrGrpoLoss, Loss
from components.rl.advantages import GroupAdvantages, group_advantages
from components.rl.losses import Correction, correction_of, policy_loss
from components.training.types import PolicyLoss

# (response's length, responses counted in the step, updates of the step) -> what each of its tokens is divided by.
Divisor = Callable[[int, int, int], float]


def response_mean(length: int, responses: int, updates: int) -> float:
    return length * (responses / updates)


@dataclass(frozen=True)
class ConstantLength:
    """Every response divided by the same number of tokens."""

    tokens: int

    def __call__(self, length: int, responses: int, updates: int) -> float:
        return self.tokens * (responses / updates)


@dataclass(frozen=True)
class FixedBudget:
    """The step's budget of tokens, whatever the step holds."""

    tokens: int

    def __call__(self, length: int, responses: int, updates: int) -> float:
        return self.tokens / updates


@dataclass(frozen=True)
class Objective:
    """One algorithm as data: the loop calls its parts and knows none by name.

    token_budget: responses are trained on in order until these many tokens are reached; None: all of them.
    """

    loss: PolicyLoss
    correction: Correction
    advantages: Callable[[Sequence[float | None]], GroupAdvantages] = group_advantages
    divisor: Divisor = response_mean
    token_budget: int | None = None


def objective_of(config: Loss, max_new_tokens: int) -> Objective:
    """The objective a recipe names. max_new_tokens: generation budget of the phase, Dr.GRPO's default divisor."""
    loss, correction = policy_loss(config), correction_of(config)
    if isinstance(config, DrGrpoLoss):
        plain = partial(group_advantages, by_deviation=False)
        return Objective(loss, correction, plain, ConstantLength(config.length or max_new_tokens))
    if isinstance(config, C3poLoss):
        budget = config.token_budget
        return Objective(loss, correction, divisor=FixedBudget(budget), token_budget=budget)
    return Objective(loss, correction)
