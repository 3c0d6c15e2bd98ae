"""From rollouts and rewards to what the learner trains on: groups, advantages, and weights with every denominator.

The objective is a mean over prompts of a mean over the group of a mean over the response's ORIGINAL length (arXiv
2510.18855, eq. 1). The expectation is over prompts as they are drawn, so a group without signal adds zero to the sum
and still counts in the mean: N is every response of the step that has a reward, filtered ones too. A step with few
informative groups therefore takes a smaller step and not a louder one. Surplus groups of over-sampling were never part
of the step. With m minibatches each update averages over N / m responses.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from components.rewards.types import Reward
from components.rl.advantages import group_advantages
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
    """

    trained: list[tuple[Sample, float]]
    group_sizes: list[int]
    counted: int
    outcomes: list[tuple[int, str]]


def select(groups: Sequence[Group], wanted: int) -> Selection:
    """Takes the first `wanted` informative groups in draw order; drops groups of equal rewards and masks errors."""
    trained: list[tuple[Sample, float]] = []
    sizes: list[int] = []
    outcomes: list[tuple[int, str]] = []
    counted = 0
    for group in groups:
        if len(sizes) == wanted:
            outcomes.append((group.prompt, "surplus"))
            continue
        values = [reward.value for reward in group.rewards]
        counted += sum(value is not None for value in values)
        if all(value is None for value in values):
            outcomes.append((group.prompt, "failed"))
            continue
        result = group_advantages(values)
        if not result.informative:
            outcomes.append((group.prompt, "filtered"))
            continue
        members = [
            (sample, advantage)
            for sample, advantage in zip(group.samples, result.advantages, strict=True)
            if advantage is not None
        ]
        trained += members
        sizes.append(len(members))
        outcomes.append((group.prompt, "trained"))
    return Selection(trained, sizes, counted, outcomes)


def token_sequence(sample: Sample) -> TokenSequence:
    """Prompt and response with the loss on the response only."""
    tokens = np.array(sample.prompt + sample.tokens, dtype=np.int64)
    mask = np.zeros(len(tokens), dtype=bool)
    mask[len(sample.prompt) :] = True
    return TokenSequence(tokens=tokens, loss_mask=mask)


def policy_sequences(
    selection: Selection,
    old_logprobs: Sequence[np.ndarray],
    reference_logprobs: Sequence[np.ndarray] | None,
    minibatches: int,
) -> list[list[PolicySequence]]:
    """The step's minibatches, cut between groups; at most `minibatches` of them, none empty.

    old_logprobs, reference_logprobs: one [response length] array per trained response.
    """
    if not selection.trained:
        return []
    count = min(minibatches, len(selection.group_sizes))
    per_update = selection.counted / count
    sequences = []
    for i, (sample, advantage) in enumerate(selection.trained):
        plain, length = token_sequence(sample), len(sample.tokens)
        sequences.append(
            PolicySequence(
                tokens=plain.tokens,
                loss_mask=plain.loss_mask,
                behaviour_logprobs=np.array(sample.logprobs, dtype=np.float32),
                old_logprobs=np.asarray(old_logprobs[i], dtype=np.float32),
                reference_logprobs=None
                if reference_logprobs is None
                else np.asarray(reference_logprobs[i], dtype=np.float32),
                advantages=np.full(length, advantage, dtype=np.float32),
                weights=np.full(length, 1.0 / (length * per_update), dtype=np.float32),
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
