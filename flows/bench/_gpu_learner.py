"""What a learner does on a device, against itself on the CPU in float32, a float64 loop, and the memory model."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from components.artifacts.folder import Folder
from components.artifacts.manifest import entries_of
from components.model import kernels
from components.model.accelerators import ACCELERATORS, Cluster
from components.model.builder import LingModel
from components.model.cost import step_time
from components.model.layout import UNDIVIDED
from components.model.memory import learner_memory, today
from components.model.spec import PRESETS, LingSpec
from components.recipe.execution import ExecutionConfig
from components.recipe.model import ModelConfig
from components.recipe.rl import IcePopLoss
from components.recipe.training import OptimiserConfig
from components.rl.objective import objective_of
from components.training.blocks import write_index
from components.training.learner import Learner
from components.training.types import PolicySequence, Sequence
from flows.bench import Check, Figure

MODEL = ModelConfig(preset="nano")
OPTIMISER = OptimiserConfig(lr=1e-4, clip_grad_norm=1.0)
# Ring-mini-2.0 with so many of its 20 layers: what one device holds with its optimiser, and kernels of the real shape.
SLICE_LAYERS = 4

Found = tuple[dict[str, Check], dict[str, Figure]]


def run(device: str) -> Iterator[Found]:
    """Checks and figures, group by group."""
    documents = _documents(24, 40, 400)
    reference = on_cpu(_reference, documents)
    here, rounded = (_learner(device, dtype) for dtype in ("float32", "bfloat16"))
    yield _logprobs(reference, here, rounded, documents)
    yield _gradients(reference, here, rounded, documents)
    yield _experts(device)
    yield _dispatcher(here)
    for learner, dtype in ((here, "float32"), (rounded, "bfloat16")):
        yield _state(learner, dtype, documents)
    del here, rounded
    if device == "cuda":
        for dtype, recompute, rows in (("float32", False, None), ("bfloat16", False, None), ("bfloat16", True, 4096)):
            torch.cuda.empty_cache()
            yield _slice(dtype, recompute, rows)


def _learner(device: str, dtype: str, **settings: Any) -> Learner:
    learner = Learner(0, 1, MODEL, ExecutionConfig(device=device, learner_dtype=dtype, threads=4, **settings), seed=1)
    learner.initialise()
    learner.configure(OPTIMISER, 100, expert_bias_rate=0.0)
    return learner


def _documents(count: int, shortest: int, longest: int, vocabulary: int = 112) -> list[Sequence]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(shortest, longest, count)
    return [Sequence(rng.integers(10, vocabulary, n), np.arange(n) >= n // 4) for n in lengths]


def _flat(scored: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    return np.concatenate([logprobs for logprobs, _ in scored])


@dataclass(frozen=True)
class Reference:
    """Of one learner on the CPU, float32: log-probs of each document, and the gradient of one step."""

    logprobs: list[np.ndarray]
    gradient: np.ndarray


def on_cpu(reference: Callable[[list[Sequence]], Any], documents: list[Sequence]) -> Any:
    """Computed in a process that sees no GPU: megatron-core puts a router on the current one wherever the model is."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(reference, documents).result(timeout=300)
    finally:
        if hidden is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = hidden


def _reference(documents: list[Sequence]) -> Reference:
    learner = _learner("cpu", "float32")
    logprobs = [values for values, _ in learner.logprobs(documents)]
    return Reference(logprobs, _gradient(learner, documents, logprobs))


def _logprobs(reference: Reference, here: Learner, rounded: Learner, documents: list[Sequence]) -> Found:
    known = np.concatenate(reference.logprobs)
    exact, rough = (np.abs(_flat(learner.logprobs(documents)) - known) for learner in (here, rounded))
    return {
        "log-probs, float32, largest difference to the CPU": Check(float(exact.max()), 2e-4),
        "log-probs, bfloat16, mean difference to float32": Check(float(rough.mean()), 0.02),
        "log-probs, bfloat16, largest difference to float32": Check(float(rough.max()), 1.0),
    }, {}


def _gradient(learner: Learner, documents: list[Sequence], old: list[np.ndarray]) -> np.ndarray:
    """[parameters] of an IcePop step on these documents as rollouts; no weight is changed."""
    rng = np.random.default_rng(1)
    rollouts = [
        PolicySequence(
            document.tokens,
            document.loss_mask,
            behaviour_logprobs=(scored + rng.normal(0, 0.05, len(scored))).astype(np.float32),
            old_logprobs=scored,
            reference_logprobs=None,
            advantages=np.full(len(scored), rng.normal(), np.float32),
            weights=np.full(len(scored), 1 / (len(scored) * len(documents)), np.float32),
        )
        for document, scored in zip(documents, old, strict=True)
    ]
    seen: list[np.ndarray] = []
    learner._update = lambda loss: seen.append(learner.optimiser.grad.cpu().numpy().copy()) or (0.0, 0.0)
    try:
        learner.policy_step(rollouts, objective_of(IcePopLoss(), 400).loss)
    finally:
        del learner._update
    return seen[0]


def _gradients(reference: Reference, here: Learner, rounded: Learner, documents: list[Sequence]) -> Found:
    known = reference.gradient.astype(np.float64)
    exact, rough = (
        float(np.linalg.norm(_gradient(learner, documents, reference.logprobs) - known) / np.linalg.norm(known))
        for learner in (here, rounded)
    )
    return {
        "IcePop gradient, float32, relative difference to the CPU": Check(exact, 1e-3),
        "IcePop gradient, bfloat16, relative difference to float32": Check(rough, 0.2),
    }, {}


def _experts(device: str) -> Found:
    """The grouped products against a loop in float64, with experts that got no token."""
    torch.manual_seed(0)
    tokens, hidden, ffn, experts, topk = 300, 128, 64, 16, 4
    checks = {}
    for dtype, allowed in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        x = torch.randn(tokens, hidden, device=device, dtype=dtype, requires_grad=True)
        fc1 = (torch.randn(experts, 2 * ffn, hidden, device=device) / hidden**0.5).to(dtype).requires_grad_()
        fc2 = (torch.randn(experts, hidden, ffn, device=device) / ffn**0.5).to(dtype).requires_grad_()
        scores = torch.rand(tokens, experts, device=device)
        scores[:, 3] = scores[:, 11] = -1.0
        chosen = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, scores.topk(topk, dim=1).indices, True)
        probs = torch.where(chosen, scores, 0.0).requires_grad_()
        upstream = torch.randn(tokens, hidden, device=device, dtype=dtype)
        kernels.ExpertsFunction.apply(x, probs, chosen, fc1, fc2, topk).backward(upstream)
        leaves = [leaf.detach().double().requires_grad_() for leaf in (x, probs, fc1, fc2)]
        _loop(*leaves, chosen).backward(upstream.double())
        worst = max(
            float((leaf.grad.double() - exact.grad).norm() / exact.grad.norm())
            for leaf, exact in zip((x, probs, fc1, fc2), leaves, strict=True)
        )
        name = str(dtype).removeprefix("torch.")
        checks[f"grouped experts, {name}, gradients against a float64 loop"] = Check(worst, allowed)
        idle = float(fc1.grad[3].abs().sum() + fc2.grad[11].abs().sum())
        checks[f"grouped experts, {name}, gradient of experts without tokens"] = Check(idle, 0.0)
    return checks, {}


def _loop(x: torch.Tensor, probs: torch.Tensor, fc1: torch.Tensor, fc2: torch.Tensor, chosen: torch.Tensor):
    out = torch.zeros_like(x)
    for expert in range(len(fc1)):
        rows = chosen[:, expert].nonzero().squeeze(1)
        gate, up = (x[rows] @ fc1[expert].t()).chunk(2, dim=1)
        inner = torch.nn.functional.silu(gate) * up * probs[rows, expert].unsqueeze(1)
        out = out.index_add(0, rows, inner @ fc2[expert].t())
    return out


def _dispatcher(learner: Learner) -> Found:
    """Megatron's token dispatcher (alltoall on GPUs, allgather on CPUs) beside the kernel that needs none."""
    from components.model.layers import LocalMoELayer

    layer = next(layer.mlp for layer in learner.model.decoder.layers if isinstance(layer.mlp, LocalMoELayer))
    hidden = torch.randn(200, 1, learner.spec.hidden_size, device=learner.device)
    with torch.no_grad():
        own, _ = layer(hidden)
        dispatched, _ = super(LocalMoELayer, layer).forward(hidden)
    difference = float((own - dispatched).abs().max() / own.abs().max())
    return {f"{type(layer.token_dispatcher).__name__}, difference to the fused layer": Check(difference, 1e-5)}, {}


def _state(learner: Learner, dtype: str, documents: list[Sequence]) -> Found:
    """Resume points, memory given back and taken, the same step twice."""

    def losses(learner: Learner) -> list[float]:
        return [learner.train_tokens(documents, 512)["loss"] for _ in range(3)]

    with tempfile.TemporaryDirectory() as directory:
        losses(learner)
        write_index(Path(directory), [learner.save_resume(Folder.local(Path(directory)))])
        place = Folder.local(Path(directory), entries_of(Path(directory)))
        onward = losses(learner)
        learner.load_resume(place)
        again = losses(learner)
        learner.load_resume(place)
        before = _flat(learner.logprobs(documents))
        held = learner.optimiser.master.numel() * 16
        released = learner.offload()
        learner.onload()
        after = _flat(learner.logprobs(documents))
    checks = {
        f"{dtype}: losses after a resume point differ by": Check(
            max(abs(a - b) for a, b in zip(onward, again, strict=True)), 0.0 if learner.device == "cpu" else 1e-5
        ),
        f"{dtype}: log-probs after offload and onload differ by": Check(float(np.abs(before - after).max()), 1e-6),
    }
    if learner.device == "cuda":
        checks[f"{dtype}: share of optimiser state that stayed on the GPU after offload"] = Check(
            max(0.0, 1 - released / held), 0.05
        )
    return checks, {}


def sliced() -> LingSpec:
    """Ring-mini-2.0 with fewer layers."""
    return PRESETS["ring-mini-2.0"].model_copy(
        update={"num_hidden_layers": SLICE_LAYERS, "max_position_embeddings": 4096}
    )


def fill(model: LingModel) -> None:
    """Weights drawn on the device: a billion are not drawn on the host in a check."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        parameter.data.fill_(1.0) if parameter.dim() == 1 else parameter.data.normal_(0, 0.02)
        if "router" in name:
            parameter.data.normal_(0, 0.1)


def _slice(dtype: str, recompute: bool, rows: int | None, kernels: str = "local") -> Found:
    """Peak memory against the memory model, and speed."""
    tokens = 4096 if dtype == "float32" else 8192
    settings = {"micro_batch_tokens": tokens, "recompute": recompute, "logit_rows": rows}
    execution = ExecutionConfig(device="cuda", learner_dtype=dtype, kernels=kernels, **settings)
    learner = Learner(0, 1, MODEL, execution, seed=1)
    learner.spec = sliced()
    torch.cuda.reset_peak_memory_stats()
    learner._reset()
    fill(learner.model)
    learner.configure(OPTIMISER, 100, expert_bias_rate=0.0)
    held = torch.cuda.memory_allocated()
    rng = np.random.default_rng(0)
    documents = [Sequence(rng.integers(10, 157_000, 2048), np.arange(2048) > 0) for _ in range(2 * tokens // 2048)]
    seconds = _timed(lambda: learner.train_tokens(documents, tokens), 4)
    peak = torch.cuda.max_memory_allocated()
    dtype = f"{dtype}{' by Transformer Engine' if execution.fused else ''}"
    name = f"{dtype}{', recompute' if recompute else ''}{f', logits of {rows} rows' if rows else ''}"
    method = today(execution)
    expected = learner_memory(learner.spec, UNDIVIDED, method, 0, tokens, 2, 2048)
    static = expected.weights + expected.gradients + expected.moments
    total = static + expected.activations + expected.working
    trained = 2 * tokens / float(np.median(seconds))
    figures = {
        f"{name}: peak memory": Figure.of([peak / 1e9], "GB"),
        f"{name}: peak by the memory model": Figure.of([total / 1e9], "GB"),
        f"{name}: training": Figure.of([2 * tokens / s for s in seconds], "tokens/s"),
    }
    rate = trained * _flops(learner.spec, 2048) / 1e12
    figures[f"{name}: useful operations"] = Figure.of([rate], "TFLOP/s")
    known = next((v for k, v in ACCELERATORS.items() if k in torch.cuda.get_device_name()), None)
    if known is not None:
        share = 100 * rate * 1e12 / known.flops[method.dtype]
        figures[f"{name}: of the {method.dtype} peak"] = Figure.of([share], "%")
        foretold = step_time(learner.spec, UNDIVIDED, method, Cluster(1, known), 2 * tokens, tokens, 2048).total
        figures[f"{name}: training by the cost model"] = Figure.of([2 * tokens / foretold], "tokens/s")
    return {
        f"{name}: weights, gradients, moments, off the memory model by": Check(100 * abs(held / static - 1), 5, "%"),
        f"{name}: peak, above the memory model by": Check(100 * (peak / total - 1), 5, "%"),
    }, figures


def _timed(step: Callable[[], Any], times: int) -> list[float]:
    seconds = []
    for number in range(times + 2):
        torch.cuda.synchronize()
        began = perf_counter()
        step()
        torch.cuda.synchronize()
        if number >= 2:
            seconds.append(perf_counter() - began)
    return seconds


def _flops(spec: LingSpec, length: int) -> float:
    """Of one trained token: 6 per active weight, and attention over half of `length` on average."""
    active = spec.parameter_count()[1] - spec.vocab_size * spec.hidden_size  # the embedding is looked up
    attention = 6 * 2 * spec.num_hidden_layers * spec.num_attention_heads * spec.head_dim * length / 2
    return 6.0 * active + attention
