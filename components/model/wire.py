"""Weights on the wire: the blocks of one sender as one flat buffer, described and checksummed.

One buffer is one object for Ray, shared read-only by every reader of a node. The checksum covers names, places, dtypes
and bytes. It is xxh3-128, made to find damage, not malice: at about 29 GiB/s on one core it costs a fifth of copying
the same bytes, where sha256 (0.5 GiB/s here) would cost more than everything else of an exchange together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import xxhash

from components.failures import InfrastructureError, IntegrityError
from components.model.shards import Piece

ALIGNMENT = 64
FETCH_DEADLINE_S = 300.0


@dataclass(frozen=True)
class Block:
    """A block of the tensor `name` of shape `shape`, from `starts` on with `sizes`; `offset`: bytes into the buffer."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    starts: tuple[int, ...]
    sizes: tuple[int, ...]
    offset: int

    @property
    def bytes(self) -> int:
        return int(np.prod(self.sizes, dtype=np.int64)) * np.dtype(self.dtype).itemsize

    def array(self, buffer: np.ndarray) -> np.ndarray:
        """A view of the block in its buffer."""
        return buffer[self.offset : self.offset + self.bytes].view(self.dtype).reshape(self.sizes)


@dataclass(frozen=True)
class ShardLayout:
    """What one sender's buffer holds, and the checksum of both as it was sent."""

    blocks: tuple[Block, ...]
    checksum: str

    @property
    def bytes(self) -> int:
        return sum(block.bytes for block in self.blocks)


def place_blocks(
    described: Iterable[tuple[str, str, Sequence[int], Sequence[int], Sequence[int]]],
) -> tuple[Block, ...]:
    """Blocks one after another, each on a 64-byte boundary. described: (name, dtype, shape, starts, sizes)."""
    blocks: list[Block] = []
    offset = 0
    for name, dtype, shape, starts, sizes in described:
        blocks.append(Block(name, dtype, tuple(shape), tuple(starts), tuple(sizes), offset))
        offset += -(-blocks[-1].bytes // ALIGNMENT) * ALIGNMENT
    return tuple(blocks)


def allocate(blocks: Sequence[Block]) -> np.ndarray:
    """[bytes] uint8, large enough for the blocks; zero between them, since the checksum covers all of it."""
    return np.zeros(blocks[-1].offset + -(-blocks[-1].bytes // ALIGNMENT) * ALIGNMENT if blocks else 0, dtype=np.uint8)


@torch.no_grad()
def pack_pieces(pieces: Sequence[Piece], buffer: np.ndarray | None = None) -> tuple[ShardLayout, np.ndarray]:
    """(layout, buffer) of a rank's pieces in float32, copied once, straight from where the model keeps them.

    buffer: one of an earlier call with the same pieces, to be written again.
    """
    blocks = place_blocks((piece.name, "<f4", piece.shape, piece.starts, piece.sizes) for piece in pieces)
    buffer = allocate(blocks) if buffer is None else buffer
    for block, piece in zip(blocks, pieces, strict=True):
        torch.from_numpy(block.array(buffer)).view(piece.view.shape).copy_(piece.view)
    return ShardLayout(blocks, checksum_of(blocks, buffer)), buffer


def checksum_of(blocks: tuple[Block, ...], buffer: np.ndarray) -> str:
    """xxh3-128 over the description and the bytes, hex."""
    digest = xxhash.xxh3_128(repr(blocks).encode())
    digest.update(memoryview(buffer))
    return digest.hexdigest()


def unpack(layouts: Sequence[ShardLayout], buffers: Sequence[np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Whole tensors in the order in which they are first met: views where one block is the whole, else put together.

    Raises:
        IntegrityError: the blocks do not cover a tensor exactly once.
    """
    parts: dict[str, list[tuple[Block, np.ndarray]]] = {}
    for layout, buffer in zip(layouts, buffers, strict=True):
        for block in layout.blocks:
            parts.setdefault(block.name, []).append((block, buffer))
    for name, blocks in parts.items():
        first, buffer = blocks[0]
        covered = sum(block.bytes for block, _ in blocks)
        if covered != int(np.prod(first.shape, dtype=np.int64)) * np.dtype(first.dtype).itemsize:
            raise IntegrityError(f"the {len(blocks)} blocks of {name} hold {covered} bytes, not those of {first.shape}")
        if len(blocks) == 1:
            yield name, first.array(buffer)
            continue
        whole = np.empty(first.shape, first.dtype)
        for block, buffer in blocks:
            place = tuple(slice(start, start + size) for start, size in zip(block.starts, block.sizes, strict=True))
            whole[place] = block.array(buffer)
        yield name, whole


@dataclass(frozen=True)
class WeightShards(Mapping[str, np.ndarray]):
    """The weights as the learners shared them: descriptions here, bytes in Ray's object store.

    sources: per shard, what `ray.get` reads. As a mapping (name -> whole float32 array) it reads them all: for tests
    and small tools; engines are handed the sources.
    """

    layouts: tuple[ShardLayout, ...]
    sources: tuple[Any, ...]

    def __getitem__(self, name: str) -> np.ndarray:
        return self._whole[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(block.name for layout in self.layouts for block in layout.blocks))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def items(self):
        return self._whole.items()

    def values(self):
        return self._whole.values()

    def buffers(self) -> list[np.ndarray]:
        """The shards' bytes, read without a copy where they are on this node."""
        return received(self.sources)

    @cached_property
    def _whole(self) -> dict[str, np.ndarray]:
        return dict(unpack(self.layouts, self.buffers()))


def received(sources: Sequence[Any]) -> list[np.ndarray]:
    """The buffers of shards that are arrays already, or references into Ray's object store (read without a copy).

    Raises:
        InfrastructureError: whoever shared them is gone, or they did not come in time.
    """
    if all(isinstance(source, np.ndarray) for source in sources):
        return list(sources)
    import ray

    try:
        return ray.get(list(sources), timeout=FETCH_DEADLINE_S)
    except ray.exceptions.RayError as error:
        raise InfrastructureError(f"shared weights cannot be read: {error}. Publish them again") from error
