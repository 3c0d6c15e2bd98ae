"""Weights as an engine of low precision would hold them: rounded to fp8 or a few bits and back, in float32.

No kernel of this machine computes in fp8 or int4, but what such an engine does to the policy starts with what it does
to the weights, and that is exact here. Rounded are the matrices that real deployments quantise, attention and MLP;
embeddings, LM head, router and norms stay, as in vLLM's and compressed-tensors' default recipes.

    fp8    float8_e4m3, one scale per output channel (largest magnitude -> 448)
    int8   one scale per output channel, 127 steps on each side
    int4   one scale per 32 inputs of a channel, 7 steps on each side; int3 the same with 3 steps
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import numpy as np

Precision = Literal["fp8", "int8", "int4", "int3"]

FP8_LARGEST = 448.0
GROUP = 32
KEPT = ("word_embeddings", "lm_head", "norm", "gate.weight", "expert_bias", "layernorm")


def rounded(weights: Mapping[str, np.ndarray], precision: Precision) -> dict[str, np.ndarray]:
    """HF name -> float32 array with every quantised matrix rounded; the others are the same objects."""
    round_ = _ROUNDERS[precision]
    return {name: round_(array) if is_rounded(name, array) else array for name, array in weights.items()}


def is_rounded(name: str, array: np.ndarray) -> bool:
    return array.ndim == 2 and not any(part in name for part in KEPT)


def _fp8(array: np.ndarray) -> np.ndarray:
    import torch

    scale = _scale(array, FP8_LARGEST)
    held = torch.from_numpy((array / scale).astype(np.float32)).to(torch.float8_e4m3fn)
    return held.float().numpy() * scale


def _int8(array: np.ndarray) -> np.ndarray:
    scale = _scale(array, 127.0)
    return np.rint(array / scale) * scale


def _grouped(array: np.ndarray, steps: float) -> np.ndarray:
    rows, columns = array.shape
    groups = array.reshape(-1, GROUP) if columns % GROUP == 0 else array
    scale = _scale(groups, steps)
    return (np.rint(groups / scale) * scale).reshape(rows, columns)


def _scale(array: np.ndarray, largest: float) -> np.ndarray:
    """[rows, 1] float32; 1 for a row of zeros."""
    magnitude = np.abs(array).max(axis=1, keepdims=True)
    return np.where(magnitude > 0, magnitude / largest, 1.0).astype(np.float32)


_ROUNDERS: Mapping[Precision, Callable[[np.ndarray], np.ndarray]] = {
    "fp8": _fp8,
    "int8": _int8,
    "int4": partial(_grouped, steps=7.0),
    "int3": partial(_grouped, steps=3.0),
}
