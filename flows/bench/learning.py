"""What each stage of `nano` learns, over three seeds, and what the time of RL would have bought without RL.

Per seed everything runs anew: data, base, SFT, RL. The control gives SFT the time that both RLVR phases took, as more
steps of one longer schedule, from the same base and data. About half an hour on two cores; finished stages of earlier
runs are reused. The tables go to learning.md below the home of the local servers.
"""

from __future__ import annotations

import os
from pathlib import Path

from components.artifacts.store import Store
from components.evaluation.scores import load_evaluation
from components.evaluation.table import change, markdown_table
from components.evaluation.types import Evaluation
from components.failures import InfrastructureError
from components.recipe.load import load_recipe
from flows.bench import Bench, Figure
from flows.bench._programs import program_table, rewarded
from flows.board import PlainBoard
from flows.execute import run_here
from flows.recipe_flow import ring
from flows.request import RECIPES, RunRequest
from flows.result import RunResult

RECIPE = "nano"
SEEDS = (0, 1, 2)
# What a stage is meant to improve; it must keep the rest.
CLAIMS = {
    ("sft", "rlvr-1"): ("math", "logic"),
    ("rlvr-1", "rlvr-2"): ("code", "science"),
    ("rlvr-2", "rlhf"): ("general",),
    ("control", "rlvr-2"): ("math", "logic", "code", "science"),
}


def run() -> Bench:
    """Three runs of the recipe and of the control; the tables grow with every seed."""
    report = Path(os.environ["RINGFLOW_HOME"]) / "learning.md"
    seeds: dict[int, dict[str, Evaluation]] = {}
    tables: list[str] = []
    for seed in SEEDS:
        seeds[seed], programs = _learn(seed)
        tables.append(f"### Seed {seed}\n\n{markdown_table(seeds[seed])}\n{programs}")
        report.write_text("\n".join(tables))
    figures: dict[str, Figure] = {}
    for stage in next(iter(seeds.values())):
        scores = [100 * evaluations[stage].overall.avg.value for evaluations in seeds.values()]
        figures[f"{stage}: overall"] = Figure.of(scores, "%")
    for (before, after), domains in CLAIMS.items():
        changes = [change(found[before], found[after]) for found in seeds.values()]
        for name in changes[0]:
            if name != "overall":
                own = "own" if name.removeprefix(f"{RECIPE}-") in domains else "kept"
                values = [100 * values[name]["difference"] for values in changes]
                figures[f"{before} to {after}: {own} {name}"] = Figure.of(values, "points")
    return Bench(figures, {"recipe": RECIPE, "seeds": ", ".join(map(str, SEEDS)), "tables": str(report)})


def _learn(seed: int) -> tuple[dict[str, Evaluation], str]:
    """Stage name -> evaluation, in the recipe's order, `control` last; and the table of the programs that RLVR ran."""
    result = _run(RunRequest(recipe=RECIPE, seed=seed))
    stages = {stage.node: stage for stage in result.stages}
    found = {
        name.removeprefix("evaluate-"): load_evaluation(Store.open().fetch(stage.ref))
        for name, stage in stages.items()
        if name.startswith("evaluate-")
    }
    steps = _control_steps(result)
    overrides = [f"sft.steps={steps}"]
    control = _run(RunRequest(recipe=RECIPE, seed=seed, overrides=overrides, only=["sft", "evaluate-sft"]), partly=True)
    ref = next(stage.ref for stage in control.stages if stage.node == "evaluate-sft")
    store = Store.open()
    rollouts = [store.fetch(stage.ref, "rollouts") for name, stage in stages.items() if name.startswith("rlvr-")]
    programs = program_table(response for directory in rollouts for response in rewarded(directory))
    return found | {"control": load_evaluation(store.fetch(ref))}, programs


def _control_steps(result: RunResult) -> int:
    """SFT steps that take as long as SFT and both RLVR phases did, from the manifests' wall times."""
    steps = load_recipe(RECIPE, directory=RECIPES).sft.steps
    store = Store.open()
    seconds = {
        stage.node: store.read_manifest(stage.ref).provenance.work.wall_s
        for stage in result.stages
        if stage.node == "sft" or stage.node.startswith("rlvr-")
    }
    return round(steps * sum(seconds.values()) / seconds["sft"])


def _run(request: RunRequest, partly: bool = False) -> RunResult:
    result = run_here(ring, request, PlainBoard())
    missing = [stage for stage in result.stages if stage.ref is None and (not partly or stage.node in request.only)]
    if missing:
        raise InfrastructureError(f"{missing[0].node} of seed {request.seed} did not finish: {missing[0].error}")
    return result
