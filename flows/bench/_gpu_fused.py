"""The MTP layer on a device, Transformer Engine's layers, and FP8 products, against local layers on the CPU in float32.

Where there is no GPU the local layers in bfloat16 stand in for Transformer Engine's: that rehearses the checks, not it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.artifacts.folder import Folder
from components.artifacts.manifest import entries_of
from components.model.hf_sent import send_description
from components.model.shards import joined, pieces
from components.model.tokenizer import load_tokenizer
from components.recipe.execution import ExecutionConfig
from components.recipe.model import ModelConfig
from components.recipe.training import OptimiserConfig
from components.training.blocks import write_index
from components.training.learner import Learner
from components.training.types import Sequence
from flows.bench import Check
from flows.bench._gpu_learner import Found, _documents, _flat, _slice, on_cpu

MODEL = ModelConfig(preset="nano", mtp_layers=1)
OPTIMISER = OptimiserConfig(lr=1e-3, beta2=0.95, clip_grad_norm=1.0)
MTP_WEIGHT = 0.1
STEPS = 20  # of the losses that are compared


def run(device: str) -> Iterator[Found]:
    """Checks and figures, group by group."""
    documents = _documents(24, 40, 400)
    reference = on_cpu(_reference, documents)
    exact = _learner(device)
    yield _mtp(reference, exact, documents)
    del exact
    fused = {"kernels": "transformer_engine"} if device == "cuda" else {}
    kinds = {"bfloat16": 0.2} | ({"fp8": 0.6} if fused else {})
    losses: dict[str, float] = {}
    for dtype, allowed in kinds.items():
        name = f"{'Transformer Engine' if fused else 'rehearsal'}, {dtype}"
        learner = _learner(device, learner_dtype=dtype, **fused)
        yield _values(name, reference, learner, documents, allowed)
        yield _state(name, learner, device, documents)
        again = _learner(device, learner_dtype=dtype, recompute=True, **fused)
        yield _recomputed(name, _learner(device, learner_dtype=dtype, **fused), again, documents)
        if fused:
            losses[dtype] = _trained(again, documents)
        del learner, again
    if "fp8" in losses:
        change = abs(losses["fp8"] / losses["bfloat16"] - 1)
        yield {f"FP8: loss after {STEPS} steps, relative difference to bfloat16": Check(change, 0.05)}, {}
        for dtype, recompute, rows in (("bfloat16", False, None), ("fp8", False, None), ("fp8", True, 4096)):
            yield _slice(dtype, recompute, rows, **fused)


def _learner(device: str, **settings: Any) -> Learner:
    execution = ExecutionConfig(device=device, threads=4, **settings)
    learner = Learner(0, 1, MODEL, execution, seed=1)
    learner.initialise()
    learner.configure(OPTIMISER, 100, expert_bias_rate=0.0, mtp_loss_weight=MTP_WEIGHT)
    return learner


@dataclass(frozen=True)
class Reference:
    """Of one learner on the CPU, float32. gradient: by HF name, of a step of both losses."""

    logprobs: np.ndarray
    metrics: dict[str, float]
    gradient: dict[str, np.ndarray]


def _reference(documents: list[Sequence]) -> Reference:
    return _found(_learner("cpu"), documents)


def _found(learner: Learner, documents: list[Sequence]) -> Reference:
    """What a learner computes of these documents; no weight is changed."""
    logprobs = _flat(learner.logprobs(documents))
    learner._update = lambda loss: (0.0, 0.0)
    try:
        metrics = learner.train_tokens(documents, 512)
    finally:
        del learner._update
    view = learner.optimiser.view
    held = joined(pieces(learner.model, learner.spec, lambda tensor: view("grad", tensor)))
    return Reference(logprobs, metrics, {name: value.float().cpu().numpy().copy() for name, value in held})


def _distance(found: dict[str, np.ndarray], known: dict[str, np.ndarray]) -> float:
    """Relative, over all parameters; infinite where some are missing."""
    if found.keys() != known.keys():
        return float("inf")
    apart = sum(float(np.square(found[name].astype(np.float64) - known[name]).sum()) for name in known)
    return (apart / sum(float(np.square(value.astype(np.float64)).sum()) for value in known.values())) ** 0.5


def _mtp(reference: Reference, learner: Learner, documents: list[Sequence]) -> Found:
    found = _found(learner, documents)
    return {
        "MTP loss, float32, difference to the CPU": Check(
            abs(found.metrics["mtp_loss"] - reference.metrics["mtp_loss"]), 2e-4
        ),
        "gradient of both losses, float32, relative difference to the CPU": Check(
            _distance(found.gradient, reference.gradient), 1e-3
        ),
    }, {}


def _values(name: str, reference: Reference, learner: Learner, documents: list[Sequence], allowed: float) -> Found:
    found = _found(learner, documents)
    apart = np.abs(found.logprobs - reference.logprobs)
    alone = np.concatenate([_flat(learner.logprobs([document])) for document in documents[:6]])
    wide = 0.02 if allowed < 0.5 else 0.1
    return {
        f"{name}: log-probs, mean difference to float32 on the CPU": Check(float(apart.mean()), wide),
        f"{name}: log-probs, largest difference": Check(float(apart.max()), 1.0 if allowed < 0.5 else 3.0),
        f"{name}: gradient of both losses, relative difference": Check(
            _distance(found.gradient, reference.gradient), allowed
        ),
        f"{name}: MTP loss, difference": Check(abs(found.metrics["mtp_loss"] - reference.metrics["mtp_loss"]), wide),
        f"{name}: documents alone and packed, mean difference": Check(
            float(np.abs(alone - found.logprobs[: len(alone)]).mean()), wide
        ),
    }, {}


def _state(name: str, learner: Learner, device: str, documents: list[Sequence]) -> Found:
    """What it computes with after steps is what it exports; local layers take up its resume point."""
    with tempfile.TemporaryDirectory() as place:
        for _ in range(3):
            learner.train_tokens(documents, 512)
        held = _flat(learner.logprobs(documents))
        export = Folder.local(Path(place, "export"))
        send_description(export, learner.spec, learner.send_weights(export), load_tokenizer("nano"), "float32")
        point = Path(place, "resume")
        write_index(point, [learner.save_resume(Folder.local(point))])
        onward = learner.train_tokens(documents, 512)
        other = _learner(device, learner_dtype="bfloat16")
        other.load_resume(Folder.local(point, entries_of(point)))
        taken = other.train_tokens(documents, 512)
        learner.load_hf(f"{place}/export")
        loaded = _flat(learner.logprobs(documents))
    return {
        f"{name}: log-probs after steps and of the export, largest difference": Check(
            float(np.abs(held - loaded).max()), 1e-3
        ),
        f"{name}: loss of local layers from its resume point, relative difference": Check(
            abs(taken["loss"] / onward["loss"] - 1), 0.02
        ),
    }, {}


def _recomputed(name: str, whole: Learner, again: Learner, documents: list[Sequence]) -> Found:
    ours, theirs = (_found(learner, documents) for learner in (whole, again))
    return {
        f"{name}: gradient with layers computed again, relative difference": Check(
            _distance(theirs.gradient, ours.gradient), 0.02
        ),
        f"{name}: loss with layers computed again, difference": Check(
            abs(theirs.metrics["loss"] - ours.metrics["loss"]), 1e-3
        ),
    }, {}


def _trained(learner: Learner, documents: list[Sequence]) -> float:
    for _ in range(STEPS):
        last = learner.train_tokens(documents, 512)
    return last["loss"]
