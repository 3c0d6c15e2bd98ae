"""The run report: one HTML page below RINGFLOW_HOME/reports and beside the MLflow run, with the recipe and its origins.

Written when a run computed something. A run that reused everything has the page of the run that made the same
artifacts: the page's name is a digest of them. Where no run made just these (`only` one stage of a finished recipe),
the page is written then.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from components.artifacts.spent import spent_on
from components.failures import RingflowError
from components.recipe.load import LoadedRecipe
from flows.overhead import Overhead
from flows.result import RunResult
from tasks.session import Session

log = logging.getLogger(__name__)


def report_path(home: Path, result: RunResult) -> Path:
    made = "\n".join(f"{stage.node} {stage.ref.uri if stage.ref else stage.state}" for stage in result.stages)
    return home / "reports" / f"{result.recipe}-{hashlib.sha256(made.encode()).hexdigest()[:12]}.html"


def existing_report(home: Path, result: RunResult) -> Path | None:
    path = report_path(home, result)
    return path if path.is_file() else None


def write_run_report(
    home: Path, session: Session, loaded: LoadedRecipe, result: RunResult, facts: Mapping[str, str]
) -> Path:
    """Gathers metrics, scores and lineage of the run and writes the page."""
    from components.lineage.graph import lineage
    from components.lineage.report.model import RunReport, StageEntry, scores_from_metrics
    from components.lineage.report.write import write_report

    with spent_on("MLflow"):
        metrics = {stage.node: session.tracker.series(stage.node) for stage in result.stages if stage.ref is not None}
    last = next((stage.ref for stage in reversed(result.stages) if stage.ref is not None), None)
    report = RunReport(
        recipe=result.recipe,
        run_name=result.run_name,
        succeeded=result.succeeded,
        seconds=result.seconds,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        stages=[
            StageEntry(
                node=stage.node,
                state=stage.state,
                seconds=stage.seconds if stage.state != "reused" else 0.0,
                started_s=stage.started_s,
                uri=stage.ref.uri if stage.ref else "",
                fingerprint=stage.ref.fingerprint if stage.ref else "",
                summary=stage.ref.summary if stage.ref else {},
                error=stage.error,
            )
            for stage in result.stages
        ],
        metrics={node: series for node, series in metrics.items() if series},
        scores=scores_from_metrics(metrics),
        links=result.links,
        facts={"host": platform.node(), "seed": str(loaded.recipe.seed), **facts},
        lineage=lineage(session.store, last) if last is not None else None,
    )
    return write_report(report_path(home, result), report)


def attach_documents(session: Session, loaded: LoadedRecipe, report: Path) -> None:
    """Puts report, recipe and the origin of every value beside the MLflow run."""
    folder = session.work / "documents"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(loaded.below(""), indent=1))
    (folder / "recipe.yaml").write_text(loaded.text, encoding="utf-8")
    (folder / "report.html").write_bytes(report.read_bytes())
    for name in ("config.json", "recipe.yaml", "report.html"):
        session.tracker.attach(folder / name)


def finish_report(
    home: Path, session: Session, loaded: LoadedRecipe, result: RunResult, facts: Mapping[str, str]
) -> Path | None:
    """The page of this run, written now or earlier; None when there is none. A failed picture fails no training."""
    try:
        known = None if session.tracker.computed else existing_report(home, result)
        if known is None and any(stage.ref is not None for stage in result.stages):
            return write_run_report(home, session, loaded, result, facts)
        return known
    except (RingflowError, OSError) as error:
        log.warning("the run report is incomplete: %s", error)
    return existing_report(home, result)


def complete_report(session: Session, loaded: LoadedRecipe, report: Path, cost: Overhead | None) -> None:
    """Puts what the orchestration cost into the page (None: it is an earlier run's), and the page beside the run."""
    from components.lineage.report.write import add_costs

    try:
        if cost is not None:
            add_costs(report, cost.wall_s, cost.rows())
        with spent_on("MLflow"):
            attach_documents(session, loaded, report)
    except (RingflowError, OSError) as error:
        log.warning("the run report is incomplete: %s", error)
