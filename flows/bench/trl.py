"""ringflow beside TRL's GRPOTrainer on this machine: completion tokens per second from prompt to updated weights.

Same in both: the model's shape (TRL's is Qwen3-MoE, its nearest: no shared expert, softmax router), float32, prompts,
32 x 8 responses a step, forced lengths, two updates a step, a reward that costs nothing. Different, as each does it:
TRL generates with transformers in one static batch and one process on both cores; ringflow has an engine and a learner
per core, taking turns, and in the long-tailed setting C3PO++ beside the synchronous loop.

TRL lives in an environment of its own:

    python3.11 -m venv ENV && ENV/bin/pip install trl torch && ringflow bench trl --option python=ENV/bin/python
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from components.artifacts.local import LocalContext
from components.failures import BadInput, InfrastructureError
from components.model.spec import spec_for
from components.recipe.execution import ExecutionConfig
from components.recipe.rl import RolloutConfig
from flows.bench import Bench, Figure
from flows.bench.rollout import GROUP_SIZE, MODEL, PROMPT_TOKENS, PROMPTS_PER_STEP, Lengths, measure_mode

# Name -> (lengths, steps, of which the first are left out). As measured before (FACTS 7): mean 38, and 105.
SETTINGS = {
    "short, up to 48": (lambda: Lengths(38, 0.22, 48), 5),
    "long-tailed, up to 384": (lambda: Lengths(72, 0.95, 384), 4),
}
WARMUP = 1
MINIBATCHES = 2
SCRIPT = Path(__file__).with_name("_trl_grpo.py")
DEADLINE_S = 3600.0


def run(python: str = "", steps: int | None = None) -> Bench:
    """python: of an environment with TRL. steps: of each setting, the first left out.

    Raises:
        BadInput: there is no such Python, or TRL cannot be imported there.
    """
    version = _check(python)
    execution = ExecutionConfig()
    figures: dict[str, Figure] = {}
    setup: dict[str, Any] = {
        "model": f"{MODEL.preset}; TRL: Qwen3-MoE of its shape",
        "trl": version,
        "step": f"{PROMPTS_PER_STEP} prompts x {GROUP_SIZE}, {MINIBATCHES} updates, float32",
    }
    for name, (make, usual) in SETTINGS.items():
        lengths, count = make(), (steps or usual) + WARMUP
        setup[name] = (
            f"mean {lengths.values.mean():.0f}, longest {lengths.values.max()}, {count - WARMUP} steps measured"
        )
        ours = _ringflow(lengths, count, execution)
        theirs = _trl(python, lengths, count)
        figures[f"{name}: TRL"] = Figure.of(theirs, "tokens/s")
        for mode, rates in ours.items():
            figures[f"{name}: ringflow, {mode}"] = Figure.of(rates, "tokens/s")
            ratio = float(np.median(rates) / np.median(theirs))
            figures[f"{name}: {mode} over TRL"] = Figure(ratio, "x", min(rates) / max(theirs), max(rates) / min(theirs))
    return Bench(figures, setup)


def _ringflow(lengths: Lengths, count: int, execution: ExecutionConfig) -> dict[str, list[float]]:
    """Mode -> tokens per second of each step after the warm-up."""
    from components.cluster.warm import release_all
    from components.rollout.group import warm_engines
    from components.training.group import borrow_learners

    common = {
        "prompts_per_step": PROMPTS_PER_STEP,
        "group_size": GROUP_SIZE,
        "max_new_tokens": int(lengths.values.max()),
    }
    budget = int(lengths.values.sum())
    modes = {
        "synchronous": RolloutConfig(**common),
        "c3po++": RolloutConfig(mode="c3po++", token_budget=budget, max_staleness=8, oversample=2.0, **common),
    }
    rates = {}
    try:
        engines = warm_engines(MODEL, "float32", execution)
        with borrow_learners(MODEL, execution) as learners, tempfile.TemporaryDirectory() as folder:
            for mode, rollout in modes.items():
                context = LocalContext(Path(folder) / mode, mode, 0, execution, quiet=True)
                more = 2 if mode == "c3po++" else 0  # its pool fills first
                times, _ = measure_mode(context, learners, engines, lengths, rollout, count + more)
                rates[mode] = [step.tokens / step.total_s for step in times[WARMUP + more :]]
    finally:
        release_all()
    return rates


def _trl(python: str, lengths: Lengths, count: int) -> list[float]:
    """Tokens per second of each step after the warm-up."""
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder) / "job.json"
        job.write_text(json.dumps(_job(Path(folder), lengths, count)))
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONPATH": ""}
        command = [python, "-P", "-W", "ignore", str(SCRIPT), str(job)]  # -P: this folder has a trl.py of its own
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise InfrastructureError(f"TRL took longer than {DEADLINE_S:g} s") from error
    if done.returncode:
        raise InfrastructureError(f"TRL ended with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"seconds"')]
    return [line["tokens"] / line["seconds"] for line in lines[WARMUP:]]


def _job(folder: Path, lengths: Lengths, count: int) -> dict[str, Any]:
    from components.model.tokenizer import decode_response, load_tokenizer

    tokenizer, spec = load_tokenizer(MODEL.tokenizer), spec_for(MODEL)
    tokenizer.save_pretrained(folder / "tokenizer")
    rng = np.random.default_rng(0)
    prompts = [
        decode_response(tokenizer, [int(token) for token in rng.integers(8, 90, PROMPT_TOKENS)])
        for _ in range(PROMPTS_PER_STEP * (count + 1))
    ]
    return {
        "prompts": prompts,
        "tokenizer": str(folder / "tokenizer"),
        "group_size": GROUP_SIZE,
        "minibatches": MINIBATCHES,
        "steps": count,
        "threads": len(os.sched_getaffinity(0)),
        "max_new_tokens": int(lengths.values.max()),
        "lengths": [[lengths(step * lengths.block + at) for at in range(lengths.block)] for step in range(count)],
        "model": _shape(spec, tokenizer),
    }


def _shape(spec: Any, tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": spec.num_hidden_layers,
        "num_attention_heads": spec.num_attention_heads,
        "num_key_value_heads": spec.num_key_value_heads,
        "head_dim": spec.head_dim,
        "num_experts": spec.num_experts,
        "num_experts_per_tok": spec.num_experts_per_tok,
        "moe_intermediate_size": spec.moe_intermediate_size,
        "mlp_only_layers": list(range(spec.first_k_dense_replace)),
        "max_position_embeddings": spec.max_position_embeddings,
        "tie_word_embeddings": False,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _check(python: str) -> str:
    """TRL's version there."""
    remedy = "python3.11 -m venv ENV && ENV/bin/pip install trl torch, then --option python=ENV/bin/python"
    if not python:
        raise BadInput("this benchmark needs the Python of an environment with TRL", where="python", remedy=remedy)
    command = [python, "-c", "import torch, transformers, trl; print(trl.__version__, torch.__version__)"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    except OSError as error:
        raise BadInput(f"cannot run it: {error}", where=python, remedy=remedy) from error
    if done.returncode:
        raise BadInput(f"it cannot import TRL: {done.stderr[-500:]}", where=python, remedy=remedy)
    return done.stdout.strip()
