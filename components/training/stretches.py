"""Which part of an optimiser's flat buffers each rank steps, and which blocks of HF tensors that part is.

ZeRO stage 1 (Rajbhandari et al., arXiv 1910.02054), laid out as megatron-core's distributed optimiser has it:
parameters whose gradients are summed over the same ranks lie together, and each of those ranks steps an equal stretch,
cut without regard to tensors. Undivided, the stretch is all of them: the same layout, the same arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from components.model.shards import Piece

# Stretches begin at multiples of it, however many ranks there are: a fused kernel that works on 16 values at a time and
# a norm that is summed by rows treat every value alike in each division.
ROW = 256


@dataclass(frozen=True)
class Share:
    """This rank's number among the `count` ranks that hold the same parameters. group: theirs; None for everybody."""

    index: int = 0
    count: int = 1
    group: Any = None


@dataclass(frozen=True)
class Stretch:
    """Parameters that are reduced and decayed alike.

    parameters: each with its place in the flat gradient. place: of all of them there, with padding at the end.
    own: what this rank steps of it. moments: where `own` lies in the moments. master: where it lies in the master
    copies. whole: where `place` lies there; None where only `own` does.
    """

    kind: int
    decays: bool
    dtype: torch.dtype
    share: Share
    parameters: tuple[tuple[nn.Parameter, slice], ...]
    place: slice
    own: slice
    moments: slice
    master: slice
    whole: slice | None

    @property
    def used(self) -> slice:
        """`place` without padding."""
        return slice(self.place.start, self.parameters[-1][1].stop)


def lay_out(
    parameters: Sequence[nn.Parameter],
    kind: Callable[[nn.Parameter], int],
    share: Callable[[int], Share],
) -> list[Stretch]:
    """Stretches in the order of the buffers, decayed matrices first.

    float32 parameters are their own master copies, so every rank has all of them; of others it keeps its stretch.
    """

    def alike(parameter: nn.Parameter) -> tuple[bool, int, str]:
        return parameter.dim() <= 1, kind(parameter), str(parameter.dtype)

    found, start, moments, master = [], 0, 0, 0
    for (vector, number, _), same in groupby(sorted(parameters, key=alike), key=alike):
        mine, places, stop = share(number), [], start
        for parameter in same:
            places.append((parameter, slice(stop, stop + parameter.numel())))
            stop += parameter.numel()
        size = -(-(stop - start) // (ROW * mine.count)) * ROW
        place = slice(start, start + size * mine.count)
        first = size * mine.index
        dtype = places[0][0].dtype
        complete = mine.count == 1 or dtype == torch.float32
        inside = master + (first if complete else 0)
        found.append(
            Stretch(
                kind=number,
                decays=not vector,
                dtype=dtype,
                share=mine,
                parameters=tuple(places),
                place=place,
                own=slice(start + first, start + first + size),
                moments=slice(moments, moments + size),
                master=slice(inside, inside + size),
                whole=slice(master, master + size * mine.count) if complete else None,
            )
        )
        start, moments, master = place.stop, moments + size, master + (size * mine.count if complete else size)
    return found


def own_blocks(piece: Piece, own: slice, values: Tensor) -> Iterator[Piece]:
    """What a rank holds of a block when it holds a stretch: at most three rectangles of each run of whole rows.

    Args:
        piece: its view, on the meta device, lies where the block lies in the flat gradient.
        own: the stretch, there. values: [own] what a buffer has of it.
    """
    width = piece.sizes[-1]
    for number, run in enumerate(_runs(piece.view)):
        offset = run.storage_offset()
        low, high = max(offset, own.start), min(offset + run.numel(), own.stop)
        before = number * run.numel() - offset
        for begin, end in _rectangles(low + before, high + before, width):
            rows, columns = -(-(end - begin) // width), min(width, end - begin)
            start = begin - before - own.start
            corner, sizes = (begin // width, begin % width), (rows, columns)
            if len(piece.sizes) == 1:
                corner, sizes = corner[1:], sizes[1:]
            yield replace(
                piece,
                starts=tuple(a + b for a, b in zip(piece.starts, corner, strict=True)),
                sizes=sizes,
                view=values[start : start + end - begin].view(sizes),
            )


def _runs(view: Tensor) -> Iterator[Tensor]:
    """A strided view as contiguous ones of equal size, in its order (fused attention: one of each key-value group)."""
    if view.is_contiguous():
        yield view
    else:
        for part in view:
            yield from _runs(part)


def _rectangles(low: int, high: int, width: int) -> Iterator[tuple[int, int]]:
    """[low, high) of rows of `width`: what is left of the first row, whole rows, the beginning of the last."""
    while low < high:
        end = min(high, low + width - low % width) if low % width or high - low < width else high - high % width
        yield low, end
        low = end
