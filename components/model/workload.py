"""What a recipe's training stages have to compute, in tokens: the load that a plan puts on a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from components.failures import BadInput
from components.model.memory import Method
from components.recipe.recipe import Recipe
from components.recipe.training import PretrainConfig

MEAN_LENGTH = 0.25  # of the longest answer; unpublished, measure yours
PROMPT = 2048  # longest prompt, tokens


@dataclass(frozen=True)
class Load:
    """One training stage as the plan sees it.

    tokens: trained on in one step. length: of a mean document, longest: of the longest row,
    together: rows that one micro-batch has to hold, two of a pair. updates: optimiser steps of
    a step. generated: tokens drawn in one step; in_flight: answers drawn at a time. overlaps: engines draw meanwhile.
    mtp: the MTP layer is trained.
    """

    name: str
    steps: int
    tokens: float
    length: float
    longest: int
    updates: int = 1
    generated: float = 0.0
    in_flight: int = 0
    overlaps: bool = False
    together: int = 1
    mtp: bool = False

    def micro_batch(self, method: Method) -> int:
        """Tokens of the largest one: as many as the method's, more only where a row is longer."""
        return max(self.together * self.longest, method.micro_batch)


def sft_steps(recipe: Recipe) -> int:
    """Raises BadInput where the recipe counts in epochs: without the data nobody knows how many steps that is."""
    if recipe.sft.steps is None:
        raise BadInput(
            "how many steps the epochs come to is the data's to say", where="sft.steps", remedy="Add --set sft.steps=N"
        )
    return recipe.sft.steps


def loads_of(recipe: Recipe, mean_length: float = MEAN_LENGTH) -> list[Load]:
    """The training stages of a recipe; without evaluations and pass-rate, whose number of items is the data's."""
    sft, judge = recipe.sft, recipe.reward_model
    found = []
    if isinstance(recipe.base, PretrainConfig):
        base = recipe.base
        row, mtp = base.sequence_length, bool(base.mtp_loss_weight)
        found.append(Load("base", base.steps, base.tokens_per_step, row / 2, row, mtp=mtp))
    row, mtp = sft.sequence_length, bool(sft.mtp_loss_weight)
    found.append(Load("sft", sft_steps(recipe), sft.tokens_per_step, row / 2, row, mtp=mtp))
    phases = [(f"rlvr-{number}", phase) for number, phase in enumerate(recipe.rlvr, start=1)]
    for name, phase in (*phases, *([("rlhf", recipe.rlhf)] if recipe.rlhf is not None else ())):
        rollout = phase.rollout
        answers = rollout.prompts_per_step * rollout.group_size
        mean = mean_length * rollout.max_new_tokens
        generated = rollout.token_budget or answers * mean * rollout.oversample
        found.append(
            Load(
                name,
                phase.steps,
                min(generated, answers * mean) if rollout.token_budget is None else generated,
                mean,
                rollout.max_new_tokens + PROMPT,
                phase.minibatches,
                generated,
                rollout.pool or ceil(answers * rollout.oversample),
                rollout.mode == "async",
            )
        )
    if judge is not None:
        half = judge.sequence_length / 2
        tokens = judge.pairs_per_step * 2 * half
        load = Load("reward-model", judge.steps, tokens, half, judge.sequence_length, together=2)
        found.insert(-1, load)
    return found
