"""Losses against golden tables and gradients derived by hand; invariance to micro-batching and order."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch

from components.recipe.rl import GrpoLoss, IcePopLoss, TisLoss
from components.rl.losses import IcePopCorrection, NoCorrection, TruncatedCorrection, policy_loss
from components.rl.mismatch import mismatch_report
from components.training.types import PolicyTokens

INF = math.inf


def tokens(old, behaviour, advantages=None, weights=None, shift=0.0, reference=None) -> PolicyTokens:
    """Tokens whose current log-probs are old + shift."""
    old = torch.tensor(old, dtype=torch.float32)
    n = len(old)
    return PolicyTokens(
        logprobs=(old + shift).clone().requires_grad_(),
        old_logprobs=old,
        behaviour_logprobs=torch.tensor(behaviour, dtype=torch.float32),
        reference_logprobs=None if reference is None else torch.tensor(reference, dtype=torch.float32),
        advantages=torch.ones(n) if advantages is None else torch.tensor(advantages, dtype=torch.float32),
        weights=torch.full((n,), 1.0 / n) if weights is None else torch.tensor(weights, dtype=torch.float32),
        entropy=torch.ones(n),
        response=torch.zeros(n, dtype=torch.int64),
    )


@pytest.mark.parametrize(
    ("k", "icepop", "tis"),
    [
        (0.0, 0.0, 0.0),
        (0.25, 0.0, 0.25),
        (0.5, 0.5, 0.5),
        (1.0, 1.0, 1.0),
        (2.0, 2.0, 2.0),
        (3.0, 3.0, 2.0),
        (5.0, 5.0, 2.0),
        (5.01, 0.0, 2.0),
        (1e30, 0.0, 2.0),
    ],
)
def test_correction_table(k, icepop, tis):
    log_k = torch.tensor([k], dtype=torch.float64).log()
    assert IcePopCorrection(0.5, 5.0)(log_k).item() == pytest.approx(icepop, abs=1e-12)
    assert TruncatedCorrection(2.0)(log_k).item() == pytest.approx(tis, abs=1e-12)
    assert NoCorrection()(log_k).item() == 1.0


@pytest.mark.parametrize("config", [IcePopLoss(), TisLoss(), GrpoLoss()])
@pytest.mark.parametrize(("old", "behaviour"), [(-INF, -1.0), (-1.0, -INF), (math.nan, -1.0), (-1.0, math.nan)])
def test_a_token_without_a_finite_ratio_is_masked_and_counted_and_poisons_nothing(config, old, behaviour):
    batch = tokens([old, -1.0], [behaviour, -1.0], shift=0.0)
    result = policy_loss(config)(batch)
    result.loss.backward()
    assert result.sums["nonfinite"].item() == 1
    assert result.loss.item() == pytest.approx(-0.5)
    assert batch.logprobs.grad[0].item() == 0
    assert batch.logprobs.grad[1].item() == pytest.approx(-0.5)


@pytest.mark.parametrize(
    ("advantage", "r", "factor"),
    [  # d/dlogp of min(r A, clip(r) A) is r A where the minimum is unclipped, else 0
        (1.0, 1.0, 1.0),
        (1.0, 1.1, 1.1),
        (1.0, 1.3, 0.0),
        (1.0, 0.7, 0.7),
        (-1.0, 0.7, 0.0),
        (-1.0, 1.3, -1.3),
        (2.0, 0.9, 1.8),
    ],
)
def test_gradient_by_hand(advantage, r, factor):
    k, weight = 2.0, 0.25
    batch = tokens([-2.0], [-2.0 - math.log(k)], [advantage], [weight], shift=math.log(r))
    policy_loss(IcePopLoss())(batch).loss.backward()
    assert batch.logprobs.grad.item() == pytest.approx(-weight * k * factor, rel=1e-5, abs=1e-7)
    outside = tokens([-2.0], [-2.0 - math.log(6.0)], [advantage], [weight], shift=math.log(r))
    result = policy_loss(IcePopLoss())(outside)
    result.loss.backward()
    assert outside.logprobs.grad.item() == 0
    assert result.sums["masked_high"].item() == 1


def test_k_and_r_stay_apart_where_grpo_as_commonly_written_mixes_them():
    old, behaviour, shift = -1.0, -1.1, 0.05
    right = policy_loss(GrpoLoss())(tokens([old], [behaviour], shift=shift))
    common = policy_loss(GrpoLoss(old_policy="engine"))(tokens([old], [behaviour], shift=shift))
    icepop = policy_loss(IcePopLoss())(tokens([old], [behaviour], shift=shift))
    assert right.loss.item() == pytest.approx(-math.exp(0.05), rel=1e-5)
    assert common.loss.item() == pytest.approx(-math.exp(0.15), rel=1e-5)
    assert icepop.loss.item() == pytest.approx(-math.exp(0.1) * math.exp(0.05), rel=1e-5)


def test_kl_stands_outside_the_mask():
    """The masked token has no policy gradient, but d/dlogp of gamma * (exp(d) - 1 - d) = gamma * (1 - exp(d)) stays."""
    gamma, d = 0.1, 0.3
    batch = tokens([-1.0], [-1.0 - math.log(10)], weights=[0.5], reference=[-1.0 + d])
    policy_loss(IcePopLoss(kl_coefficient=gamma))(batch).loss.backward()
    assert batch.logprobs.grad.item() == pytest.approx(0.5 * gamma * (1 - math.exp(d)), rel=1e-5)
    with pytest.raises(ValueError, match="reference_logprobs"):
        policy_loss(IcePopLoss(kl_coefficient=gamma))(tokens([-1.0], [-1.0]))


@pytest.mark.parametrize("config", [IcePopLoss(), TisLoss(), GrpoLoss()])
def test_order_and_micro_batches_do_not_change_the_gradient(config):
    rng = np.random.default_rng(0)
    n = 40
    old = rng.normal(-2, 1, n)
    arguments = (old, old + rng.normal(0, 0.8, n), rng.normal(0, 1, n), rng.uniform(0, 0.1, n))
    loss = pickle.loads(pickle.dumps(policy_loss(config)))

    def gradient(order, pieces):
        grad = np.zeros(n)
        for part in np.array_split(order, pieces):
            batch = tokens(*(values[part] for values in arguments), shift=0.1)
            loss(batch).loss.backward()
            grad[part] = batch.logprobs.grad.numpy()
        return grad

    whole = gradient(np.arange(n), 1)
    np.testing.assert_array_equal(whole, gradient(rng.permutation(n), 7))


def test_mismatch_report_by_hand():
    old = np.log([0.2, 0.4, 0.1, 0.9, 0.0001])
    behaviour = np.log([0.2, 0.2, 0.4, 0.9, 0.5])
    report = mismatch_report(old, behaviour, IcePopCorrection(0.5, 5.0))
    k = np.exp(old - behaviour)
    assert report["mismatch/mean_abs_dlogp"] == pytest.approx(np.abs(old - behaviour).mean(), rel=1e-5)
    assert report["mismatch/max_abs_dlogp"] == pytest.approx(abs(old[4] - behaviour[4]), rel=1e-5)
    assert report["mismatch/infer_train_kl"] == pytest.approx((k - 1 - np.log(k)).mean(), rel=1e-5)
    assert report["mismatch/rejected_low"] == pytest.approx(2 / 5)
    assert report["mismatch/rejected_high"] == 0
    assert report["mismatch/ess"] == pytest.approx((1 + 2 + 1) ** 2 / (5 * (1 + 4 + 1)), rel=1e-5)
    assert report["mismatch/k_q50"] == pytest.approx(1.0, rel=1e-5)
