"""Resume points of a learner that do not depend on its layout.

Every rank writes the blocks it owns (components.model.shards) of the weights and of both optimiser moments, float32,
under HF names into one safetensors file, with a small index beside it. Under another layout every rank reads the blocks
that overlap its own, and nothing else: no rank ever holds more than its part. A distributed optimiser's stretch is a
few more blocks of the same kind, so divided and undivided moments are read from each other. Under the same layout, and
under any that only moves blocks between ranks, the state is restored bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.failures import BadInput
from components.model.builder import LingModel
from components.model.shards import Piece, Values, owned, pieces
from components.training.optimiser import FlatAdamW

STATE_FILE = "state.json"
MOMENTS = ("master", "first", "second")
REWARD_HEAD = "reward_head.weight"


def save(
    directory: Path, rank: int, model: LingModel, optimiser: FlatAdamW, head: Tensor | None, state: dict[str, Any]
) -> None:
    """Writes this rank's blocks; the first rank also writes `state`, which is JSON."""
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    index: dict[str, dict[str, Any]] = {}
    for moment in MOMENTS:
        for piece in _held(optimiser, moment, owned(_outlines(model, optimiser, head, moment))):
            key = f"{moment}/{piece.name}/{','.join(map(str, piece.starts))}"
            tensors[key] = piece.read().float().cpu().contiguous()
            index[key] = {"moment": moment, "name": piece.name, "shape": piece.shape, "starts": piece.starts}
    save_file(tensors, str(directory / f"rank-{rank:05d}.safetensors"))
    (directory / f"rank-{rank:05d}.json").write_text(json.dumps(index))
    if rank == 0:
        (directory / STATE_FILE).write_text(json.dumps(state))


def read_state(directory: Path) -> dict[str, Any]:
    """The `state` of `save`.

    Raises:
        BadInput: there is none.
    """
    path = directory / STATE_FILE
    if not path.is_file():
        raise BadInput(
            "not a learner's resume point, or one of an older ringflow",
            where=str(path),
            remedy="Start the stage afresh with --force STAGE",
        )
    return json.loads(path.read_text())


@torch.no_grad()
def load(directory: Path, model: LingModel, optimiser: FlatAdamW, head: Tensor | None) -> dict[str, int]:
    """Fills this rank's weights and moments; a collective where a distributed optimiser has other than float32 weights.
    Returns how many values it read of each.

    Raises:
        BadInput: a block is missing.
    """
    from safetensors import safe_open

    blocks: dict[tuple[str, str], list[tuple[Path, str, list[int]]]] = {}
    for path in sorted(directory.glob("rank-*.json")):
        for key, entry in json.loads(path.read_text()).items():
            place = blocks.setdefault((entry["moment"], entry["name"]), [])
            place.append((path.with_suffix(".safetensors"), key, entry["starts"]))
    files: dict[Path, Any] = {}

    def stored(path: Path, key: str) -> Any:
        if path not in files:
            files[path] = safe_open(str(path), framework="pt")
        return files[path].get_slice(key)

    read = dict.fromkeys(MOMENTS, 0)
    for moment in MOMENTS:
        for piece in _held(optimiser, moment, _outlines(model, optimiser, head, moment)):
            wanted = torch.empty(piece.sizes)
            filled = 0
            for path, key, starts in blocks.get((moment, piece.name), ()):
                block = stored(path, key)
                here, there = _overlap(piece, starts, block.get_shape())
                if here is not None:
                    part = block[there] if there else block[:]
                    wanted[here] = part
                    filled += part.numel()
            if filled != wanted.numel():
                raise BadInput(
                    f"{moment} of {piece.name}: {filled} of {wanted.numel()} values are there",
                    where=str(directory),
                    remedy="The resume point is damaged: start the stage afresh with --force STAGE",
                )
            piece.write_block(wanted)
            read[moment] += filled
    optimiser.write_back()
    return read


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
