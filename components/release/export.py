"""The release directory: what people download, serve and fine-tune.

Weights go from the checkpoint's Hugging Face directory through the architecture check to sharded safetensors in the
release's dtype; tokenizer, chat template (thinking on and off), generation config, config.json and the configuration
file come with them. Nothing in the directory needs this repository.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.failures import BadInput
from components.model.hf import SHARD_BYTES, read_hf_directory, tensor_shapes, write_hf_directory
from components.model.hf_config import FP8, QUANTISED, has_quantised_experts, quantisation
from components.model.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

    from components.model.spec import LingSpec


DTYPES = ("float32", "bfloat16", *QUANTISED)


@dataclass(frozen=True)
class Exported:
    """parameters: (total, active per token). bytes: of all safetensors. shards: their number."""

    parameters: tuple[int, int]
    bytes: int
    shards: int
    context_length: int
    dtype: str


def export(source: Path, target: Path, name: str, dtype: str = "float32", shard_bytes: int = SHARD_BYTES) -> Exported:
    """Writes the release of the checkpoint in `source` to `target`.

    Args:
        source: Hugging Face directory of a checkpoint.
        target: directory to write; must be absent or empty.
        name: of the released model; clients of `ringflow serve` ask for it.
        dtype: one of DTYPES; see components.model.hf.write_hf_directory.

    Raises:
        BadInput: `source` is incomplete or of another architecture, `target` holds something, or no such dtype.
    """
    if dtype not in DTYPES:
        raise BadInput(f"no dtype {dtype!r}", where="dtype", remedy=f"Use one of {', '.join(DTYPES)}")
    if target.exists() and any(target.iterdir()):
        raise BadInput("the release directory is not empty", where=str(target))
    spec, tensors = read_hf_directory(source)
    tokenizer = load_tokenizer(source)
    write_hf_directory(target, spec, _checked(tensors, spec, source), tokenizer, dtype, shard_bytes)
    config_path = target / "config.json"
    config = json.loads(config_path.read_text())
    config_path.write_text(json.dumps(config | {"ringflow_release": name}, indent=2, ensure_ascii=False) + "\n")
    _check_template(target)
    shards = list(target.glob("*.safetensors"))
    size = sum(path.stat().st_size for path in shards)
    return Exported(spec.parameter_count(), size, len(shards), spec.max_position_embeddings, dtype)


def loadable(directory: Path, device: str, scratch: Path) -> Path:
    """A directory with the same weights that vLLM loads on `device`.

    vLLM's FP8 kernels for CPUs need AMX and shapes of whole blocks, and it has none for 4-bit experts: there it is a
    float32 copy below `scratch`, whose weights are those that an engine on a GPU multiplies, without the rounding of
    activations that such an engine adds.
    """
    config = directory / "config.json"
    if device != "cpu" or not (quantisation(config) == FP8 or has_quantised_experts(config)):
        return directory
    copy = scratch / "float32"
    shutil.rmtree(copy, ignore_errors=True)
    export(directory, copy, directory.name)
    return copy


def _checked(tensors: Iterator[tuple[str, Tensor]], spec: LingSpec, source: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the architecture once, in its shape, finite."""
    missing = tensor_shapes(spec)
    for name, tensor in tensors:
        shape = missing.pop(name, None)
        if shape is None or tuple(tensor.shape) != shape:
            raise BadInput(f"tensor {name} has shape {tuple(tensor.shape)}, expected {shape}", where=str(source))
        if not bool(tensor.isfinite().all()):
            raise BadInput(f"tensor {name} holds NaN or infinity", where=str(source))
        yield name, tensor
    if missing:
        raise BadInput(f"{len(missing)} tensors are missing, the first is {next(iter(missing))}", where=str(source))


def _check_template(directory: Path) -> None:
    """The released tokenizer renders a prompt with thinking on and off, and the two differ."""
    tokenizer = load_tokenizer(directory)
    messages = [{"role": "user", "content": "1+1="}]
    on, off = (
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking)
        for thinking in (True, False)
    )
    if on == off:
        raise BadInput(
            "the chat template renders the same with enable_thinking on and off",
            where=str(directory / "chat_template.jinja"),
            remedy="Use a template that honours enable_thinking",
        )
