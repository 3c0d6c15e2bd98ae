"""Weights on their way from the learners to the engines: shards of all senders, a version, and two levels of checksums.

Every learner rank packs the blocks it owns (components.model.wire) and shares them; every engine reads the shards,
recomputes each one's checksum over what it received, and answers with the version and the checksum over all of them.
Nobody between them touches a weight. Whole tensors are put together one at a time, on the engine, and only where tensor
parallelism had cut them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xxhash

from components.failures import IntegrityError
from components.model.wire import ShardLayout, allocate, checksum_of, place_blocks

Layouts = Sequence[ShardLayout]


def pack(weights: Mapping[str, np.ndarray]) -> tuple[Layouts, list[np.ndarray]]:
    """(layouts, buffers) of named whole arrays: one shard."""
    blocks = place_blocks((name, a.dtype.str, a.shape, (0,) * a.ndim, a.shape) for name, a in weights.items())
    buffer = allocate(blocks)
    for block, array in zip(blocks, weights.values(), strict=True):
        block.array(buffer)[...] = array
    return [ShardLayout(blocks, checksum_of(blocks, buffer))], [buffer]


def checksum(layouts: Layouts, buffers: Sequence[np.ndarray] | None = None) -> str:
    """The checksum over all shards, hex: of what was sent, or, with `buffers`, recomputed from what arrived."""
    digest = xxhash.xxh3_128()
    for number, layout in enumerate(layouts):
        found = layout.checksum if buffers is None else checksum_of(layout.blocks, buffers[number])
        digest.update(found.encode())
    return digest.hexdigest()


def verify(expected: str, layouts: Layouts, buffers: Sequence[np.ndarray], where: str) -> None:
    """Raises IntegrityError with both values, and the shard at fault, when what arrived is not what was sent."""
    for number, (layout, buffer) in enumerate(zip(layouts, buffers, strict=True)):
        if (found := checksum_of(layout.blocks, buffer)) != layout.checksum:
            raise IntegrityError(
                f"{where}: shard {number} of {len(layouts)} arrived with checksum {found}, "
                f"sent with {layout.checksum}; refused"
            )
    if (found := checksum(layouts)) != expected:
        raise IntegrityError(f"{where}: weights arrived with checksum {found}, sent with {expected}; refused")
