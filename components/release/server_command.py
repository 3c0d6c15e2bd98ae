"""The command that serves a release on this machine, and what is read of the release, and refused, to write it."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from components.failures import BadInput
from components.model.hf_config import FP8, FP8_BLOCK, INT4, has_quantised_experts, quantisation


@dataclass(frozen=True)
class ServeOptions:
    """host stays on loopback by default: the server has no authentication unless `api_key_env` names a variable.

    dtype: `auto` is the one the release is stored in. max_model_len: the model's own when absent.
    yarn_factor: YaRN over the model's own context.
    kv_cache_gib, threads: CPU hosts only. tensor_parallel, pipeline_parallel: devices (GPU) that share each layer, and
    that share the layers. nodes: machines they stand on; more than one needs a command on each (release.commands).
    """

    host: str = "127.0.0.1"
    port: int = 8000
    served_name: str | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    max_model_len: int | None = None
    max_num_seqs: int = 32
    threads: int = 1
    kv_cache_gib: int = 1
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    nodes: int = 1
    device: Literal["cpu", "cuda"] = "cpu"
    api_key_env: str | None = None
    yarn_factor: float | None = None


def model_directory(model: str | Path) -> Path:
    """The directory with config.json: `model` itself, or the `model/` folder of a release artifact.

    Raises:
        BadInput: there is no servable model.
    """
    root = Path(str(model).removeprefix("file://")).expanduser().resolve()
    for directory in (root, root / "model"):
        if (directory / "config.json").is_file():
            break
    else:
        raise BadInput(
            "no config.json here or in its model/ folder",
            where=str(root),
            remedy="Name a Hugging Face directory or a release artifact",
        )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not (directory / name).is_file():
            raise BadInput(f"the model has no {name}", where=str(directory))
    if not any(directory.glob("*.safetensors")):
        raise BadInput("the model has no *.safetensors", where=str(directory))
    return directory


def serve_command(model: str | Path, options: ServeOptions) -> tuple[list[str], dict[str, str]]:
    """(argv, environment) of the server. Raises BadInput when the model cannot be served."""
    directory = model_directory(model)
    _check_whole_blocks(directory / "config.json", options.tensor_parallel)
    if options.device == "cpu":
        _check_cpu_has_kernels(directory / "config.json")
    arguments = ["serve", str(directory), "--host", options.host, "--port", str(options.port)]
    dtype = stored_dtype(directory) if options.dtype == "auto" else options.dtype
    arguments += ["--served-model-name", served_name(directory, options), "--dtype", dtype]
    # processed_logprobs: log-probs of the distribution that was sampled from, as in training.
    arguments += ["--logprobs-mode", "processed_logprobs", "--max-num-seqs", str(options.max_num_seqs)]
    arguments += ["--reasoning-parser", "qwen3", "--generation-config", str(directory), "--no-enable-log-requests"]
    if options.max_model_len is not None:
        arguments += ["--max-model-len", str(options.max_model_len)]
    if options.yarn_factor is not None:
        arguments += ["--hf-overrides", json.dumps(stretched(directory / "config.json", options.yarn_factor))]
    if options.tensor_parallel > 1:
        arguments += ["--tensor-parallel-size", str(options.tensor_parallel)]
    if options.pipeline_parallel > 1:
        arguments += ["--pipeline-parallel-size", str(options.pipeline_parallel)]
    if options.nodes > 1:
        raise BadInput(
            "one command serves on one machine", where="--nodes", remedy="`--show` prints the command for each node"
        )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    )
    if options.device == "cpu":
        # vLLM rewinds a seeded generator by a CUDA-only call when it prefills a prompt in pieces, and dies of it.
        whole = max(4096, options.max_model_len or _context_length(directory, options.yarn_factor))
        arguments += ["--enforce-eager", "--no-enable-chunked-prefill", "--max-num-batched-tokens", str(whole)]
        environment["VLLM_CPU_KVCACHE_SPACE"] = str(options.kv_cache_gib)
        environment["OMP_NUM_THREADS"] = str(options.threads)
        environment["VLLM_CPU_OMP_THREADS_BIND"] = _cores(options.threads)
        environment.setdefault("TORCHDYNAMO_DISABLE", "1")  # its sampler: 19 s of C++ compiler before the first answer
        environment.setdefault("VLLM_CPU_INT4_W4A8", "0")  # or, with AMX, activations would be rounded to 8 bits
    if options.api_key_env is not None:
        key = os.environ.get(options.api_key_env)
        if not key:
            raise BadInput("the environment variable with the API key is empty", where=options.api_key_env)
        environment["VLLM_API_KEY"] = key  # not an argument: arguments are visible to every user of the machine
    return [sys.executable, "-m", "components.release.vllm_server", *arguments], environment


def _check_whole_blocks(config: Path, tensor_parallel: int) -> None:
    """vLLM multiplies FP8 by blocks of 128 x 128; what one device holds of a projection must be whole ones."""
    if quantisation(config) != FP8:
        return
    fields = json.loads(config.read_text())
    keys = max(1, fields["num_key_value_heads"] // tensor_parallel)
    for field, size in (
        ("hidden_size", fields["hidden_size"]),
        ("num_key_value_heads x head_dim", keys * fields["head_dim"]),
        ("intermediate_size", fields["intermediate_size"] / tensor_parallel),
        ("moe_intermediate_size", fields["moe_intermediate_size"] / tensor_parallel),
    ):
        if size % FP8_BLOCK:
            raise BadInput(
                f"vLLM loads FP8 in blocks of {FP8_BLOCK}, one device would have {size:g} of {field}",
                where=str(config),
                remedy="Serve what `ringflow export MODEL --dtype bfloat16 --out DIR` writes"
                + (", or lower --tensor-parallel" if tensor_parallel > 1 else ""),
            )


def _check_cpu_has_kernels(config: Path) -> None:
    elsewhere = "Serve it with --device cuda, or what `ringflow export MODEL --dtype {} --out DIR` writes"
    if quantisation(config) == FP8 and not _has_amx():
        raise BadInput(
            "vLLM's FP8 kernels for CPUs need AMX, which this one has not",
            where=str(config),
            remedy=elsewhere.format("bfloat16"),
        )
    if quantisation(config) == INT4 and has_quantised_experts(config):
        raise BadInput(
            "vLLM has no kernels for CPUs that compute 4-bit experts behind this model's router",
            where=str(config),
            remedy=f"{elsewhere.format('int4-dense')}: 4 bits but for routed experts",
        )


def _has_amx() -> bool:
    import torch

    return torch.cpu._is_amx_tile_supported()  # what vLLM asks


def served_name(directory: Path, options: ServeOptions) -> str:
    """The name clients ask for: given, or the release's own, or the directory's."""
    if options.served_name:
        return options.served_name
    config = json.loads((directory / "config.json").read_text())
    return str(
        config.get("ringflow_release") or (directory.parent.name if directory.name == "model" else directory.name)
    )


def stretched(path: Path, factor: float) -> dict[str, Any]:
    """What YaRN changes in a config.json: `factor` times the context. Raises BadInput when it is stretched already."""
    config = json.loads(path.read_text())
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if (rope.get("rope_type") or rope.get("type") or "default") != "default":
        raise BadInput(
            f"the model's rotary embedding is {rope.get('rope_type') or rope.get('type')} already", where=str(path)
        )
    length = int(config["max_position_embeddings"])
    rope = {key: value for key, value in rope.items() if key != "type"}
    rope.setdefault("rope_theta", config.get("rope_theta", 10_000.0))
    rope |= {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": length}
    return {"rope_parameters": rope, "max_position_embeddings": int(length * factor)}


def _context_length(directory: Path, yarn_factor: float | None) -> int:
    length = json.loads((directory / "config.json").read_text()).get("max_position_embeddings", 0)
    return int(length * (yarn_factor or 1.0))


def stored_dtype(directory: Path) -> str:
    """The dtype a release is stored in. vLLM's `auto` would run float32 weights in bfloat16, so it must be told."""
    config = json.loads((directory / "config.json").read_text())
    return str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")


def _cores(threads: int) -> str:
    """Cores for vLLM's threads: the last of those this process may use, away from core 0 where others crowd."""
    cores = sorted(os.sched_getaffinity(0))
    return ",".join(map(str, cores[-max(1, threads) :]))
