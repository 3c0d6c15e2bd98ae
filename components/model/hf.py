"""Hugging Face BailingMoeV2 weights to and from the megatron-core model, bit for bit, and their directories.

Which part of which tensor a rank holds is known by components.model.shards; what learners hold is written by
components.model.hf_sent. Names are those of FACTS and of inclusionAI's checkpoints.

Tensors of the MTP layer are written to files of their own, `mtp*.safetensors`, which the index does not name: vLLM 0.32
loads what the index names and refuses a layer its BailingMoeV2 has no place for. They are read from there, and from
among the others, as inclusionAI's base models have them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from components.failures import BadInput
from components.model import fp8, int4
from components.model.hf_config import (
    CONFIGURATION_FILE,
    CONFIGURATION_SOURCE,
    FP8,
    INT4,
    INT4_DENSE,
    QUANTISED,
    REST,
    config_json,
    quantisation,
    spec_from_config,
)
from components.model.shards import Piece, joined, pieces, tensor_shapes
from components.model.spec import LingSpec

if TYPE_CHECKING:
    from components.model.builder import LingModel

SHARD_BYTES = 5 * 1024**3
INDEX = "model.safetensors.index.json"
MTP_FILE = "mtp"

Tensors = Iterable[tuple[str, Tensor]]
_QUANTISERS: Mapping[str, Callable[[Tensors], Tensors]] = {
    FP8: fp8.quantised,
    INT4: int4.quantised,
    INT4_DENSE: partial(int4.quantised, experts=False),
}
_DEQUANTISERS: Mapping[str, Callable[[Tensors, str], Iterator[tuple[str, Tensor]]]] = {
    FP8: fp8.dequantised,
    INT4: int4.dequantised,
    INT4_DENSE: int4.dequantised,
}


def hf_state(model: LingModel, spec: LingSpec) -> Iterator[tuple[str, Tensor]]:
    """Every weight of an undivided model under its HF name, in the model's dtype. Tensors may be views: copy what must
    outlive a step."""
    return joined(pieces(model, spec))


@torch.no_grad()
def load_hf_state(
    model: LingModel, spec: LingSpec, tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]], where: str = ""
) -> None:
    """Copies HF tensors into the model: of each tensor the part that belongs to this rank.

    Raises:
        BadInput: a tensor is missing, unknown or of another shape; the model may be partly written then.
    """
    shapes = tensor_shapes(spec)
    held: dict[str, list[Piece]] = {}
    for piece in pieces(model, spec):
        held.setdefault(piece.name, []).append(piece)
    missing = dict.fromkeys(shapes)
    for name, value in tensors.items() if isinstance(tensors, Mapping) else tensors:
        if name not in missing:
            raise BadInput(
                f"tensor {name} is not part of {spec.name} (given twice, or another architecture)",
                where=where,
                remedy="Check num_hidden_layers, num_experts and first_k_dense_replace in config.json",
            )
        if tuple(value.shape) != shapes[name]:
            raise BadInput(
                f"tensor {name} has shape {tuple(value.shape)}, {spec.name} needs {shapes[name]}", where=where
            )
        del missing[name]
        for piece in held.get(name, ()):
            piece.write(value)
    if missing:
        raise BadInput(
            f"{len(missing)} tensors are missing, the first is {(first := next(iter(missing)))}",
            where=where,
            remedy=incomplete(first, spec),
        )


def incomplete(first: str, spec: LingSpec) -> str:
    """What to do about a missing tensor."""
    if first.startswith(spec.mtp_prefix):
        return "config.json promises an MTP layer: set model.mtp_layers to 0 to go without"
    return "The checkpoint is incomplete: download it again"


def write_hf_directory(
    directory: Path,
    spec: LingSpec,
    tensors: Iterable[tuple[str, Tensor]],
    tokenizer: Any,
    dtype: str = "float32",
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a directory that transformers and vLLM load: config, safetensors shards, tokenizer, template, generation.

    dtype: `float32`, `bfloat16`, or one of QUANTISED: `fp8` (components.model.fp8), `int4` and `int4-dense`
    (components.model.int4), whose other tensors are bfloat16. The router weight and expert bias stay float32 whatever
    it is, as inclusionAI's releases keep them.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if dtype in _QUANTISERS:
        tensors = _QUANTISERS[dtype](tensors)
    shards = _write_shards(directory, tensors, dtype, shard_bytes, spec.mtp_prefix)
    describe(directory, spec, list(_named(directory, shards)), tokenizer, dtype)


@dataclass(frozen=True)
class Shard:
    """One safetensors file: its name, tensors and bytes. ahead: they are the MTP layer's."""

    file: str
    tensors: tuple[str, ...]
    bytes: int
    ahead: bool = False


def _write_shards(
    directory: Path, tensors: Iterable[tuple[str, Tensor]], dtype: str, shard_bytes: int, mtp_prefix: str
) -> list[Shard]:
    """Writes shards under passing names, since their final ones hold the number of all."""
    from safetensors.torch import save_file

    written: list[Shard] = []
    shard: dict[str, Tensor] = {}
    used, ahead = 0, False

    def flush() -> None:
        name = f".shard-{len(written)}.partial"
        save_file(shard, str(directory / name), metadata={"format": "pt"})
        written.append(Shard(name, tuple(shard), used, ahead))

    for name, tensor in tensors:
        stored = tensor.detach().to("cpu", stored_as(name, tensor.dtype, dtype), copy=True).contiguous()
        size = stored.numel() * stored.element_size()
        if shard and (used + size > shard_bytes or ahead != name.startswith(mtp_prefix)):
            flush()
            shard, used = {}, 0
        ahead = name.startswith(mtp_prefix)
        shard[name] = stored
        used += size
    if shard:
        flush()
    return written


def stored_as(name: str, own: torch.dtype, dtype: str) -> torch.dtype:
    """What a tensor of dtype `own` is written as."""
    if own in (torch.float8_e4m3fn, torch.int32, torch.int64):  # what a quantiser made
        return own
    if ".mlp.gate." in name or name.endswith(fp8.SCALE):
        return torch.float32
    return getattr(torch, REST if dtype in QUANTISED else dtype)


def file_names(ahead: Sequence[bool]) -> list[str]:
    """Of all weight files, each told whether it is the MTP layer's: those are counted for themselves."""
    total, count, names = Counter(ahead), Counter[bool](), []
    for each in ahead:
        count[each] += 1
        number = f"-{count[each]:05d}-of-{total[each]:05d}" if total[each] > 1 else ""
        names.append(f"{MTP_FILE if each else 'model'}{number}.safetensors")
    return names


def _named(directory: Path, shards: Sequence[Shard]) -> Iterator[Shard]:
    """The shards under their final names."""
    for name, shard in zip(file_names([shard.ahead for shard in shards]), shards, strict=True):
        (directory / shard.file).rename(directory / name)
        yield replace(shard, file=name)


def describe(directory: Path, spec: LingSpec, shards: Iterable[Shard], tokenizer: Any, dtype: str) -> None:
    """Writes everything beside the weights."""
    named = [shard for shard in shards if not shard.ahead]
    weight_map = {name: shard.file for shard in named for name in shard.tensors}
    total = sum(shard.bytes for shard in named)
    _write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    _write_json(directory / "config.json", config_json(spec, tokenizer, dtype))
    _write_json(
        directory / "generation_config.json",
        {
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "do_sample": True,
            "temperature": 1.0,
            "top_p": 1.0,
        },
    )
    (directory / CONFIGURATION_FILE).write_text(CONFIGURATION_SOURCE)
    tokenizer.save_pretrained(str(directory))


def read_hf_directory(directory: Path, mtp: bool = True) -> tuple[LingSpec, Iterator[tuple[str, Tensor]]]:
    """(architecture, tensors) of a BailingMoeV2 directory; tensors are read one at a time, any dtype, what is
    quantised as float32. mtp: False leaves out the MTP layer, if it has one.

    Raises:
        BadInput: config.json is missing, of another model or another quantisation; a shard is missing, damaged or lacks
            a listed tensor.
    """
    directory = Path(directory)
    spec = spec_from_config(directory / "config.json")
    spec = spec if mtp else spec.without_mtp()
    quantised = quantisation(directory / "config.json")
    index = directory / INDEX
    weight_map: dict[str, str] | None = None
    if index.is_file():
        try:
            weight_map = json.loads(index.read_text())["weight_map"]
        except (json.JSONDecodeError, KeyError) as error:
            raise BadInput(f"not a safetensors index: {error}", where=str(index)) from error
    there = [path.name for path in directory.iterdir() if path.is_file()]
    files = shard_files(there, weight_map, spec, str(directory))
    tensors = _read_shards(directory, files, spec)
    return spec, tensors if quantised is None else _DEQUANTISERS[quantised](tensors, str(directory))


def shard_files(there: Collection[str], weight_map: Mapping[str, str] | None, spec: LingSpec, where: str) -> list[str]:
    """The files of a directory that hold the weights.

    there: names of its files. weight_map: of its index, if it has one. Raises BadInput when one is absent.
    """
    weights = sorted(name for name in there if name.endswith(".safetensors"))
    if weight_map is not None:
        files = sorted(set(weight_map.values()))
    else:
        files = [name for name in weights if name != "head.safetensors" and not name.startswith(MTP_FILE)]
    if spec.num_nextn_predict_layers:
        files += [name for name in weights if name.startswith(MTP_FILE) and name not in files]
    if not files:
        raise BadInput("no *.safetensors", where=where, remedy="Only safetensors checkpoints are read")
    for name in files:
        if name not in there:
            raise BadInput("the shard is listed in the index but absent", where=f"{where}/{name}")
    return files


def _read_shards(directory: Path, files: list[str], spec: LingSpec) -> Iterator[tuple[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    for name in files:
        try:
            with safe_open(str(directory / name), framework="pt") as shard:
                for key in shard.keys():  # noqa: SIM118  safe_open is not iterable
                    if spec.num_nextn_predict_layers or not key.startswith(spec.mtp_prefix):
                        yield key, shard.get_tensor(key)
        except SafetensorError as error:
            raise BadInput(f"damaged safetensors file: {error}", where=str(directory / name)) from error


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
