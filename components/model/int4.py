"""4-bit weights as compressed-tensors stores them (`pack-quantized`, W4A16), which vLLM and SGLang read.

A projection's weight is stored as integers from -8 to 7, eight in an int32 under `<weight>_packed`, with one bfloat16
factor for every 32 inputs of an output (`_scale`) and its own shape (`_shape`): weight = stored * factor. Activations
stay bfloat16. What is no projection is not stored so, as in FP8 releases; routed experts may be left out too, since
vLLM's kernels for CPUs have none for them.

Groups of 32: the three projections of an expert share one size in vLLM, whose Marlin kernels take 32, 64 and 128; 32
fits the narrowest expert and loses least (docs/release.md), for half a bit a weight. Kimi-K2-Thinking is stored so too.

The factor is searched: largest magnitude / d for d from 7 (nothing is cut off) to 9, whichever leaves the smallest
squared error. Of normally distributed weights that is 0.75 % of their power, with compressed-tensors' own 7.5 it is
0.90 %. It needs no data, and a second export finds the same integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from components.failures import BadInput
from components.model.hf_config import INT4_GROUP as GROUP
from components.model.hf_config import PROJECTION, ROUTED_EXPERT

PACKED, FACTORS, SHAPE = "_packed", "_scale", "_shape"
PARTS = (PACKED, FACTORS, SHAPE)
LOWEST, HIGHEST, BITS = -8, 7, 4
IN_ONE = 32 // BITS
DIVISORS = tuple(7 + step / 4 for step in range(9))


def quantise(weight: Tensor, group: int = GROUP, divisors: Iterable[float] = DIVISORS) -> tuple[Tensor, Tensor]:
    """([rows, columns] int8 from -8 to 7, [rows, columns / group] bfloat16 factors) of a finite weight.

    columns: a multiple of `group`. divisors: candidates for largest magnitude / factor; of equally good ones the first.
    """
    rows, columns = weight.shape
    groups = weight.detach().to("cpu", torch.float32).reshape(-1, group)
    largest = groups.abs().amax(dim=1)
    least = torch.full_like(largest, torch.inf)
    stored, factors = torch.zeros_like(groups), torch.ones_like(largest)
    for divisor in divisors:
        factor = (largest / divisor).bfloat16().float()  # as it is stored, and so as engines multiply it
        factor = torch.where(factor > 0, factor, torch.ones_like(factor))  # a group of zeros
        rounded = (groups / factor[:, None]).round_().clamp_(LOWEST, HIGHEST)
        error = (rounded * factor[:, None]).sub_(groups).square_().sum(dim=1)
        better = error < least
        least = torch.where(better, error, least)
        factors = torch.where(better, factor, factors)
        stored = torch.where(better[:, None], rounded, stored)
    return stored.to(torch.int8).reshape(rows, columns), factors.bfloat16().reshape(rows, columns // group)


def dequantise(stored: Tensor, factors: Tensor) -> Tensor:
    """The products, exact in float32. stored: [rows, columns] integers; factors: [rows, groups]."""
    rows, columns = stored.shape
    grouped = stored.to(torch.float32).reshape(rows, factors.shape[1], -1)
    return (grouped * factors.to(torch.float32)[:, :, None]).reshape(rows, columns)


def pack(stored: Tensor) -> Tensor:
    """[rows, columns] from -8 to 7 -> [rows, columns / 8 rounded up] int32; the first of eight in the lowest bits."""
    filled = torch.nn.functional.pad(stored.to(torch.int32) - LOWEST, (0, -stored.shape[1] % IN_ONE))
    shifts = torch.arange(IN_ONE, dtype=torch.int32) * BITS
    return (filled.reshape(stored.shape[0], -1, IN_ONE) << shifts).sum(dim=2, dtype=torch.int32)


def unpack(packed: Tensor, columns: int) -> Tensor:
    """What `pack` was given, int8 [rows, columns]."""
    shifts = torch.arange(IN_ONE, dtype=torch.int32) * BITS
    spread = ((packed[:, :, None] >> shifts) & 0xF).reshape(packed.shape[0], -1)
    return (spread[:, :columns] + LOWEST).to(torch.int8)


def quantised(tensors: Iterable[tuple[str, Tensor]], experts: bool = True) -> Iterator[tuple[str, Tensor]]:
    """HF tensors with every projection as integers, factors and shape. experts: the routed ones' too.

    Raises:
        BadInput: a projection's inputs are no whole number of groups.
    """
    for name, tensor in tensors:
        if not PROJECTION.search(name) or (not experts and ROUTED_EXPERT.search(name)):
            yield name, tensor
            continue
        if tensor.shape[1] % GROUP:
            raise BadInput(
                f"{tensor.shape[1]} inputs are no whole number of groups of {GROUP}",
                where=name,
                remedy="Release this model as bfloat16 or fp8",
            )
        stored, factors = quantise(tensor)
        yield name + PACKED, pack(stored)
        yield name + FACTORS, factors
        yield name + SHAPE, torch.tensor(tensor.shape)


def dequantised(tensors: Iterable[tuple[str, Tensor]], where: str) -> Iterator[tuple[str, Tensor]]:
    """HF tensors of such a checkpoint with float32 projections; the parts of a weight may lie far apart.

    Raises:
        BadInput: a weight lacks a part, or its parts do not fit.
    """
    waiting: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors:
        part = next((end for end in PARTS if name.endswith(".weight" + end)), None)
        if part is None:
            yield name, tensor
            continue
        weight = name.removesuffix(part)
        held = waiting.setdefault(weight, {})
        held[part] = tensor
        if len(held) == len(PARTS):
            del waiting[weight]
            yield weight, _whole(weight, *(held[part] for part in PARTS), where)
    if waiting:
        weight, held = next(iter(waiting.items()))
        raise BadInput(
            f"{len(waiting)} 4-bit weights lack a part, the first is {weight} without "
            f"{' and '.join(weight + part for part in PARTS if part not in held)}",
            where=where,
            remedy="The checkpoint is incomplete: download it again",
        )


def _whole(name: str, packed: Tensor, factors: Tensor, shape: Tensor, where: str) -> Tensor:
    rows, columns = (int(size) for size in shape)
    expected = (rows, -(-columns // IN_ONE))
    if packed.dtype != torch.int32 or tuple(packed.shape) != expected:
        raise BadInput(f"{name}{PACKED} is {packed.dtype} {tuple(packed.shape)}, not int32 {expected}", where=where)
    if factors.dim() != 2 or factors.shape[0] != rows or columns % factors.shape[1]:
        raise BadInput(
            f"{name}{FACTORS} has shape {tuple(factors.shape)} for a weight of {rows} x {columns}", where=where
        )
    return dequantise(unpack(packed, columns), factors)
