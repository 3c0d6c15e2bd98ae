"""The weights a model begins with, drawn from one seed.

Tensor by tensor in one order, whatever a rank holds of them: every rank, layout and machine draws the same model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from components.model.hf import load_hf_state
from components.model.shards import fuse_qkv, tensor_shapes
from components.model.spec import LingSpec

if TYPE_CHECKING:
    from components.model.builder import LingModel


def initialise(model: LingModel, spec: LingSpec, seed: int) -> None:
    """Matrices N(0, initializer_range), norms 1, expert bias 0; the same model on every rank, layout and device."""
    load_hf_state(model, spec, _drawn(spec, seed))


def _drawn(spec: LingSpec, seed: int) -> Iterator[tuple[str, Tensor]]:
    """HF tensors drawn from one generator, one megatron matrix after another."""
    generator = torch.Generator().manual_seed(seed)
    shapes = tensor_shapes(spec)

    def matrix(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32).normal_(0.0, spec.initializer_range, generator=generator)

    def gated(prefixes: Sequence[str], width: int) -> Iterator[tuple[str, Tensor]]:
        fc1 = matrix(len(prefixes), 2 * width, spec.hidden_size)
        fc2 = matrix(len(prefixes), spec.hidden_size, width)
        for prefix, both, down in zip(prefixes, fc1, fc2, strict=True):
            yield f"{prefix}.gate_proj.weight", both[:width]
            yield f"{prefix}.up_proj.weight", both[width:]
            yield f"{prefix}.down_proj.weight", down

    def named(name: str) -> tuple[str, Tensor]:
        return name, matrix(*shapes[name])

    def of_layer(layer: int) -> Iterator[tuple[str, Tensor]]:
        prefix = f"model.layers.{layer}"
        yield named(f"{prefix}.attention.dense.weight")
        qkv = f"{prefix}.attention.query_key_value.weight"
        yield qkv, fuse_qkv(matrix(*shapes[qkv]), spec)
        if spec.is_dense(layer):
            yield from gated([f"{prefix}.mlp"], spec.intermediate_size)
            return
        yield named(f"{prefix}.mlp.gate.weight")
        experts = [f"{prefix}.mlp.experts.{expert}" for expert in range(spec.num_experts)]
        yield from gated(experts, spec.moe_intermediate_size)
        if spec.num_shared_experts:
            width = spec.moe_intermediate_size * spec.num_shared_experts
            yield from gated([f"{prefix}.mlp.shared_experts"], width)

    yield named("model.word_embeddings.weight")
    for layer in range(spec.num_hidden_layers):
        yield from of_layer(layer)
    yield named("lm_head.weight")
    if spec.num_nextn_predict_layers:  # last, so that the rest is what it is without
        yield named(f"{spec.mtp_prefix}eh_proj.weight")
        yield from of_layer(spec.num_hidden_layers)
    for name, shape in shapes.items():
        if "norm" in name.rsplit(".", 2)[-2]:
            yield name, torch.ones(shape)
        elif name.endswith("expert_bias"):
            yield name, torch.zeros(shape)
