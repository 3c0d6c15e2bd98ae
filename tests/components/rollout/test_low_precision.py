"""Rounding of weights: how far each precision moves them, and which it leaves alone."""

from __future__ import annotations

import numpy as np
import pytest

from components.rollout.low_precision import rounded

RNG = np.random.default_rng(0)
WEIGHTS = {
    "model.word_embeddings.weight": RNG.normal(0, 0.05, (96, 64)).astype(np.float32),
    "model.layers.0.attention.query_key_value.weight": RNG.normal(0, 0.05, (128, 64)).astype(np.float32),
    "model.layers.1.mlp.experts.3.gate_proj.weight": RNG.normal(0, 0.05, (32, 64)).astype(np.float32),
    "model.layers.1.mlp.gate.weight": RNG.normal(0, 0.05, (8, 64)).astype(np.float32),
    "model.layers.1.mlp.gate.expert_bias": RNG.normal(0, 0.05, 8).astype(np.float32),
    "model.layers.1.input_layernorm.weight": np.ones(64, np.float32),
    "lm_head.weight": RNG.normal(0, 0.05, (96, 64)).astype(np.float32),
}
ROUNDED = ("model.layers.0.attention.query_key_value.weight", "model.layers.1.mlp.experts.3.gate_proj.weight")


@pytest.mark.parametrize(
    ("precision", "low", "high"),
    [("fp8", 0.015, 0.04), ("int8", 0.002, 0.01), ("int4", 0.05, 0.15), ("int3", 0.15, 0.35)],
)
def test_relative_error_of_each_precision(precision, low, high):
    held = rounded(WEIGHTS, precision)
    for name, array in WEIGHTS.items():
        if name not in ROUNDED:
            assert held[name] is array
            continue
        error = np.linalg.norm(held[name] - array) / np.linalg.norm(array)
        assert low < error < high
        assert held[name].dtype == np.float32
        again = rounded({name: held[name]}, precision)[name]
        np.testing.assert_allclose(again, held[name], atol=1e-7)


def test_rows_of_zeros_and_odd_widths_stay_finite():
    odd = {"x.attention.dense.weight": np.vstack([np.zeros(33), np.arange(33)]).astype(np.float32)}
    for precision in ("fp8", "int8", "int4"):
        held = rounded(odd, precision)["x.attention.dense.weight"]
        assert np.isfinite(held).all()
        assert (held[0] == 0).all()
        assert held[1, -1] == pytest.approx(32, rel=1e-3)
