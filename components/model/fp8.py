"""FP8 weights as DeepSeek-V3 stores them (arXiv 2412.19437, 3.3) and Ring-1T-FP8, vLLM and SGLang read them.

A projection's weight is stored as float8 e4m3 in blocks of 128 x 128, each with a float32 factor under
`<weight>_scale_inv`: weight = stored * factor. Engines quantise activations on the fly. Embeddings, the head, norms and
the router are not stored so: they are small, and routing is what low precision hurts first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from components.failures import BadInput
from components.model.hf_config import FP8_BLOCK as BLOCK
from components.model.hf_config import PROJECTION

SCALE = "_scale_inv"
LARGEST = torch.finfo(torch.float8_e4m3fn).max  # 448


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """([rows, columns] float8_e4m3fn, [rows / 128, columns / 128] rounded up, float32 factors) of a finite weight."""
    blocks = _blocks(weight.detach().to("cpu", torch.float32))
    factors = blocks.abs().amax(dim=(1, 3)) / LARGEST
    factors = torch.where(factors > 0, factors, torch.ones_like(factors))  # a block of zeros
    scaled = (blocks / factors[:, None, :, None]).clamp(-LARGEST, LARGEST)  # the division may round past the largest
    return _whole(scaled, weight.shape).to(torch.float8_e4m3fn).contiguous(), factors


def dequantise(stored: Tensor, factors: Tensor) -> Tensor:
    """The weight as engines multiply it, float32. stored: [rows, columns]; factors as `quantise` returns them."""
    return _whole(_blocks(stored.to(torch.float32)) * factors.to(torch.float32)[:, None, :, None], stored.shape)


def quantised(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """HF tensors with every projection as FP8 and its factors after it."""
    for name, tensor in tensors:
        if not PROJECTION.search(name):
            yield name, tensor
            continue
        stored, factors = quantise(tensor)
        yield name, stored
        yield name + SCALE, factors


def dequantised(tensors: Iterable[tuple[str, Tensor]], where: str) -> Iterator[tuple[str, Tensor]]:
    """HF tensors of an FP8 checkpoint with float32 projections; a weight and its factors may lie far apart.

    Raises:
        BadInput: a weight lacks its factors, the factors their weight, or they do not fit.
    """
    waiting: dict[str, Tensor] = {}
    for name, tensor in tensors:
        weight = name.removesuffix(SCALE)
        if weight == name and tensor.dtype != torch.float8_e4m3fn:
            yield name, tensor
            continue
        other = waiting.pop(weight if weight != name else name + SCALE, None)
        if other is None:
            waiting[name] = tensor
            continue
        stored, factors = (tensor, other) if weight == name else (other, tensor)
        expected = tuple(-(-size // BLOCK) for size in stored.shape)
        if tuple(factors.shape) != expected:
            raise BadInput(
                f"{weight}{SCALE} has shape {tuple(factors.shape)}, blocks of {BLOCK} x {BLOCK} need {expected}",
                where=where,
            )
        yield weight, dequantise(stored, factors)
    if waiting:
        raise BadInput(
            f"{len(waiting)} FP8 weights or factors lack the other, the first is {next(iter(waiting))}",
            where=where,
            remedy="The checkpoint is incomplete: download it again",
        )


def _blocks(weight: Tensor) -> Tensor:
    """[rows, columns] -> [row blocks, 128, column blocks, 128], filled up with zeros."""
    rows, columns = weight.shape
    padded = torch.nn.functional.pad(weight, (0, -columns % BLOCK, 0, -rows % BLOCK))
    return padded.reshape(padded.shape[0] // BLOCK, BLOCK, padded.shape[1] // BLOCK, BLOCK)


def _whole(blocks: Tensor, shape: torch.Size) -> Tensor:
    rows, columns = blocks.shape[0] * BLOCK, blocks.shape[2] * BLOCK
    return blocks.reshape(rows, columns)[: shape[0], : shape[1]]
