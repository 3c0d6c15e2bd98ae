"""The weights of learners as a Hugging Face directory that every rank sends its own files of: no host needs a disk for
the model, and none sends more than its share.

A tensor that lies whole on one rank is sent by it, of several that have it by one after another; of one that tensor
parallelism cut, the blocks are gathered by the ranks in turn. Shapes say beforehand which rank's files hold what, so
that files have their names before the first byte; the driver writes the index and everything else beside the weights.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from components.artifacts.folder import Folder, Sent
from components.model.hf import SHARD_BYTES, Shard, describe, file_names, stored_as
from components.model.rows import as_bytes
from components.model.safetensors_header import header
from components.model.shards import Piece, assemble, joined, pieces
from components.model.spec import LingSpec

if TYPE_CHECKING:
    from components.model.builder import LingModel

FORMAT = {"format": "pt"}


@dataclass(frozen=True)
class WeightFile:
    """A safetensors file that a rank sent. ahead: its tensors are the MTP layer's."""

    sent: Sent
    tensors: tuple[str, ...]
    bytes: int
    ahead: bool


@dataclass(frozen=True)
class _Part:
    """One tensor's blocks on this rank. writer: of the tensor parallel ranks the one that sends it; None when they lie
    here whole."""

    name: str
    blocks: list[Piece]
    dtype: torch.dtype
    writer: int | None

    @property
    def bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.blocks[0].shape)


@torch.no_grad()
def send_weights(
    place: Folder, model: LingModel, spec: LingSpec, dtype: str, shard_bytes: int = SHARD_BYTES
) -> list[WeightFile]:
    """Sends this rank's files and tells what they are; a collective of all ranks. dtype: `float32` or `bfloat16`.

    A rank holds at most one whole tensor and a few parts of the upload more than its own weights.
    """
    parts = list(_parts(model, spec, dtype))
    files = _files(parts, model.place.tensor, shard_bytes, spec.mtp_prefix)
    names, written = _names(files, model.layout.world), []
    coming = _tensors(model, parts)
    for name, file in zip(names, files, strict=True):
        front = header(((part.name, part.dtype, part.blocks[0].shape) for part in file.parts), FORMAT)
        written.append(WeightFile(place.send(name, _stream(front, file, coming)), file.tensors, file.bytes, file.ahead))
    for _ in coming:  # blocks that others send have to be given to them all the same
        pass
    return written


def send_description(
    place: Folder, spec: LingSpec, written: Sequence[WeightFile], tokenizer: Any, dtype: str
) -> list[Sent]:
    """Sends index, config.json, tokenizer and the like of what all ranks have sent, and tells what it was."""
    shards = [Shard(each.sent.file.path, each.tensors, each.bytes, each.ahead) for each in written]
    with tempfile.TemporaryDirectory() as directory:
        describe(Path(directory), spec, shards, tokenizer, dtype)
        paths = sorted(path for path in Path(directory).rglob("*") if path.is_file())
        return [place.send(path.relative_to(directory).as_posix(), [path.read_bytes()]) for path in paths]


@dataclass(frozen=True)
class _File:
    parts: list[_Part]
    ahead: bool

    @property
    def tensors(self) -> tuple[str, ...]:
        return tuple(part.name for part in self.parts)

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)


def _parts(model: LingModel, spec: LingSpec, dtype: str) -> Iterator[_Part]:
    """The tensors this rank sends or gives blocks of, in an order that ranks with blocks of the same share: the MTP
    layer's last, and before all of a kind those of wider numbers, which must not lie at odd places of a file."""
    count, cut, found = model.layout.tensor, 0, []
    for number, (name, group) in enumerate(groupby(pieces(model, spec), key=lambda piece: piece.name)):
        blocks = list(group)
        if number % blocks[0].holders != blocks[0].holder:
            continue
        writer = None
        if count > 1 and any(piece.sizes != piece.shape for piece in blocks):
            writer, cut = cut % count, cut + 1
        found.append(_Part(name, blocks, stored_as(name, blocks[0].view.dtype, dtype), writer))
    ahead = spec.mtp_prefix
    yield from sorted(found, key=lambda part: (part.name.startswith(ahead), -part.dtype.itemsize))


def _files(parts: Iterable[_Part], here: int, shard_bytes: int, mtp_prefix: str) -> list[_File]:
    """What of the parts this rank sends, in files of at most `shard_bytes` or one tensor."""
    files: list[_File] = []
    for part in parts:
        if part.writer not in (None, here):
            continue
        ahead = part.name.startswith(mtp_prefix)
        if not files or files[-1].ahead != ahead or files[-1].bytes + part.bytes > shard_bytes:
            files.append(_File([], ahead))
        files[-1].parts.append(part)
    return files


def _names(files: Sequence[_File], world: int) -> list[str]:
    """Final names of this rank's files; a collective."""
    mine = [file.ahead for file in files]
    everyone: list[list[bool]] = [mine]
    rank = 0
    if world > 1:
        rank, everyone = torch.distributed.get_rank(), [[] for _ in range(world)]
        torch.distributed.all_gather_object(everyone, mine)
    names = iter(file_names([ahead for each in everyone for ahead in each]))
    return [[next(names) for _ in each] for each in everyone][rank]


def _stream(front: bytes, file: _File, coming: Iterator[Tensor]) -> Iterator[memoryview | bytes]:
    yield front
    for _ in file.parts:
        yield as_bytes(next(coming))


def _tensors(model: LingModel, parts: Iterable[_Part]) -> Iterator[Tensor]:
    """The tensors that this rank sends, whole, on the host, as they are stored."""
    for part in parts:
        whole = _whole(model, part)
        if whole is not None:
            yield whole.to("cpu", part.dtype).contiguous()


def _whole(model: LingModel, part: _Part) -> Tensor | None:
    """None when another rank sends it; it has this rank's blocks then."""
    if part.writer is None:
        _, whole = next(joined(iter(part.blocks)))
        return whole
    from megatron.core import parallel_state

    group = parallel_state.get_tensor_model_parallel_group()
    here, members = model.place.tensor, torch.distributed.get_process_group_ranks(group)
    gathered: list[tuple[tuple[int, ...], Tensor]] = []
    for piece in part.blocks:
        block = piece.read().contiguous()
        received = [torch.empty_like(block) for _ in members] if here == part.writer else None
        torch.distributed.gather(block, received, dst=members[part.writer], group=group)
        dim = next(i for i, (size, full) in enumerate(zip(piece.sizes, piece.shape, strict=True)) if size != full)
        for other, values in enumerate(received or ()):
            starts = list(piece.starts)
            starts[dim] += (other - here) * piece.sizes[dim]
            gathered.append((tuple(starts), values))
    return assemble(part.blocks[0].shape, gathered) if gathered else None
