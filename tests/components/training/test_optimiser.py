from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from components.recipe.training import OptimiserConfig
from components.training.optimiser import FlatAdamW, learning_rate, update_expert_bias


def test_it_is_adamw_with_clipping_and_no_decay_on_vectors():
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(4, 3)), torch.nn.Parameter(torch.randn(5))]
    theirs = [torch.nn.Parameter(parameter.detach().clone()) for parameter in ours]
    config = OptimiserConfig(lr=1e-2, weight_decay=0.1, beta2=0.95, clip_grad_norm=0.5)
    flat = FlatAdamW(ours, config, 10)
    reference = torch.optim.AdamW(
        [{"params": [theirs[0]], "weight_decay": 0.1}, {"params": [theirs[1]], "weight_decay": 0.0}],
        lr=1e-2,
        betas=(0.9, 0.95),
    )
    for _ in range(5):
        flat.zero_grad()
        reference.zero_grad()
        for group in (ours, theirs):
            ((group[0].sum(0).pow(2)).sum() + group[1].pow(3).sum()).backward()
        norm = torch.nn.utils.clip_grad_norm_(theirs, 0.5)
        assert float(torch.linalg.vector_norm(flat.grad)) == pytest.approx(float(norm), rel=1e-5)
        flat.step(float(norm))
        reference.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_the_schedule_warms_up_and_ends_at_its_floor():
    config = OptimiserConfig(lr=1.0, schedule="cosine", warmup_steps=4, min_lr_fraction=0.1)
    rates = [learning_rate(config, step, 24) for step in range(25)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[14] == pytest.approx(0.55)
    assert rates[24] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(rates[3:]))


def test_the_bias_moves_against_the_load():
    bias = torch.zeros(4)
    update_expert_bias(bias, torch.tensor([10.0, 2.0, 6.0, 6.0]), 1e-3)
    assert bias.tolist() == pytest.approx([-1e-3, 1e-3, 0.0, 0.0])
