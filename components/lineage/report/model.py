"""What a run report is made from: plain data, gathered by the flow, so that the page needs no server to be drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from components.lineage.graph import Graph

StageState = Literal["done", "reused", "failed", "stopped", "skipped"]
Series = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class StageEntry:
    """One node of the DAG in this run. seconds: wall time in this run, 0 for a reused artifact.

    started_s: seconds after the run's start, for the timeline; None when it did not start.
    """

    node: str
    state: StageState
    seconds: float = 0.0
    started_s: float | None = None
    uri: str = ""
    fingerprint: str = ""
    summary: Mapping[str, float | int | str] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class Score:
    """One benchmark's score of one model, with the interval it was measured with (fractions, 0 to 1).

    model: the node that made the model (`sft`, `rlvr-1`), in the order of the pipeline within RunReport.scores.
    """

    model: str
    benchmark: str
    value: float
    low: float
    high: float
    metric: str = "avg@k"


@dataclass(frozen=True)
class RunReport:
    """metrics: node -> metric -> [(step, value)], names as the stages log them.

    links: text -> URL (MLflow run, Prefect run). facts: short lines under the title (commit, host, seed ...).
    """

    recipe: str
    run_name: str
    succeeded: bool
    seconds: float
    created: str
    stages: Sequence[StageEntry]
    metrics: Mapping[str, Mapping[str, Series]] = field(default_factory=dict)
    scores: Sequence[Score] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    lineage: Graph | None = None


def scores_from_metrics(metrics: Mapping[str, Mapping[str, Series]]) -> list[Score]:
    """Scores of `evaluate-<model>` nodes from the names the evaluate stage logs: benchmark/<name>/{avg,low,high}."""
    found = []
    for node, series in metrics.items():
        if not node.startswith("evaluate"):
            continue
        for name in series:
            kind, _, rest = name.partition("/")
            benchmark, _, part = rest.rpartition("/")
            if (kind, part) == ("benchmark", "avg") and series[name]:
                low, high = (series.get(f"benchmark/{benchmark}/{end}") for end in ("low", "high"))
                value = series[name][-1][1]
                found.append(
                    Score(
                        node.removeprefix("evaluate-"),
                        benchmark,
                        value,
                        low[-1][1] if low else value,
                        high[-1][1] if high else value,
                    )
                )
    return found
