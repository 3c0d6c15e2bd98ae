"""The flow `compare`: two models on the same benchmarks, paired; it fails when the second is surely worse.

The nightly run is this flow with the released model and the candidate. Both evaluations are stages: known results are
reused, so a night without a new candidate costs seconds.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.states import State
from prefect.task_runners import ThreadPoolTaskRunner

from components.artifacts.ref import ArtifactRef
from components.artifacts.store import Store
from components.evaluation.compare import HEADER, Comparison
from components.evaluation.compare_page import write_comparison
from components.evaluation.scores import load_evaluation
from flows.compare_request import SIDES, CompareRequest
from flows.evaluated import with_models
from flows.execute import execute, home_directory
from flows.naming import run_name
from flows.result import RunResult
from tasks.session import Session

PAGE = "comparison.html"


@dataclass(frozen=True)
class Compared:
    comparison: Comparison
    page: Path


_last: Compared | None = None


@flow(name="compare", flow_run_name=run_name, task_runner=ThreadPoolTaskRunner(max_workers=2))
def compare_models(request: CompareRequest) -> State:
    """Evaluates both models and compares them item by item; fails with a table when the second is surely worse."""
    global _last
    _last = None
    graph, loaded = request.load()
    store = Store.open(os.environ.get("RINGFLOW_STORE"))
    store.check(deadline_s=20)
    names = {side: getattr(request, side) for side in SIDES}
    ours = {side: name for side, name in names.items() if request.served(name) is None}
    graph, given = with_models(graph, ours, store)

    def conclude(result: RunResult, session: Session) -> RunResult:
        global _last
        refs = {stage.node: stage.ref for stage in result.stages}
        _last = found = compare_artifacts({names[side]: refs[f"evaluate-{side}"] for side in SIDES}, session.store)
        _show(found, session)
        worse = ", ".join(found.comparison.worse)
        if not worse:
            return result
        return replace(result, problem=f"{request.after} is worse than {request.before} on {worse}: {found.page}")

    tags = {"ringflow.evaluates": request.after, "ringflow.compared_with": request.before}
    return execute(graph, loaded, allowed=frozenset(graph.nodes), given=given, tags=tags, conclude=conclude)


def last_comparison() -> Compared | None:
    """What the newest run of this process came to; None when its stages failed."""
    return _last


def compare_artifacts(refs: Mapping[str, ArtifactRef], store: Store) -> Compared:
    """Writes the page of two evaluation artifacts, the earlier first, below the home's reports.

    refs: what a person calls each. Raises BadInput when they cannot be compared.
    """
    (before, left), (after, right) = refs.items()
    evaluations = {name: load_evaluation(store.fetch(ref)) for name, ref in ((before, left), (after, right))}
    page = home_directory() / "reports" / f"compare-{left.fingerprint[:8]}-{right.fingerprint[:8]}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    return Compared(write_comparison(evaluations, page, f"{after} against {before}"), page)


def _show(found: Compared, session: Session) -> None:
    """The page beside the MLflow run, the table in the Prefect UI."""
    from prefect.artifacts import create_table_artifact

    session.work.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(found.page, session.work / PAGE)
    session.tracker.attach(session.work / PAGE)
    table: list[dict[str, Any]] = [dict(zip(HEADER, row, strict=True)) for row in found.comparison.table()]
    try:
        told = f"{found.comparison.after} against {found.comparison.before}"
        create_table_artifact(table, key="comparison", description=told)
    except Exception as error:  # decoration only
        logging.getLogger(__name__).warning("the comparison is not shown in Prefect: %s", error)
