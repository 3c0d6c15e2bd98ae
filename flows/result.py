"""What a run came to: state, time and artifact of every stage, scores, and where to look."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from components.artifacts.ref import ArtifactRef
from flows.graph import Graph
from flows.overhead import Overhead
from flows.prefect_api import run_url

# What to do about a failure, by its kind (components.failures); the message itself says what and where.
ADVICE = {
    "BadInput": "Correct what the message names, then run again.",
    "Diverged": (
        "The last good checkpoint is kept. Look at the curves in MLflow, change the recipe (a lower learning rate, "
        "tighter bounds), then run again."
    ),
    "IntegrityError": "`ringflow verify` names every damaged file. Restore them, or remove the artifact and run again.",
    "LeaseLost": "Another run took the stage over. Run again: this waits for it and reuses its result.",
}
MACHINERY = "See `ringflow status`, then run again: it goes on from the last checkpoint."
DEFECT = "This is a defect in the code, the traceback is in the logs. Once corrected, run again."


def advice(kind: str) -> str:
    """kind: name of the exception's class; empty or foreign ones are defects."""
    if kind in ("InfrastructureError", "DeadlineExceeded", "LeaseExpired"):
        return MACHINERY
    return ADVICE.get(kind, DEFECT)


def named(node: str, error: str) -> str:
    """The error with its stage in front, once."""
    text = error.rstrip(". ")
    return text if text.startswith(f"{node}:") else f"{node}: {text}"


@dataclass(frozen=True)
class StageOutcome:
    """state: done, reused, failed, stopped or skipped. kind: class of the failure.

    seconds: from the moment its inputs were there, waiting included. work_seconds: inside the stage's own code.
    started_s: seconds after the run's start.
    """

    node: str
    state: str
    seconds: float = 0.0
    work_seconds: float = 0.0
    started_s: float | None = None
    ref: ArtifactRef | None = None
    error: str = ""
    kind: str = ""


@dataclass(frozen=True)
class RunResult:
    """problem: why the run failed although its stages are finished (a comparison that one model lost)."""

    recipe: str
    run_id: str
    run_name: str
    seconds: float
    stages: tuple[StageOutcome, ...]
    links: Mapping[str, str] = field(default_factory=dict)
    overhead: Overhead | None = None
    problem: str = ""

    @property
    def succeeded(self) -> bool:
        return not self.problem and all(stage.state in ("done", "reused") for stage in self.stages)

    @property
    def cancelled(self) -> bool:
        return any(stage.state == "stopped" for stage in self.stages)

    def message(self) -> str:
        """One state message: what happened, and what to do if it went wrong."""
        if self.problem:
            return self.problem
        counts = {state: sum(stage.state == state for stage in self.stages) for state in ("done", "reused")}
        if self.succeeded:
            return f"{counts['done']} computed, {counts['reused']} reused"
        failed = [f"{named(s.node, s.error)}. {advice(s.kind)}" for s in self.stages if s.state == "failed"]
        if failed:
            return f"{' | '.join(failed)} Finished stages are reused: Retry here, or ringflow rerun {self.run_name}"
        return f"stopped; finished stages and resume points are kept (ringflow rerun {self.run_name})"

    def scores(self) -> dict[str, dict[str, float]]:
        """evaluated node -> {score name: value}, from the evaluations' summaries."""
        found: dict[str, dict[str, float]] = {}
        for stage in self.stages:
            if stage.ref is not None and stage.ref.kind == "evaluation":
                values = {k: v for k, v in stage.ref.summary.items() if isinstance(v, float)}
                found[stage.node.removeprefix("evaluate-")] = values
        return found

    def as_json(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe,
            "run_id": self.run_id,
            "run_name": self.run_name,
            "succeeded": self.succeeded,
            "seconds": round(self.seconds, 3),
            "stages": [
                {
                    "stage": stage.node,
                    "state": stage.state,
                    "seconds": round(stage.seconds, 3),
                    "uri": stage.ref.uri if stage.ref else None,
                    "fingerprint": stage.ref.fingerprint if stage.ref else None,
                    "summary": stage.ref.summary if stage.ref else {},
                    "error": stage.error or None,
                }
                for stage in self.stages
            ],
            "links": dict(self.links),
            "overhead": self.overhead.as_json() if self.overhead else None,
            **({"problem": self.problem} if self.problem else {}),
        }


def collect(
    graph: Graph, outcomes: Mapping[str, Mapping[str, Any]], run_id: str, run_name: str, began: float, mlflow_url: str
) -> RunResult:
    """The RunResult of a flow run. began: time.monotonic() when it started."""
    stages = []
    for name in graph.nodes:
        values = dict(outcomes[name])
        started = values.pop("started", None)
        values.pop("waited", None)
        stages.append(StageOutcome(node=name, started_s=None if started is None else started - began, **values))
    links = {"Prefect": run_url(run_id), "MLflow": mlflow_url}
    return RunResult(graph.recipe.name, run_id, run_name, time.monotonic() - began, tuple(stages), links)
