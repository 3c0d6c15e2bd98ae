"""nano's first RLVR phase in C3PO++ mode beside the synchronous loop: time of a step, where it goes, what is learned.

Both start from nano's SFT model (made or reused in the local servers' store) and take the recipe's steps through the
stage's own function; then the evaluation stage asks every held-out problem. The budget of C3PO++ is what a synchronous
step was measured to hold. About four minutes on two quiet cores when SFT is there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.artifacts.local import LocalContext
from components.artifacts.ref import ArtifactRef
from components.artifacts.store import Store
from components.artifacts.stored import Stored
from components.evaluation.scores import load_evaluation
from components.evaluation.table import change
from components.evaluation.types import Evaluation
from components.failures import InfrastructureError
from components.recipe.execution import ExecutionConfig
from components.recipe.load import load_recipe
from components.recipe.rl import RlPhase
from flows.bench import Bench, Figure
from flows.board import PlainBoard
from flows.execute import run_here
from flows.recipe_flow import ring
from flows.request import RECIPES, RunRequest
from tasks.stage import StageConfig

PHASE, NODE = 0, "rlvr-1"
MAX_STALENESS, OVERSAMPLE = 3, 1.0
PARTS = ("rollout", "reward", "old_logprobs", "update", "exchange", "checkpoint", "orchestration")
WARMUP = 1


class StoreContext(LocalContext):
    """A local stage whose inputs come from the store."""

    def fetch(self, ref: ArtifactRef, subpath: str = "") -> Path:
        return super().fetch(ref, subpath) if ref.uri.startswith("file:") else Store.open().fetch(ref, subpath)

    def locate(self, ref: ArtifactRef, subpath: str = "") -> Stored:
        return super().locate(ref, subpath) if ref.uri.startswith("file:") else Store.open().locate(ref, subpath)


def run(recipe: str = "nano", seed: int = 0, steps: int | None = None) -> Bench:
    """recipe: of the project. steps: of its first RLVR phase; the recipe's when absent."""
    from components.cluster.warm import release_all

    loaded = load_recipe(recipe, directory=RECIPES)
    phase = loaded.rlvr[PHASE]
    if steps:
        phase = phase.model_copy(update={"steps": steps})
    inputs = _inputs(recipe, seed)
    figures: dict[str, Figure] = {}
    evaluations: dict[str, Evaluation] = {}
    step_s: dict[str, list[float]] = {}
    try:
        with tempfile.TemporaryDirectory() as folder:
            budget = 0
            for mode in ("synchronous", "c3po++"):
                chosen = phase if mode == "synchronous" else _carried(phase, budget)
                context = StoreContext(Path(folder) / mode, NODE, seed, ExecutionConfig())
                evaluations[mode] = _train_and_evaluate(context, inputs, chosen, loaded)
                step_s[mode] = _values(context, "time/step_s")
                budget = budget or round(float(np.mean(_values(context, "rollout/tokens"))))
                figures |= _step_figures(mode, context, step_s[mode])
    finally:
        release_all()
    ratio = float(np.mean(step_s["synchronous"]) / np.mean(step_s["c3po++"]))
    figures["speed of a step, c3po++ over synchronous"] = Figure(ratio, "x", ratio, ratio)
    learned = change(evaluations["synchronous"], evaluations["c3po++"])
    for name, compared in learned.items():
        figures[f"c3po++ minus synchronous: {name}"] = Figure(
            100 * compared["difference"], "points", 100 * compared["low"], 100 * compared["high"]
        )
    setup = {
        "phase": f"{recipe} {phase.name}, {phase.steps} steps, the first {WARMUP} not timed",
        "c3po++": f"budget {budget} tokens, staleness up to {MAX_STALENESS}, oversample {OVERSAMPLE}",
        "seed": seed,
    }
    return Bench(figures, setup)


def _inputs(recipe: str, seed: int) -> Mapping[str, ArtifactRef]:
    """Artifacts of the recipe up to SFT; stages that are finished are reused."""
    result = run_here(
        ring, RunRequest(recipe=recipe, seed=seed, only=["corpus", "decontaminate", "base", "sft"]), PlainBoard()
    )
    refs = {stage.node: stage.ref for stage in result.stages}
    missing = [node for node in ("corpus", "decontaminate", "sft") if refs.get(node) is None]
    if missing:
        raise InfrastructureError(f"{missing[0]} of {recipe} did not finish")
    return {"model": refs["sft"], "data": refs["decontaminate"], "corpus": refs["corpus"]}


def _carried(phase: RlPhase, budget: int) -> RlPhase:
    rollout = phase.rollout.model_copy(
        update={"mode": "c3po++", "token_budget": budget, "max_staleness": MAX_STALENESS, "oversample": OVERSAMPLE}
    )
    return RlPhase.model_validate(phase.model_dump() | {"rollout": rollout.model_dump()})


def _train_and_evaluate(
    context: StoreContext, inputs: Mapping[str, ArtifactRef], phase: RlPhase, recipe: Any
) -> Evaluation:
    from tasks.stages import evaluate, rlvr

    result = rlvr.run(context, inputs, StageConfig(phase, recipe.model))
    trained = context.ref("checkpoint", result.summary, result.contract)
    judged = StoreContext(context.root / "evaluate", f"evaluate-{NODE}", context.seed, context.execution)
    evaluate.run(judged, {"model": trained, "corpus": inputs["corpus"]}, StageConfig(recipe.evaluate, recipe.model))
    return load_evaluation(judged.output)


def _values(context: LocalContext, name: str) -> list[float]:
    return [value for step, value in context.series(name) if step >= WARMUP]


def _step_figures(mode: str, context: LocalContext, step_s: Sequence[float]) -> dict[str, Figure]:
    """A step's seconds and the shares of its parts, means over the steps; a checkpoint is spread over all of them."""
    figures = {f"{mode}: step": Figure(float(np.mean(step_s)), "s", min(step_s), max(step_s))}
    whole, outside = sum(step_s), 100.0
    for part in PARTS:
        share = 100 * sum(_values(context, f"time/{part}_s")) / whole
        figures[f"{mode}: {part}"] = Figure(share, "% of a step", share, share)
        outside -= share if part in ("rollout", "update") else 0.0
    figures[f"{mode}: outside rollout and update"] = Figure(outside, "% of a step", outside, outside)
    return figures
