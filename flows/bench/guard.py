"""The guard over every RL run that the tracker holds: how many steps pass, and what it would have said of the others.

Runs are replayed step by step as they were logged, finished ones only; nothing is trained. A clean run must come out
silent: an alarm here is false, or the run was not clean. With `out` the replayed metrics are written as JSON, which is
how tests/components/rl/recorded/clean.json was made:

    ringflow bench guard -o out=tests/components/rl/recorded/clean.json
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from components.failures import BadInput
from components.recipe.rl import GuardConfig
from components.rl.guard import Guard
from flows.bench import Bench, Figure

# What the guard reads; a metric that a run did not log is not judged.
READ = (
    "mismatch/mean_abs_dlogp",
    "mismatch/mean_dlogp",
    "mismatch/fresh_mean_abs_dlogp",
    "mismatch/stale_mean_abs_dlogp",
    "sampling/surprise_errors",
    "sampling/surprise_share",
    "reward/error_fraction",
    "reward/no_answer_fraction",
    "rollout/truncated_fraction",
    "train/loss",
    "train/grad_norm",
    "policy/entropy",
)
DIGITS = 4

Steps = dict[int, dict[str, float]]


def run(out: str = "", dtype: str = "float32") -> Bench:
    """dtype: of the engines of those runs.

    Raises:
        BadInput: the tracker holds no finished RL run.
    """
    runs = _runs()
    if not runs:
        raise BadInput("the tracker holds no finished RL run", remedy="ringflow run nano")
    steps, alarms = 0, []
    for name, recorded in runs.items():
        steps += len(recorded)
        alarms += [f"{name} step {step}: {text}" for step, text in replay(recorded, dtype)]
    if out:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text(json.dumps({"dtype": dtype, "runs": runs}, indent=0) + "\n")
    count = float(len(alarms))
    figures = {
        "steps replayed": Figure(steps, "steps", steps, steps),
        "steps with a verdict other than ok": Figure(count, "steps", count, count),
    }
    return Bench(figures, {"runs": len(runs), "said": "; ".join(alarms) or "nothing"})


def replay(recorded: Mapping[int, Mapping[str, float]], dtype: str) -> list[tuple[int, str]]:
    """(step, what was said) of every step on which a new guard would not have said ok."""
    guard, said = Guard(GuardConfig(), dtype), []
    for step in sorted(recorded, key=int):
        verdicts = [guard.observe(recorded[step])]
        if verdicts[0].action in ("ok", "warn"):
            verdicts.append(guard.observe_update(recorded[step]))
        said += [(int(step), f"{v.action}: {v.diagnosis}") for v in verdicts if v.action != "ok"]
    return said


def _runs() -> dict[str, Steps]:
    """Run name and id -> step -> metrics, rounded to DIGITS figures."""
    from mlflow import MlflowClient

    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found: dict[str, Steps] = {}
    for run_ in client.search_runs(experiments, "attributes.status = 'FINISHED'", max_results=1000):
        if READ[0] not in run_.data.metrics:
            continue
        steps: Steps = {}
        for name in READ:
            if name in run_.data.metrics:
                for point in client.get_metric_history(run_.info.run_id, name):
                    steps.setdefault(point.step, {})[name] = float(f"{point.value:.{DIGITS}g}")
        found[f"{run_.info.run_name} {run_.info.run_id[:8]}"] = dict(sorted(steps.items()))
    return found
