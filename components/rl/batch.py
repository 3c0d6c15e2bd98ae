"""From rollouts and rewards to what the learner trains on: groups, advantages, and weights with every denominator.

The objective is a mean over prompts of a mean over the group of a mean over the response's ORIGINAL length (arXiv
2510.18855, eq. 1). The expectation is over prompts as they are drawn, so a group without signal adds zero to the sum
and still counts in the mean: N is every response of the step that has a reward, filtered ones too. A step with few
informative groups therefore takes a smaller step and not a louder one. Surplus groups of over-sampling were never part
of the step. With m minibatches each update averages over N / m responses. Objectives that divide by something else say
so in components.rl.objective.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from components.rewards.types import Reward
from components.rl.advantages import GroupAdvantages, group_advantages
from components.rl.objective import Divisor, response_mean
from components.rollout.types import Sample
from components.training.types import PolicySequence
from components.training.types import Sequence as TokenSequence


@dataclass(frozen=True)
class Prompt:
    """One RL prompt, ready to sample: token ids, rendered text, and how its responses are checked."""

    id: str
    domain: str
    family: str
    tokens: list[int]
    text: str
    verifier: Any


@dataclass(frozen=True)
class Group:
    """All responses to one drawn prompt, with their rewards, in member order."""

    prompt: int
    samples: tuple[Sample, ...]
    rewards: tuple[Reward, ...]


@dataclass(frozen=True)
class Selection:
    """What became of the groups of a step.

    trained: (sample, advantage) of the responses to train on, whole groups one after another, in draw order.
    group_sizes: responses of each trained group, for cutting minibatches between groups.
    counted: N, the responses the step's mean is over.
    outcomes: prompt -> what the ledger shall record, in draw order.
    over_budget: responses left out because the token budget was reached before them.
    """

    trained: list[tuple[Sample, float]]
    group_sizes: list[int]
    counted: int
    outcomes: list[tuple[int, str]]
    over_budget: int = 0


def select(
    groups: Sequence[Group],
    wanted: int,
    advantages: Callable[[Sequence[float | None]], GroupAdvantages] = group_advantages,
    token_budget: int | None = None,
) -> Selection:
    """Takes the first `wanted` informative groups in draw order; drops groups of equal rewards and masks errors.

    token_budget: whole responses are taken in order while fewer tokens than this were taken (arXiv 2506.14731, eq. 3).
    """
    trained: list[tuple[Sample, float]] = []
    sizes: list[int] = []
    outcomes: list[tuple[int, str]] = []
    counted = taken = over_budget = 0
    for group in groups:
        if len(sizes) == wanted or (token_budget is not None and taken >= token_budget):
            over_budget += len(group.samples) if len(sizes) < wanted else 0
            outcomes.append((group.prompt, "surplus"))
            continue
        values = [reward.value for reward in group.rewards]
        counted += sum(value is not None for value in values)
        if all(value is None for value in values):
            outcomes.append((group.prompt, "failed"))
            continue
        result = advantages(values)
        if not result.informative:
            outcomes.append((group.prompt, "filtered"))
            continue
        members = [
            (sample, advantage)
            for sample, advantage in zip(group.samples, result.advantages, strict=True)
            if advantage is not None
        ]
        if token_budget is not None:
            before = len(members)
            members = _within(members, token_budget - taken)
            taken += sum(len(sample.tokens) for sample, _ in members)
            over_budget += before - len(members)
        trained += members
        sizes.append(len(members))
        outcomes.append((group.prompt, "trained"))
    return Selection(trained, sizes, counted, outcomes, over_budget)


def _within(members: list[tuple[Sample, float]], budget: int) -> list[tuple[Sample, float]]:
    """Members in order up to and with the one that reaches the budget."""
    taken = 0
    for at, (sample, _) in enumerate(members):
        taken += len(sample.tokens)
        if taken >= budget:
            return members[: at + 1]
    return members


def pass_rate(group: Group) -> float | None:
    """Share of right answers; None where answers are scored by degrees, or one has no reward."""
    if any(reward.verdict in ("scored", "error") for reward in group.rewards):
        return None
    return sum(reward.verdict == "correct" for reward in group.rewards) / len(group.rewards)


def token_sequence(sample: Sample) -> TokenSequence:
    """Prompt and response with the loss on the response only."""
    tokens = np.array(sample.prompt + sample.tokens, dtype=np.int64)
    mask = np.zeros(len(tokens), dtype=bool)
    mask[len(sample.prompt) :] = True
    return TokenSequence(tokens=tokens, loss_mask=mask, experts=sample.experts)


def policy_sequences(
    selection: Selection,
    old_logprobs: Sequence[np.ndarray],
    reference_logprobs: Sequence[np.ndarray] | None,
    minibatches: int,
    divisor: Divisor = response_mean,
) -> list[list[PolicySequence]]:
    """The step's minibatches, cut between groups; at most `minibatches` of them, none empty.

    old_logprobs, reference_logprobs: one [response length] array per trained response.
    """
    if not selection.trained:
        return []
    count = min(minibatches, len(selection.group_sizes))
    sequences = []
    for i, (sample, advantage) in enumerate(selection.trained):
        plain, length = token_sequence(sample), len(sample.tokens)
        sequences.append(
            PolicySequence(
                tokens=plain.tokens,
                loss_mask=plain.loss_mask,
                experts=plain.experts,
                behaviour_logprobs=np.array(sample.logprobs, dtype=np.float32),
                old_logprobs=np.asarray(old_logprobs[i], dtype=np.float32),
                reference_logprobs=None
                if reference_logprobs is None
                else np.asarray(reference_logprobs[i], dtype=np.float32),
                advantages=np.full(length, advantage, dtype=np.float32),
                weights=np.full(length, 1.0 / divisor(length, selection.counted, count), dtype=np.float32),
            )
        )
    ends = np.cumsum(selection.group_sizes)
    cuts = [0] + [int(ends[round(len(ends) * (part + 1) / count) - 1]) for part in range(count)]
    return [sequences[start:stop] for start, stop in itertools.pairwise(cuts)]


def rollout_metrics(groups: Sequence[Group], selection: Selection, domain_of: Callable[[int], str]) -> dict[str, float]:
    """Rewards, lengths and what was filtered in one step."""
    samples = [sample for group in groups for sample in group.samples]
    rewards = [reward for group in groups for reward in group.rewards]
    lengths = np.array([len(sample.tokens) for sample in samples])
    known = [reward.value for reward in rewards if reward.value is not None]
    outcomes = [outcome for _, outcome in selection.outcomes]
    metrics = {
        "reward/error_fraction": sum(reward.verdict == "error" for reward in rewards) / len(rewards),
        "reward/no_answer_fraction": sum(reward.verdict == "no-answer" for reward in rewards) / len(rewards),
        "rollout/length_mean": float(lengths.mean()),
        "rollout/length_max": float(lengths.max()),
        "rollout/truncated_fraction": sum(sample.finish == "length" for sample in samples) / len(samples),
        "rollout/tokens": float(lengths.sum()),
        "groups/drawn": float(len(groups)),
        "groups/trained": float(outcomes.count("trained")),
        "groups/filtered": float(outcomes.count("filtered")),
        "groups/surplus": float(outcomes.count("surplus")),
        "groups/failed": float(outcomes.count("failed")),
        "rollout/over_budget": float(selection.over_budget),
    }
    if known:
        metrics["reward/mean"] = float(np.mean(known))
    for domain in sorted({domain_of(group.prompt) for group in groups}):
        part = [
            reward.value
            for group in groups
            if domain_of(group.prompt) == domain
            for reward in group.rewards
            if reward.value is not None
        ]
        if part:
            metrics[f"reward/{domain}"] = float(np.mean(part))
    return metrics
