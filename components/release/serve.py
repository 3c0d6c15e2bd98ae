"""Serving a release with vLLM's OpenAI-compatible server, on loopback unless told otherwise.

`serve` replaces this process by the server (signals and exit codes are then vLLM's); `start` runs it as a child for as
long as a `with` block lasts, for `ringflow chat` and tests.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from components.failures import BadInput, DeadlineExceeded, InfrastructureError
from components.model.hf_config import FP8, FP8_BLOCK, INT4, has_quantised_experts, quantisation

# Read by components.release.vllm_server, which is not imported here: it registers model configurations.
PARENT = "RINGFLOW_SERVER_PARENT"

LAST_WORDS_LINES = 15
FIRST_ERRORS = 3
CAUSE = re.compile(r"\b[A-Z]\w*(Error|Exception): ")


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


@dataclass(frozen=True)
class Server:
    """A server that answers. base_url ends in /v1."""

    base_url: str
    model: str
    pid: int
    log: Path

    def problem(self) -> str:
        """Why it does not answer: the end of its log when it has ended or died; empty while it runs."""
        import psutil

        running = psutil.pid_exists(self.pid) and psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        return "" if running else f"the server is gone; {_last_words(self.log)}"


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


def check_port(host: str, port: int) -> None:
    """Raises BadInput, naming the process where that can be seen, when `port` is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise BadInput(
                f"cannot listen on {host}:{port}: {error.strerror}{_holder(port)}",
                where="--port",
                remedy="Stop that process or choose another port",
            ) from error


def serve(model: str | Path, options: ServeOptions | None = None) -> NoReturn:
    """Replaces this process by the server.

    Raises:
        BadInput: the model cannot be served, or the port is taken.
    """
    options = options or ServeOptions()
    command, environment = serve_command(model, options)
    check_port(options.host, options.port)
    os.execve(command[0], command, environment)


@contextmanager
def start(
    model: str | Path, options: ServeOptions | None = None, *, log: Path | None = None, deadline_s: float = 300.0
) -> Iterator[Server]:
    """A child server, healthy when the block begins and ended, with its children, when the block ends.

    The block stays in one thread: the server ends with the thread that started it, even if that is killed.

    Raises:
        BadInput: as `serve`.
        InfrastructureError: the server ended before it answered; the message has the end of its log.
        DeadlineExceeded: it did not answer within `deadline_s`.
    """
    options = options or ServeOptions()
    command, environment = serve_command(model, options)
    check_port(options.host, options.port)
    log = log or Path(tempfile.mkstemp(prefix="ringflow-serve-", suffix=".log")[1])
    environment |= {PARENT: str(os.getpid())}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
        )
    try:
        _await_health(process, f"http://{options.host}:{options.port}/health", log, deadline_s)
        name = served_name(model_directory(model), options)
        yield Server(f"http://{options.host}:{options.port}/v1", name, process.pid, log)
    finally:
        _end(process)


def _await_health(process: subprocess.Popen, url: str, log: Path, deadline_s: float) -> None:
    import httpx

    until = time.monotonic() + deadline_s
    while time.monotonic() < until:
        if process.poll() is not None:
            raise InfrastructureError(f"the server ended with status {process.returncode}; {_last_words(log)}")
        try:
            if httpx.get(url, timeout=5.0).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    raise DeadlineExceeded(f"the server did not answer at {url} within {deadline_s:g} s; {_last_words(log)}")


def _end(process: subprocess.Popen) -> None:
    """Ends the server and the engine processes it started: first politely, then not."""
    import psutil

    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        process.wait()
        return
    process.terminate()
    _, alive = psutil.wait_procs(family, timeout=15)
    for member in alive:
        member.kill()
    process.wait(timeout=15)


def _last_words(log: Path) -> str:
    """The end of a log, and the first errors before it: vLLM's own process says last that another one failed."""
    lines = log.read_text(errors="replace").splitlines()
    errors = [line for line in lines[:-LAST_WORDS_LINES] if CAUSE.search(line)][:FIRST_ERRORS]
    causes = "".join(f"\n{line}" for line in errors)
    end = "\n".join(lines[-LAST_WORDS_LINES:])
    return (f"its first errors:{causes}\n" if causes else "") + f"end of {log}:\n{end}"


def _cores(threads: int) -> str:
    """Cores for vLLM's threads: the last of those this process may use, away from core 0 where others crowd."""
    cores = sorted(os.sched_getaffinity(0))
    return ",".join(map(str, cores[-max(1, threads) :]))


def _holder(port: int) -> str:
    import psutil

    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f" by process {connection.pid} ({psutil.Process(connection.pid).name()})"
    except psutil.Error:
        return ""
    return ""
