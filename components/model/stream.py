"""The whole model as a stream of HF tensors, one at a time, on the first rank or on all: what feeds engines on GPUs.

A collective of all ranks: every tensor's blocks are sent by the ranks that own them (components.model.shards) in the
order of `tensor_shapes`, so a rank holds its own part and one whole tensor more, never the model.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from components.model.builder import LingModel
from components.model.shards import Piece, assemble, owned, pieces, served, tensor_shapes

# rank, starts, sizes
Origin = tuple[int, tuple[int, ...], tuple[int, ...]]


class WholeTensors:
    """The tensors that engines have: of an MTP layer they get nothing.

    Iterates (name, tensor) on rank 0, or `everywhere`, and (name, None) elsewhere; as often as wanted.

    The owners are agreed on once, when it is made: also a collective.
    """

    def __init__(self, model: LingModel, everywhere: bool = False) -> None:
        self.everywhere = everywhere
        self.model, self.shapes = model, tensor_shapes(model.spec.without_mtp())
        self.rank, self.world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        mine = [(piece.name, piece.starts, piece.sizes) for piece in self._own()]
        everyone: list[list[tuple[str, tuple[int, ...], tuple[int, ...]]]] = [[] for _ in range(self.world)]
        torch.distributed.all_gather_object(everyone, mine)
        self.origins: dict[str, list[Origin]] = {name: [] for name in self.shapes}
        for rank, blocks in enumerate(everyone):
            for name, starts, sizes in blocks:
                self.origins[name].append((rank, starts, sizes))

    def _own(self) -> list[Piece]:
        return owned(served(pieces(self.model, self.model.spec), self.model.spec))

    @torch.no_grad()
    def __iter__(self) -> Iterator[tuple[str, Tensor | None]]:
        own = {(piece.name, piece.starts): piece for piece in self._own()}
        device = next(self.model.parameters()).device
        for name, shape in self.shapes.items():
            blocks: list[tuple[tuple[int, ...], Tensor]] = []
            if self.everywhere:
                for rank, starts, sizes in self.origins[name]:
                    blocks.append((starts, self._shared(own.get((name, starts)), rank, sizes, name)))
                yield name, assemble(shape, blocks)
                continue
            for rank, starts, sizes in self.origins[name]:
                piece = own.get((name, starts))
                if rank == self.rank == 0 and piece is not None:
                    blocks.append((starts, piece.read()))
                elif self.rank == 0:
                    received = torch.empty(sizes, dtype=self.dtype(name), device=device)
                    torch.distributed.recv(received, rank)
                    blocks.append((starts, received))
                elif rank == self.rank and piece is not None:
                    torch.distributed.send(piece.read().contiguous(), 0)
            yield name, assemble(shape, blocks) if self.rank == 0 else None

    def _shared(self, piece: Piece | None, rank: int, sizes: tuple[int, ...], name: str) -> Tensor:
        """One block, on every rank."""
        if piece is not None and rank == self.rank:
            block = piece.read().contiguous()
        else:
            block = torch.empty(sizes, dtype=self.dtype(name), device=next(self.model.parameters()).device)
        if self.world > 1:
            torch.distributed.broadcast(block, rank)
        return block

    def dtype(self, name: str) -> torch.dtype:
        """Of a weight on every rank: router bias and LM head are always float32 (components.model.builder)."""
        always = name == "lm_head.weight" or name.endswith("expert_bias")
        return torch.float32 if always else self.model.config.params_dtype
