"""Imports a Hugging Face BailingMoeV2 checkpoint as a stage's `model/`: checked tensor by tensor, stored as float32."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from torch import Tensor

from components.artifacts.objects import open_objects
from components.failures import BadInput
from components.model.architecture import check_architecture
from components.model.hf import incomplete, read_hf_directory, tensor_shapes, write_hf_directory
from components.model.spec import LingSpec
from components.model.tokenizer import check_tokenizer, load_tokenizer

NEEDED = (".json", ".safetensors", ".jinja", ".model", ".txt")


def import_checkpoint(uri: str, spec: LingSpec, tokenizer_source: str, output: Path, scratch: Path) -> dict[str, int]:
    """Copies the checkpoint at `uri` into `output`. Returns {tensors, parameters}.

    Args:
        uri: file://, s3:// or a plain path of a directory.
        tokenizer_source: the recipe's tokenizer, which must be the checkpoint's.

    Raises:
        BadInput: another tokenizer (both hashes), another architecture, tensors missing or of another shape.
        InfrastructureError: the storage does not answer.
    """
    directory = _local(uri, scratch)
    found, tensors = read_hf_directory(directory, mtp=bool(spec.num_nextn_predict_layers))
    check_architecture(found, spec, uri)
    tokenizer = load_tokenizer(tokenizer_source)
    check_tokenizer(load_tokenizer(directory), tokenizer, uri)
    counted = {"tensors": 0, "parameters": 0}
    write_hf_directory(output, spec, _checked(tensors, spec, uri, counted), tokenizer)
    return counted


def _checked(
    tensors: Iterable[tuple[str, Tensor]], spec: LingSpec, where: str, counted: dict[str, int]
) -> Iterator[tuple[str, Tensor]]:
    missing = tensor_shapes(spec)
    for name, tensor in tensors:
        shape = missing.pop(name, None)
        if shape is None:
            raise BadInput(f"tensor {name} is not part of {spec.name}, or given twice", where=where)
        if tuple(tensor.shape) != shape:
            raise BadInput(f"tensor {name} has shape {tuple(tensor.shape)}, {spec.name} needs {shape}", where=where)
        if not bool(tensor.isfinite().all()):
            raise BadInput(f"tensor {name} holds NaN or infinity", where=where, remedy="The checkpoint is damaged")
        counted["tensors"] += 1
        counted["parameters"] += tensor.numel()
        yield name, tensor
    if missing:
        raise BadInput(
            f"{len(missing)} tensors are missing, the first is {(first := next(iter(missing)))}",
            where=where,
            remedy=incomplete(first, spec),
        )


def _local(uri: str, scratch: Path) -> Path:
    """A local directory with the checkpoint's files."""
    parts = urlsplit(uri)
    if parts.scheme in ("", "file"):
        directory = Path(unquote(parts.path)) if parts.scheme else Path(uri)
        if not directory.is_dir():
            raise BadInput("no such directory", where=f"base.uri: {uri}", remedy="Name a Hugging Face directory")
        return directory
    objects = open_objects(uri)
    target = scratch / "import"
    shutil.rmtree(target, ignore_errors=True)
    for key in objects.files(""):
        name = PurePosixPath(key)
        if len(name.parts) == 1 and name.suffix in NEEDED:
            target.mkdir(parents=True, exist_ok=True)
            objects.get(key, target / name.name)
    if not target.is_dir():
        raise BadInput("no files there", where=f"base.uri: {uri}", remedy="Name a Hugging Face directory")
    return target
