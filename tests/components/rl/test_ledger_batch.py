"""The pure parts around the loop: ledger, advantages, selection and weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.schema import Verifier
from components.failures import BadInput, IntegrityError
from components.recipe.rewards import RewardsConfig
from components.rewards.mixture import Mixture
from components.rewards.reward_model import RewardModelScorer
from components.rewards.types import Reward, RewardRequest
from components.rl.advantages import group_advantages
from components.rl.batch import Group, policy_sequences, rollout_metrics, select
from components.rl.ledger import PromptLedger, PromptMixture
from components.rollout.types import Sample


@settings(max_examples=50, deadline=None)
@given(
    count=st.integers(1, 30),
    draws=st.lists(st.integers(1, 17), max_size=20),
    cut=st.integers(0, 20),
    seed=st.integers(0, 5),
)
def test_every_prompt_once_per_epoch_also_over_a_resume(count, draws, cut, seed):
    ledger, seen = PromptLedger(count, seed), []
    for step, number in enumerate(draws):
        if step == cut:
            state = json.loads(json.dumps(ledger.state_dict()))
            ledger = PromptLedger(count, seed)
            ledger.load_state_dict(state)
        drawn = ledger.draw(number)
        seen += drawn
        for prompt in drawn:
            ledger.settle(prompt, "trained")
        ledger.check()
    for start in range(0, len(seen) - count + 1, count):
        assert sorted(seen[start : start + count]) == list(range(count))
    undisturbed = PromptLedger(count, seed)
    assert [prompt for number in draws for prompt in undisturbed.draw(number)] == seen


def test_a_prompt_is_settled_once_and_a_foreign_state_is_refused():
    ledger = PromptLedger(5, 0)
    (prompt,) = ledger.draw(1)
    ledger.settle(prompt, "filtered")
    with pytest.raises(IntegrityError, match="not in flight"):
        ledger.settle(prompt, "trained")
    with pytest.raises(IntegrityError, match="cannot continue"):
        PromptLedger(6, 0).load_state_dict(ledger.state_dict())
    ledger.draw(2)
    ledger.check()
    assert len(ledger.state_dict()["in_flight"]) == 2


def test_a_mixture_keeps_its_shares_in_every_step():
    mixture = PromptMixture([(range(10), 0.25), (range(10, 50), 0.75)], seed=1)
    for _ in range(12):
        drawn = mixture.draw(8)
        assert sum(prompt < 10 for prompt in drawn) == 2
        for prompt in drawn:
            mixture.settle(prompt, "trained")
    mixture.check()
    assert mixture.drawn == 96
    assert mixture.outcomes == {"trained": 96}
    again = PromptMixture([(range(10), 0.25), (range(10, 50), 0.75)], seed=1)
    again.load_state_dict(json.loads(json.dumps(mixture.state_dict())))
    assert again.draw(8) == mixture.draw(8)
    with pytest.raises(BadInput, match="two parts"):
        PromptMixture([([1], 0.5), ([1], 0.5)], seed=0)


def test_advantages_of_mixed_equal_and_failed_groups():
    mixed = group_advantages([1.0, 0.0, 0.0, 1.0])
    assert mixed.advantages == (1.0, -1.0, -1.0, 1.0)
    assert mixed.informative
    assert group_advantages([1.0, 1.0, 1.0]).advantages == (0.0, 0.0, 0.0)
    assert not group_advantages([1.0, 1.0, 1.0]).informative
    failed = group_advantages([1.0, None, 0.0])
    assert failed.advantages == (1.0, None, -1.0)
    assert not group_advantages([None, 1.0]).informative
    scaled = group_advantages([3.0, 7.0, 11.0]).advantages
    np.testing.assert_allclose(scaled, group_advantages([-0.1, 0.0, 0.1]).advantages, atol=1e-12)


def group(prompt: int, rewards: list[float | None], lengths: list[int]) -> Group:
    samples = tuple(
        Sample(f"{prompt}/{i}", [1, 2, 3], list(range(10, 10 + length)), [-1.0] * length, "stop", 0)
        for i, length in enumerate(lengths)
    )
    return Group(prompt, samples, tuple(Reward(r, "error" if r is None else "scored") for r in rewards))


def test_selection_and_weights_hold_every_denominator():
    groups = [
        group(0, [1.0, 0.0], [2, 4]),
        group(1, [1.0, 1.0], [3, 3]),
        group(2, [None, None], [1, 1]),
        group(3, [1.0, 0.0], [5, 1]),
        group(4, [1.0, 0.0], [2, 2]),
    ]
    chosen = select(groups, wanted=2)
    assert chosen.outcomes == [(0, "trained"), (1, "filtered"), (2, "failed"), (3, "trained"), (4, "surplus")]
    assert chosen.counted == 6
    old = [np.full(len(sample.tokens), -1.0) for sample, _ in chosen.trained]
    first, second = policy_sequences(chosen, old, None, minibatches=2)
    assert [len(s.advantages) for s in first] == [2, 4]
    assert [len(s.advantages) for s in second] == [5, 1]
    for sequence in first + second:
        length = len(sequence.weights)
        np.testing.assert_allclose(sequence.weights, 1 / (length * 6 / 2), rtol=1e-6)
        assert sequence.loss_mask.tolist() == [False] * 3 + [True] * length
    (whole,) = policy_sequences(chosen, old, None, minibatches=1)
    assert sum(float(s.weights.sum()) for s in whole) == pytest.approx(4 / 6)
    assert len(policy_sequences(chosen, old, None, minibatches=8)) == 2
    metrics = rollout_metrics(groups, chosen, lambda index: "math" if index < 3 else "code")
    assert metrics["reward/error_fraction"] == pytest.approx(0.2)
    assert metrics["reward/mean"] == pytest.approx(5 / 8)
    assert metrics["groups/filtered"] == 1
    nothing = select([group(0, [None, None], [1, 1])], wanted=1)
    assert policy_sequences(nothing, [], None, 2) == []
    assert "reward/mean" not in rollout_metrics([group(0, [None, None], [1, 1])], nothing, lambda index: "math")


def test_preference_prompts_never_reach_the_gold_judge():
    class Rules:
        def score(self, requests, deadline_s):
            assert all(request.verifier.kind != "preference" for request in requests)
            return [Reward(1.0, "correct") for _ in requests]

        def close(self):
            pass

    model = RewardModelScorer(lambda sequences: np.array([len(s) for s in sequences]), lambda p, r: [0] * len(r))
    scorer = Mixture(RewardsConfig(), Rules(), model)
    verifier = {kind: Verifier(kind=kind, reference={}) for kind in ("math", "preference")}
    requests = [
        RewardRequest("a", "p", "long answer", verifier["preference"]),
        RewardRequest("b", "p", "x", verifier["math"]),
        RewardRequest("c", "p", "cut off somewhere far away", verifier["preference"], truncated=True),
    ]
    rewards = scorer.score(requests, 1.0)
    assert [reward.verdict for reward in rewards] == ["scored", "correct", "scored"]
    assert rewards[2].value < rewards[0].value == 11.0
