"""Each hand-written backward pass against autograd on the plain formula, in float64-free float32 with small sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from components.model.kernels import ExpertsFunction, PadFunction, RMSNormFunction, RotaryFunction, UnpadFunction
from components.model.layers import PackedLayout
from components.model.spec import PRESETS


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def compare(ours, theirs, inputs):
    grad = torch.randn_like(theirs)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    for mine, plain in zip(
        torch.autograd.grad(ours, inputs, grad, retain_graph=True),
        torch.autograd.grad(theirs, inputs, grad, retain_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(mine, plain, atol=2e-4, rtol=2e-4)


def test_norm():
    x, w = torch.randn(7, 3, 8, requires_grad=True), torch.randn(8, requires_grad=True)
    compare(RMSNormFunction.apply(x, w, 1e-6), F.rms_norm(x, (8,), w, 1e-6), (x, w))


def test_rotary():
    x, angle = torch.randn(5, 2, 12, requires_grad=True), torch.randn(5, 1, 3)
    a, b, rest = x.split([3, 3, 6], dim=-1)
    plain = torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin(), rest], dim=-1)
    compare(RotaryFunction.apply(x, angle.cos(), angle.sin()), plain, (x,))


def test_padding_and_back():
    layout = PackedLayout.of([3, 9, 2], PRESETS["nano"])
    x = torch.randn(14, 5, requires_grad=True)
    compare(UnpadFunction.apply(PadFunction.apply(x, layout.gather, layout.places) * 2, layout.places), x * 2.0, (x,))


@pytest.mark.parametrize("unused", [None, 3])
def test_experts(unused):
    tokens, experts, topk, hidden, ffn = 40, 8, 4, 16, 8
    x, logits = torch.randn(tokens, hidden, requires_grad=True), torch.randn(tokens, experts, requires_grad=True)
    fc1 = torch.randn(experts, 2 * ffn, hidden, requires_grad=True)
    fc2 = torch.randn(experts, hidden, ffn, requires_grad=True)
    order = logits.detach().clone()
    if unused is not None:
        order[:, unused] = -99.0
    chosen = torch.zeros(tokens, experts, dtype=torch.bool).scatter(1, order.topk(topk).indices, True)
    probs = torch.where(chosen, torch.sigmoid(logits), 0.0)
    gate, up = torch.einsum("th,efh->tef", x, fc1).chunk(2, dim=-1)
    plain = torch.einsum("tef,ehf->th", F.silu(gate) * up * probs.unsqueeze(-1), fc2)
    compare(ExpertsFunction.apply(x, probs, chosen, fc1, fc2, topk), plain, (x, logits, fc1, fc2))
