"""Command lines that serve a release where ringflow is not installed: plain vLLM and SGLang, on one node or several.

Both read the configuration class that comes with the release (`--trust-remote-code`). Several nodes: the same line on
each with its own rank; clients ask node 0. The pinned vLLM's own parser takes its lines (test); SGLang is not installed
here, its options are those of Ring-1T's model card.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from components.failures import BadInput
from components.release.server_command import ServeOptions, served_name, stored_dtype, stretched

HEAD = "HEAD_ADDRESS"
RENDEZVOUS_PORT = 20000


def check_nodes(options: ServeOptions) -> None:
    """Raises BadInput when the devices cannot be divided over the nodes."""
    devices = options.tensor_parallel * options.pipeline_parallel
    if devices % options.nodes:
        raise BadInput(
            f"{options.tensor_parallel} x {options.pipeline_parallel} devices on {options.nodes} nodes",
            where="--nodes",
            remedy="tensor-parallel times pipeline-parallel must be a multiple of the nodes",
        )


@dataclass(frozen=True)
class _Server:
    """How one server spells what all of them are told. rank: what only a node of several is told, by its number."""

    start: tuple[str, ...]
    length: str
    override: str
    tensor: str
    pipeline: str
    rank: Callable[[int], list[str]]


_VLLM = _Server(
    ("vllm", "serve"),
    "--max-model-len",
    "--hf-overrides",
    "--tensor-parallel-size",
    "--pipeline-parallel-size",
    lambda rank: ["--master-addr", HEAD, *["--headless"] * (rank > 0)],
)
_SGLANG = _Server(
    ("python", "-m", "sglang.launch_server", "--model-path"),
    "--context-length",
    "--json-model-override-args",
    "--tp-size",
    "--pp-size",
    lambda rank: ["--dist-init-addr", f"{HEAD}:{RENDEZVOUS_PORT}"],
)


def vllm_commands(model: str | Path, options: ServeOptions) -> list[str]:
    """One line per node. model: a directory, or what the nodes call it. Raises BadInput for layouts that do not fit."""
    return _lines(_VLLM, model, options)


def sglang_commands(model: str | Path, options: ServeOptions) -> list[str]:
    """As `vllm_commands`, for SGLang."""
    return _lines(_SGLANG, model, options)


def _lines(server: _Server, model: str | Path, options: ServeOptions) -> list[str]:
    check_nodes(options)
    common = ["--trust-remote-code", "--dtype", _dtype(model, options), "--reasoning-parser", "qwen3"]
    common += ["--served-model-name", _name(model, options)]
    if options.max_model_len is not None:
        common += [server.length, str(options.max_model_len)]
    if options.yarn_factor is not None:
        common += [server.override, json.dumps(_stretched(model, options.yarn_factor))]
    common += [server.tensor, str(options.tensor_parallel)]
    if options.pipeline_parallel > 1:
        common += [server.pipeline, str(options.pipeline_parallel)]

    def line(rank: int) -> str:
        found = [*server.start, str(model), *_address(options, rank), *common]
        if options.nodes > 1:
            found += ["--nnodes", str(options.nodes), "--node-rank", str(rank), *server.rank(rank)]
        return shlex.join(found)

    return [line(rank) for rank in range(options.nodes)]


def _address(options: ServeOptions, rank: int) -> list[str]:
    return ["--host", options.host, "--port", str(options.port)] if rank == 0 else []


def _here(model: str | Path) -> bool:
    return (Path(model) / "config.json").is_file()


def _dtype(model: str | Path, options: ServeOptions) -> str:
    if options.dtype != "auto":
        return options.dtype
    return stored_dtype(Path(model)) if _here(model) else "bfloat16"


def _name(model: str | Path, options: ServeOptions) -> str:
    if options.served_name:
        return options.served_name
    return served_name(Path(model), options) if _here(model) else Path(model).name


def _stretched(model: str | Path, factor: float) -> dict:
    if not _here(model):
        raise BadInput("YaRN needs the model's own context length", where=str(model), remedy="Name a local directory")
    return stretched(Path(model) / "config.json", factor)
