from __future__ import annotations

import pytest
import torch

from components.model import fp8_activations
from components.model.builder import build_model
from components.model.fp8_activations import round_activations, rounded_activations
from components.model.spec import PRESETS

LENGTHS = [40, 25]


@pytest.fixture(scope="module")
def model():
    return build_model(PRESETS["smoke"], seed=3)


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(10, PRESETS["smoke"].vocab_size, (sum(LENGTHS),), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_and_factors_are_those_of_vllms_own_rounding(dtype):
    quant = pytest.importorskip("vllm.model_executor.layers.quantization.input_quant_fp8")
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.quantization.utils.quant_utils import GroupShape

    x = torch.randn(7, 512, generator=torch.Generator().manual_seed(2)).to(dtype) * 30
    x[3, 128:256] = 0
    with set_current_vllm_config(VllmConfig()):
        stored, factors = quant.QuantFP8(static=False, group_shape=GroupShape(1, 128)).forward_native(x)
    theirs = (stored.float().unflatten(-1, (-1, 128)) * factors.float()[..., None]).flatten(-2).to(dtype)
    assert torch.equal(round_activations(x), theirs)


def test_a_short_last_group_has_a_factor_of_its_own():
    x = torch.cat([torch.full((1, 128), 1.0), torch.full((1, 4), 1000.0)], dim=1)
    assert torch.allclose(round_activations(x), x, rtol=1e-6)


def test_without_rounding_it_is_the_same_model(model, tokens, monkeypatch):
    expected = model.stream_logits(tokens, LENGTHS)
    monkeypatch.setattr(fp8_activations, "round_activations", lambda x: x)
    with rounded_activations(model):
        found = model.stream_logits(tokens, LENGTHS)
    assert torch.allclose(found, expected, atol=1e-5)


def test_every_projection_rounds_and_only_inside(model, tokens, monkeypatch):
    widths = []
    monkeypatch.setattr(
        fp8_activations, "round_activations", lambda x: widths.append(x.shape[-1]) or round_activations(x)
    )
    expected = model.stream_logits(tokens, LENGTHS)
    with rounded_activations(model):
        found = model.stream_logits(tokens, LENGTHS)
    spec = model.spec
    sparse = spec.num_hidden_layers - spec.first_k_dense_replace
    # Of each layer: queries, keys and values; their output; both of a dense or shared expert; of routed ones the input
    # once and the inner rows of each expert.
    assert len(widths) == 4 * spec.num_hidden_layers + sparse * (1 + spec.num_experts)
    assert 1e-4 < float((found - expected).abs().mean()) < 0.5
    assert torch.equal(model.stream_logits(tokens, LENGTHS), expected)
    assert len(widths) == 4 * spec.num_hidden_layers + sparse * (1 + spec.num_experts)
