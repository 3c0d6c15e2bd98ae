"""A rank's part of a Hugging Face directory straight from the store: config, index, headers, and the rows it needs.

No host has to hold a checkpoint that is larger than its disk, and no rank reads what others need.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.artifacts.chunks import Traffic
from components.artifacts.stored import Parts, Stored
from components.failures import BadInput
from components.model.builder import LingModel
from components.model.hf import INDEX, incomplete, shard_files
from components.model.hf_config import quantisation, spec_from_config
from components.model.rows import Rows
from components.model.shards import pieces, tensor_shapes
from components.model.spec import LingSpec

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
# Of a file, which has the header of all but enormous ones.
FRONT_BYTES = 64 << 10


@dataclass(frozen=True)
class Found:
    """Where a tensor lies. start: its first byte in the file."""

    file: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int


def stored_spec(stored: Stored) -> LingSpec:
    """The architecture that config.json names.

    Raises:
        BadInput: as spec_from_config, or the weights are quantised, which no stage writes for another to train.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "config.json")
        if "config.json" in stored.names():
            path.write_bytes(stored.read("config.json"))
        spec = spec_from_config(path)
        if (kind := quantisation(path)) is not None:
            raise BadInput(f"{kind} weights are not trained", where=str(stored), remedy="Import them (base.kind)")
    return spec


@torch.no_grad()
def load_stored(model: LingModel, spec: LingSpec, stored: Stored) -> Traffic:
    """Fills this rank's weights and returns what was read for it.

    Raises:
        BadInput: a tensor is missing, unknown or of another shape or dtype.
        IntegrityError: a file is not what was recorded. The model may be partly written in either case.
    """
    parts, shapes = stored.parts(), tensor_shapes(spec)
    index = json.loads(stored.read(INDEX))["weight_map"] if INDEX in stored.names() else None
    files = shard_files(stored.names(), index, spec, str(stored))
    held = list(pieces(model, spec))
    needed = {piece.name for piece in held}
    listed = set(index or ())
    unknown = sorted(name for name in listed - shapes.keys() if not name.startswith(spec.mtp_prefix))
    if unknown:
        raise BadInput(
            f"tensor {unknown[0]} is not part of {spec.name}",
            where=str(stored),
            remedy="Check num_hidden_layers, num_experts and first_k_dense_replace in config.json",
        )
    # A file that the index does not know may hold anything.
    known = set((index or {}).values())
    wanted = {file for name, file in (index or {}).items() if name in needed} | (set(files) - known)
    found = _headers(parts, sorted(wanted), str(stored))
    missing = [name for name in shapes if (name not in listed and name not in found) or name in needed - found.keys()]
    if missing:
        raise BadInput(
            f"{len(missing)} tensors are missing, the first is {missing[0]}",
            where=str(stored),
            remedy=incomplete(missing[0], spec),
        )
    for piece in held:
        place = found[piece.name]
        if place.shape != shapes[piece.name]:
            problem = f"tensor {piece.name} has shape {place.shape}, {spec.name} needs {shapes[piece.name]}"
            raise BadInput(problem, where=str(stored))
        rows = Rows(torch.empty(piece.sizes, dtype=place.dtype), piece.place, place.shape, piece.write_block)
        parts.want(place.file, place.start + rows.start, place.start + rows.stop, partial(_take, rows, place.start))
    parts.read()
    return parts.traffic


def _take(rows: Rows, tensor: int, start: int, data: memoryview) -> None:
    """Bytes of a file from `start` on; the tensor begins at `tensor`, perhaps after them."""
    skipped = max(tensor - start, 0)
    rows.take(start + skipped - tensor, data[skipped:])


def _headers(parts: Parts, files: Sequence[str], where: str) -> dict[str, Found]:
    """Every tensor of the files."""
    fronts = parts.fronts(dict.fromkeys(files, FRONT_BYTES))
    ends = {file: 8 + int.from_bytes(front[:8], "little") for file, front in fronts.items()}
    fronts |= parts.fronts({file: end for file, end in ends.items() if end > FRONT_BYTES})
    found: dict[str, Found] = {}
    for file, front in fronts.items():
        try:
            header: dict[str, Any] = json.loads(front[8 : ends[file]])
            for name, entry in header.items():
                if name != "__metadata__":
                    start = ends[file] + entry["data_offsets"][0]
                    found[name] = Found(file, DTYPES[entry["dtype"]], tuple(entry["shape"]), start)
        except (ValueError, KeyError) as error:
            raise BadInput(f"not a safetensors file of floats: {error!r}", where=f"{where}/{file}") from error
    return found


def read_tensor(stored: Stored, file: str, name: str) -> Tensor:
    """One tensor of a small safetensors file. Raises BadInput when file or tensor is missing."""
    from safetensors.torch import load

    if file not in stored.names():
        raise BadInput(f"there is no {file}", where=str(stored))
    return load(stored.read(file))[name]
