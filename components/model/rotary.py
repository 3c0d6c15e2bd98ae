"""Rotary angles (arXiv 2104.09864) with YaRN's extension of the context (arXiv 2309.00071).

Computed in float32 in the order vLLM uses, position times inverse frequency: at position 1000 another order of the same
operations moves an angle by 1e-4, and the trainer's log-probs away from the engine's.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from components.model.spec import LingSpec, YarnScaling

# Rotations over the original context: dimensions that turn more often keep their frequency, those that turn less often
# than the second are stretched by the whole factor, those between by a part of it.
YARN_FAST, YARN_SLOW = 32, 1


def inverse_frequencies(spec: LingSpec) -> tuple[Tensor, float]:
    """([rotary dimension / 2] inverse frequencies in float32, factor of cos and sin)."""
    exponents = torch.arange(0, spec.rotary_dim, 2, dtype=torch.float32) / spec.rotary_dim
    frequencies = 1.0 / spec.rope_theta**exponents
    if spec.yarn is None:
        return frequencies, 1.0
    keep = 1 - _ramp(spec, spec.yarn)
    stretched = 1.0 / (spec.yarn.factor * spec.rope_theta**exponents)
    return stretched * (1 - keep) + frequencies * keep, 0.1 * math.log(spec.yarn.factor) + 1.0


def rotary_angles(spec: LingSpec, positions: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin [tokens, 1, rotary dimension / 2] of `positions` [tokens], scaled as YaRN asks."""
    frequencies, scale = inverse_frequencies(spec)
    angles = torch.outer(positions.float(), frequencies.to(positions.device))
    return (angles.cos() * scale).unsqueeze(1), (angles.sin() * scale).unsqueeze(1)


def _ramp(spec: LingSpec, yarn: YarnScaling) -> Tensor:
    """0 where a frequency is kept, 1 where it is stretched by the whole factor."""

    def dimension(rotations: int) -> float:
        turns = yarn.original_max_position / (rotations * 2 * math.pi)
        return spec.rotary_dim * math.log(turns) / (2 * math.log(spec.rope_theta))

    low = max(math.floor(dimension(YARN_FAST)), 0)
    high = min(math.ceil(dimension(YARN_SLOW)), spec.rotary_dim - 1)
    steps = torch.arange(spec.rotary_dim // 2, dtype=torch.float32)
    return ((steps - low) / max(high - low, 0.001)).clamp(0, 1)
