"""What an engine's FP8 kernels on a GPU compute, by a model on any device: they round a projection's input, too.

vLLM and SGLang give every token's 128 neighbouring inputs a float32 factor (largest magnitude / 448) and round them to
e4m3 before they multiply them with FP8 weights (DeepSeek-V3, arXiv 2412.19437, 3.3.2). vLLM's kernels for CPUs do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from components.model.builder import LingModel
from components.model.fp8 import LARGEST
from components.model.hf_config import FP8_BLOCK as BLOCK
from components.model.layers import LocalMoELayer

SMALLEST = 1e-10  # vLLM's least magnitude of a group
PROJECTIONS = ("linear_qkv", "linear_proj", "linear_fc1", "linear_fc2")


def round_activations(x: Tensor) -> Tensor:
    """x [..., width] as its e4m3 values and factors stand for, in its own dtype; the last group may be shorter."""
    width = x.shape[-1]
    groups = F.pad(x.float(), (0, -width % BLOCK)).unflatten(-1, (-1, BLOCK))
    factors = groups.abs().amax(-1, keepdim=True).clamp(min=SMALLEST) / LARGEST
    rounded = (groups / factors).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn).float() * factors
    return rounded.flatten(-2)[..., :width].to(x.dtype)


@contextmanager
def rounded_activations(model: LingModel) -> Iterator[None]:
    """Inside, an undivided model rounds the input of every projection that FP8 checkpoints store as FP8.

    For comparison only: no gradients, experts one after another.
    """
    hooks = [
        module.register_forward_pre_hook(lambda _, args: (round_activations(args[0]), *args[1:]))
        for name, module in model.named_modules()
        if name.rsplit(".", 1)[-1] in PROJECTIONS
    ]
    sparse = [layer.mlp for layer in model.decoder.layers if isinstance(layer.mlp, LocalMoELayer)]
    for layer in sparse:
        layer.forward = lambda hidden, *_, layer=layer, **__: (_experts(layer, hidden), None)
    try:
        with torch.no_grad():
            yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer in sparse:
            del layer.forward


def _experts(layer: LocalMoELayer, hidden: Tensor) -> Tensor:
    """[length, 1, hidden] -> the same shape: routed and shared experts, routed by what was not rounded."""
    shared = layer.shared_experts_compute(hidden)
    probs, chosen = layer.route(hidden)
    flat = hidden.reshape(-1, hidden.shape[-1])
    rounded, out = round_activations(flat), torch.zeros_like(flat)
    for expert, (fc1, fc2) in enumerate(zip(layer.experts.fc1, layer.experts.fc2, strict=True)):
        rows = chosen[:, expert].nonzero().squeeze(1)
        gate, up = F.linear(rounded[rows], fc1).chunk(2, dim=1)
        found = F.linear(round_activations(F.silu(gate) * up), fc2)
        out.index_add_(0, rows, found * probs[rows, expert, None].to(found.dtype))
    out = out.view(hidden.shape)
    return out if shared is None else out + shared
