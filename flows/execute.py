"""Runs a DAG inside a Prefect flow run: session, one task per node, stopping, the report, the end of the lineage run.

Shared by the flows of this folder. Stages whose inputs failed do not start; others go on, so that a failed evaluation
does not cost a night of training. One stage at a time uses the hardware. However the flow ends, learners and engines
end with it, and what finished stays.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import FlowRun
from prefect.context import get_run_context
from prefect.exceptions import TerminationSignal
from prefect.states import Cancelled as CancelledState
from prefect.states import Completed, State

from components.artifacts.code import CodeState, sources_sha256
from components.artifacts.process import boot_seconds, process_began
from components.artifacts.provenance import recipe_version
from components.artifacts.spent import Meter, spent_on
from components.artifacts.store import Store
from components.artifacts.tidy_local import claim_work
from components.failures import RingflowError
from components.recipe.load import LoadedRecipe
from components.recipe.secrets import refuse_in_addresses
from components.redact import redact_logs
from components.telemetry.endpoint import metrics_served
from components.telemetry.logs import Place, at, json_log
from flows.board import LogBoard
from flows.crashed import Heartbeat
from flows.ending import failed
from flows.graph import Graph
from flows.overhead import Overhead, overhead
from flows.prefect_api import run_url
from flows.report import complete_report, finish_report
from flows.result import RunResult, collect
from flows.shown import RunPage, tags_of
from flows.watch import Watcher, asked_to_stop
from tasks.board import Board, Several
from tasks.lineage import RunTracker
from tasks.release import release_workers
from tasks.runner import submit_stage
from tasks.session import Session

log = logging.getLogger(__name__)

REPOSITORY = Path(__file__).resolve().parents[1]
# After a wish to stop: how long stages may take to notice before the process leaves them behind, with their leases.
STOP_DEADLINE_S = 20.0

Conclude = Callable[[RunResult, Session], RunResult]

_board: Board | None = None
_last: RunResult | None = None
_began: float | None = None  # None in a worker, where the process is the run's own


def run_here(flow: Any, request: Any, board: Board, began: float | None = None) -> RunResult:
    """Runs a flow in this process, shown on `board`, and returns what happened to every stage.

    began: boot_seconds() from which the run's time counts, such as the start of a command; now when absent.
    Raises what kept the flow from starting any stage, such as a store that does not answer; never for a failed stage.
    """
    global _board, _last, _began
    _board, _last, _began = board, None, boot_seconds() if began is None else began
    try:
        state = flow(request, return_state=True)
    finally:
        _board = _began = None
    if _last is None:
        state.result(raise_on_failure=True)
        raise RuntimeError(f"the flow ended without a result: {state.message}")
    return _last


def last_result() -> RunResult:
    """What the newest `execute` of this process came to."""
    if _last is None:
        raise RuntimeError("no flow was executed in this process")
    return _last


def execute(
    graph: Graph,
    loaded: LoadedRecipe,
    *,
    allowed: frozenset[str],
    forced: frozenset[str] = frozenset(),
    repeat_of: str | None = None,
    given: Mapping[str, Mapping[str, Any]] | None = None,
    tags: Mapping[str, str] | None = None,
    conclude: Conclude | None = None,
) -> State:
    """Runs the nodes of a DAG as tasks of the current flow run and returns its final state.

    Args:
        allowed: nodes that may be computed. forced: nodes computed although finished.
        repeat_of: run whose forced results are reused.
        given: artifacts from outside the DAG, as JSON, by the name that nodes use for them.
        tags: further tags of the pipeline's MLflow run.
        conclude: called when every stage is finished and before the run's records are closed, to add what follows from
            the stages together; what it raises fails the run.
    """
    redact_logs()
    refuse_in_addresses()
    flow_run = get_run_context().flow_run
    with json_log(), at(Place(str(flow_run.id))), metrics_served():
        return _execute(flow_run, graph, loaded, allowed, forced, repeat_of, given or {}, tags or {}, conclude)


def _execute(
    flow_run: FlowRun,
    graph: Graph,
    loaded: LoadedRecipe,
    allowed: frozenset[str],
    forced: frozenset[str],
    repeat_of: str | None,
    given: Mapping[str, Mapping[str, Any]],
    tags: Mapping[str, str],
    conclude: Conclude | None,
) -> State:
    clock, meter = Clock(process_began() if _began is None else _began), Meter()
    with meter.active():
        session = _session(graph, loaded, flow_run, allowed, forced, repeat_of, tags, meter)
    page = RunPage(str(flow_run.id), flow_run.name, graph.nodes, session.outcomes, lambda: live_links(session))
    session.board = Several(*([_board] if _board else []), LogBoard(), page)
    with page, Heartbeat(str(flow_run.id)):
        return _run(graph, loaded, session, given, page, clock, conclude)


def _run(
    graph: Graph,
    loaded: LoadedRecipe,
    session: Session,
    given: Mapping[str, Any],
    page: RunPage,
    clock: Clock,
    conclude: Conclude | None,
) -> State:
    global _last
    flow_run, board = get_run_context().flow_run, session.board
    began = time.monotonic()
    interrupted: BaseException | None = None
    futures: dict[str, Any] = {name: ref.model_dump(mode="json") for name, ref in graph.given.items()} | dict(given)
    with Watcher(str(flow_run.id), session.stop):
        try:
            for node in graph.nodes.values():
                inputs = {name: futures[source] for name, source in node.inputs.items()}
                futures[node.name] = submit_stage(node, session, inputs)
            for name in graph.nodes:
                futures[name].wait()
        except (KeyboardInterrupt, TerminationSignal) as error:
            interrupted = error
            # With Ray loaded, its own handler of SIGTERM came first and armed an alarm that aborts the process after
            # three seconds: too few to end the MLflow run and the page.
            signal.alarm(0)
            if isinstance(error, KeyboardInterrupt):
                session.stop.set("interrupted")
            else:  # a worker that shuts down or a pod that is moved, unless Prefect says that the run was cancelled
                session.stop.set("asked to terminate", leaves_jobs=asked_to_stop(str(flow_run.id)) == "")
            _wind_down({name: futures[name] for name in graph.nodes if name in futures})
        finally:
            release_workers()
    for name in graph.nodes:
        if name not in session.outcomes:
            session.outcomes[name] = {"state": "stopped" if session.stop.is_set() else "skipped"}
            board.state(name, "skipped", "" if session.stop.is_set() else "an input is missing")
    result = collect(graph, session.outcomes, str(flow_run.id), flow_run.name, began, session.tracker.url)
    if conclude is not None and result.succeeded:
        try:
            result = conclude(result, session)
        except RingflowError as error:
            result = replace(result, problem=str(error))
    with session.meter.active():
        _last = result = _close(session, loaded, result, clock)
    page.finish(result.message() if result.succeeded or result.cancelled else "failed, see below")
    shutil.rmtree(session.work, ignore_errors=True)
    if isinstance(interrupted, TerminationSignal):
        raise interrupted
    if result.cancelled:
        return CancelledState(message=result.message())
    return Completed(message=result.message()) if result.succeeded else failed(result.message())


class Clock:
    """The wall time of a run. began: boot_seconds() of the process or command; made when the flow begins."""

    def __init__(self, began: float) -> None:
        self.began, self.start_s = began, boot_seconds() - began

    def overhead(self, session: Session) -> Overhead:
        return overhead(boot_seconds() - self.began, self.start_s, session.outcomes.values(), session.meter.seconds)


def _close(session: Session, loaded: LoadedRecipe, result: RunResult, clock: Clock) -> RunResult:
    """Report, Prefect page and the end of the MLflow run. The stages' results are committed already."""
    commit = session.code.commit[:12] + ("+changes" if session.code.dirty else "")
    result = replace(result, links={**result.links, **live_links(session)})
    with spent_on("report"):
        report = finish_report(home_directory(), session, loaded, result, {"commit": commit} if commit else {})
    if report is not None:
        complete_report(session, loaded, report, clock.overhead(session) if session.computed else None)
        result = replace(result, links={**result.links, **live_links(session), "Report": str(report)})
    note = " · ".join(f"[{text}]({url})" for text, url in result.links.items() if text not in ("MLflow", "Report"))
    told = {"mlflow.note.content": f"{result.message()}\n\n{note}"}
    with spent_on("MLflow"):
        session.tracker.finish("FINISHED" if result.succeeded else "KILLED" if result.cancelled else "FAILED", told)
    return replace(result, overhead=clock.overhead(session))


def live_links(session: Session) -> dict[str, str]:
    """{text: URL} of the pages there are so far, for a browser: a path would mean something on the worker alone."""
    tracker = session.tracker
    outcomes = dict(session.outcomes)
    scored = [node for node in outcomes if node.partition("-")[0] == "evaluate" and outcomes[node].get("ref")]
    found = {
        "MLflow": tracker.url,
        "Data Docs": tracker.page("corpus", "gates/index.html"),
        "Decontamination": tracker.page("decontaminate", "decontamination/report.html"),
        **{
            "Evaluation" + node.removeprefix("evaluate").replace("-", " of ", 1): tracker.page(node, "evaluation.html")
            for node in scored
        },
        **{
            title: f"{tracker.url}/artifacts/{file}" if file in tracker.attached else ""
            for title, file in (("Comparison", "comparison.html"), ("Run report", "report.html"))
        },
    }
    return {text: url for text, url in found.items() if url}


def home_directory() -> Path:
    return Path(os.environ.get("RINGFLOW_HOME", ".ringflow")).absolute()


def _session(
    graph: Graph,
    loaded: LoadedRecipe,
    flow_run: FlowRun,
    allowed: frozenset[str],
    forced: frozenset[str],
    repeat_of: str | None,
    tags: Mapping[str, str],
    meter: Meter,
) -> Session:
    """Opens the store and the lineage of this run; both answer within seconds or the run ends with the reason."""
    home = home_directory()
    store = Store.open(os.environ.get("RINGFLOW_STORE"), home / "cache")
    with spent_on("S3"):
        store.check(deadline_s=20)
    run_id = str(flow_run.id)
    tracker = RunTracker(os.environ.get("MLFLOW_TRACKING_URI", ""), graph.recipe.execution.project)
    code = CodeState.read(REPOSITORY)
    recorded = {"ringflow.recipe_version": recipe_version(loaded.recipe), **code.tags()}
    found = tags_of(loaded, flow_run, run_url(run_id), recorded)
    with spent_on("MLflow"):
        tracker.start(flow_run.name, {**found, **tags})
    return Session(
        store=store,
        tracker=tracker,
        board=LogBoard(),
        execution=graph.recipe.execution,
        work=claim_work(home / "work"),
        run_id=run_id,
        repeat=repeat_of or run_id,
        allowed=allowed,
        forced=forced,
        loaded=loaded,
        code=code,
        sources=sources_sha256(REPOSITORY) if graph.recipe.execution.cluster.stages != "driver" else "",
        meter=meter,
    )


def _wind_down(futures: dict[str, Any]) -> None:
    """Waits for the stages that were told to stop (the watcher frees the blocked ones); gives up on the others."""
    deadline = time.monotonic() + STOP_DEADLINE_S
    for name, future in futures.items():
        future.wait(timeout=max(deadline - time.monotonic(), 0.1))
        if future.state.is_running():  # one whose inputs never came is done too, but not final
            log.error("stage %s did not stop within %g s; leaving it behind", name, STOP_DEADLINE_S)
