"""Resume points of a learner that do not depend on its layout, and that no host has to see whole.

Every rank sends the blocks it owns (components.model.shards) of the weights and of both optimiser moments, float32,
under HF names as one safetensors file straight to the store, and tells what it sent: each block's place and the digests
of its chunks (components.artifacts.chunks). The driver puts that into one index (components.training.blocks). Under
another layout every rank reads the chunks that cover what its own blocks need, and nothing else: no rank ever holds
more than its part. A distributed optimiser's stretch is a few more blocks of the same kind, so divided and undivided
moments are read from each other. Under the same layout, and under any that only moves blocks between ranks, the state
is restored bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from components.artifacts.chunks import Chunk, Traffic, chunk_digest, read_chunks, spans
from components.artifacts.folder import Folder
from components.failures import BadInput
from components.model.builder import LingModel
from components.model.rows import Rows, as_bytes
from components.model.safetensors_header import header
from components.model.shards import Piece, Values, owned, pieces
from components.training.blocks import Block, Index, Written
from components.training.optimiser import FlatAdamW

MOMENTS = ("master", "first", "second")
REWARD_HEAD = "reward_head.weight"


@torch.no_grad()
def save(
    place: Folder, rank: int, model: LingModel, optimiser: FlatAdamW, head: Tensor | None, state: dict[str, Any]
) -> Written:
    """Sends this rank's blocks; of the first rank the answer also has `state`, which is JSON."""
    held = [
        (moment, piece)
        for moment in MOMENTS
        for piece in _held(optimiser, moment, owned(_outlines(model, optimiser, head, moment)))
    ]
    path, blocks = f"rank-{rank:05d}.safetensors", []
    front = header(
        (f"{moment}/{piece.name}/{','.join(map(str, piece.starts))}", torch.float32, piece.sizes)
        for moment, piece in held
    )

    def stream() -> Iterator[memoryview | bytes]:
        yield front
        offset = len(front)
        for moment, piece in held:
            values = as_bytes(piece.read().float().cpu().contiguous())
            digests = [chunk_digest(values[start:stop]) for start, stop in spans(len(values))]
            blocks.append(Block(path, moment, piece.name, list(piece.starts), list(piece.sizes), offset, digests))
            offset += len(values)
            yield values

    return Written(place.send(path, stream()).file, blocks, state if rank == 0 else None)


@dataclass(frozen=True)
class Fetched:
    """A rank's share of a point, proven and in no way used yet. values: how many of each moment."""

    blocks: list[tuple[Piece, Tensor]]
    values: dict[str, int]
    traffic: Traffic


@torch.no_grad()
def fetch(place: Folder, index: Index, model: LingModel, optimiser: FlatAdamW, head: Tensor | None) -> Fetched:
    """Reads what this rank's weights and moments need, and touches neither.

    Raises:
        BadInput: a block is missing.
        IntegrityError: a block is not what was saved.
    """
    found, chunks, values = [], {}, dict.fromkeys(MOMENTS, 0)
    for moment in MOMENTS:
        for piece in _held(optimiser, moment, _outlines(model, optimiser, head, moment)):
            wanted = torch.empty(piece.sizes)
            filled = 0
            for block in index.of(moment, piece.name):
                here, there = _overlap(piece, block.starts, block.sizes)
                if here is not None:
                    filled += wanted[here].numel()
                    _take(chunks, block, Rows(wanted[here], there, block.sizes))
            if filled != wanted.numel():
                raise BadInput(
                    f"{moment} of {piece.name}: {filled} of {wanted.numel()} values are there",
                    where=str(place),
                    remedy="The resume point is damaged: start the stage afresh with --force STAGE",
                )
            values[moment] += filled
            found.append((piece, wanted))
    return Fetched(found, values, read_chunks(place, [_shared(*each) for each in chunks.values()]))


@torch.no_grad()
def apply(fetched: Fetched, optimiser: FlatAdamW) -> None:
    """Fills this rank's weights and moments; a collective where a distributed optimiser has other than float32
    weights."""
    for piece, values in fetched.blocks:
        piece.write_block(values)
    optimiser.write_back()


def _take(chunks: dict[tuple[str, int], tuple[Block, int, int, str, list[Rows]]], block: Block, rows: Rows) -> None:
    """Notes the chunks of a block that cover its rows; one chunk may go to several pieces."""
    for number, (start, stop) in enumerate(spans(block.bytes)):
        if start < rows.stop and rows.start < stop:
            place = (block.path, block.offset + start)
            chunks.setdefault(place, (block, start, stop, block.digests[number], []))[-1].append(rows)


def _shared(block: Block, start: int, stop: int, digest: str, takers: list[Rows]) -> Chunk:
    def take(data: memoryview) -> None:
        for rows in takers:
            rows.take(start, data)

    return Chunk(block.path, block.offset + start, stop - start, digest, block.about, take)


def _outlines(model: LingModel, optimiser: FlatAdamW, head: Tensor | None, moment: str) -> Iterator[Piece]:
    """The blocks of one moment; what is not optimised (router bias, LM head beside a reward head) is among weights.

    Of what a distributed optimiser divides, the blocks of which this rank may have a part: their views hold nothing.
    """

    def values(tensor: Tensor) -> Tensor | None:
        kept = optimiser.view(moment, tensor)
        return tensor.detach() if kept is None and moment == "master" else kept

    def whole() -> Iterator[Piece]:
        yield from pieces(model, model.spec, values)
        if head is not None and model.post_process:
            norm = next(iter(pieces(model, model.spec, _only(model.decoder.final_layernorm.weight))))
            shape = tuple(head.shape)
            view = optimiser.view(moment, head)
            yield replace(norm, name=REWARD_HEAD, shape=shape, starts=(0,) * len(shape), sizes=shape, view=view)

    return (optimiser.outlined(piece) if piece.view.is_meta else piece for piece in whole())


def _held(optimiser: FlatAdamW, moment: str, outlines: Iterable[Piece]) -> Iterator[Piece]:
    """Of each block what this rank has."""
    for piece in outlines:
        if piece.view.is_meta:
            yield from optimiser.own_blocks(moment, piece)
        else:
            yield piece


def _only(chosen: Tensor) -> Values:
    return lambda tensor: tensor if tensor is chosen else None


def _overlap(piece: Piece, starts: list[int], sizes: list[int]) -> tuple[tuple[slice, ...] | None, tuple[slice, ...]]:
    """(place in the piece, place in the stored block) of what both cover; None when nothing is."""
    here, there = [], []
    for mine, size, start, length in zip(piece.starts, piece.sizes, starts, sizes, strict=True):
        low, high = max(mine, start), min(mine + size, start + length)
        if low >= high:
            return None, ()
        here.append(slice(low - mine, high - mine))
        there.append(slice(low - start, high - start))
    return tuple(here), tuple(there)
