"""Command lines that serve a release where ringflow is not installed: plain vLLM and SGLang, on one node or several.

Both read the configuration class that comes with the release (`--trust-remote-code`). Several nodes: the same line on
each with its own rank; clients ask node 0. The pinned vLLM's own parser takes its lines (test); SGLang is not installed
here, its options are those of Ring-1T's model card.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

from components.failures import BadInput
from components.release.serve import ServeOptions, served_name, stored_dtype, stretched

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


def vllm_commands(model: str | Path, options: ServeOptions) -> list[str]:
    """One line per node. model: a directory, or what the nodes call it. Raises BadInput for layouts that do not fit."""

    def line(rank: int) -> list[str]:
        found = ["vllm", "serve", str(model), *_address(options, rank)]
        found += ["--trust-remote-code", "--dtype", _dtype(model, options), "--reasoning-parser", "qwen3"]
        found += ["--served-model-name", _name(model, options)]
        if options.max_model_len is not None:
            found += ["--max-model-len", str(options.max_model_len)]
        if options.yarn_factor is not None:
            found += ["--hf-overrides", json.dumps(_stretched(model, options.yarn_factor))]
        found += ["--tensor-parallel-size", str(options.tensor_parallel)]
        if options.pipeline_parallel > 1:
            found += ["--pipeline-parallel-size", str(options.pipeline_parallel)]
        if options.nodes > 1:
            found += ["--nnodes", str(options.nodes), "--node-rank", str(rank), "--master-addr", HEAD]
            found += ["--headless"] * (rank > 0)
        return found

    return _lines(line, options)


def sglang_commands(model: str | Path, options: ServeOptions) -> list[str]:
    """As `vllm_commands`, for SGLang."""

    def line(rank: int) -> list[str]:
        found = ["python", "-m", "sglang.launch_server", "--model-path", str(model), *_address(options, rank)]
        found += ["--trust-remote-code", "--dtype", _dtype(model, options), "--reasoning-parser", "qwen3"]
        found += ["--served-model-name", _name(model, options)]
        if options.max_model_len is not None:
            found += ["--context-length", str(options.max_model_len)]
        if options.yarn_factor is not None:
            found += ["--json-model-override-args", json.dumps(_stretched(model, options.yarn_factor))]
        found += ["--tp-size", str(options.tensor_parallel)]
        if options.pipeline_parallel > 1:
            found += ["--pp-size", str(options.pipeline_parallel)]
        if options.nodes > 1:
            found += ["--nnodes", str(options.nodes), "--node-rank", str(rank)]
            found += ["--dist-init-addr", f"{HEAD}:{RENDEZVOUS_PORT}"]
        return found

    return _lines(line, options)


def _lines(line: Callable[[int], list[str]], options: ServeOptions) -> list[str]:
    check_nodes(options)
    return [shlex.join(line(rank)) for rank in range(options.nodes)]


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
