"""A servable model directory with random weights: the smoke shape, the nano tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch

from components.model.hf import tensor_shapes, write_hf_directory
from components.model.spec import PRESETS
from components.model.tokenizer import build_nano_tokenizer


def write_random_model(directory: Path, preset: str = "smoke", seed: int = 0, std: float = 0.05) -> Path:
    """Matrices N(0, std), norms 1, expert bias 0."""
    spec = PRESETS[preset]
    generator = torch.Generator().manual_seed(seed)

    def tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if name.endswith("expert_bias"):
            return torch.zeros(shape)
        return torch.ones(shape) if len(shape) == 1 else torch.randn(shape, generator=generator) * std

    tensors = ((name, tensor(name, shape)) for name, shape in tensor_shapes(spec).items())
    write_hf_directory(directory, spec, tensors, build_nano_tokenizer())
    return directory
