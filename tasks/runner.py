"""One Prefect task for every stage: fingerprint, reuse, lease, work, publish, lineage. Written once for all stages.

    identity -> committed already? reuse it
             -> lease (another run computes it? wait, then reuse)
             -> the stage's function, with a real context
             -> publish -> lineage -> the artifact's reference, which is the task's result

The store is the truth: a task that Prefect retries, or a flow run again, finds what was committed and resumes what was
not. Only failures of the machinery are retried, with growing delays and jitter, a bounded number of times.
"""

from __future__ import annotations

import logging
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.states import State

from components.artifacts.fingerprint import fingerprint_of
from components.artifacts.lease import Lease
from components.artifacts.ref import ArtifactRef
from components.artifacts.resume import StoreResume
from components.artifacts.spent import Meter, spent_on
from components.failures import BadInput, Cancelled, DeadlineExceeded, RingflowError
from components.telemetry.logs import Place, at
from components.telemetry.metrics import add
from tasks.context import RunnerContext
from tasks.node import Node
from tasks.outcome import JITTER, classify, first_lines, retry_delays, retryable
from tasks.progress import PrefectProgress
from tasks.recorded import finished, provenance_of, records_of
from tasks.session import Session

log = logging.getLogger(__name__)

# A stage of a large model may take days on another machine: whoever needs the same result waits that long at most.
OTHER_RUN_DEADLINE_S = 7 * 24 * 3600.0


class Job:
    """A node in a session. No dataclass: Prefect would walk through all it holds, in search of futures."""

    def __init__(self, node: Node, session: Session) -> None:
        self.node, self.session = node, session


def submit_stage(node: Node, session: Session, inputs: Mapping[str, Any]) -> PrefectFuture:
    """Submits a node's task: named after it, with the retries of the recipe's execution section.

    inputs: input name -> future of the task that makes it, or the JSON of an ArtifactRef.
    """
    execution = session.execution
    delays = retry_delays(execution.retries, execution.retry_delay_s)
    task_of_node = run_stage.with_options(
        name=node.name,
        task_run_name=node.name,
        # No tags: for each Prefect asks its server for a slot before the task starts (limits by tag), and on SQLite one
        # question in four met a locked database and waited two seconds.
        retries=len(delays),
        retry_delay_seconds=delays or None,
        retry_jitter_factor=JITTER if delays else None,
    )
    return task_of_node.submit(Job(node, session), dict(inputs))


def _may_retry(task: Any, task_run: Any, state: State) -> bool:
    error = state.result(raise_on_failure=False)
    return isinstance(error, BaseException) and retryable(error)


@task(
    persist_result=True,
    result_serializer="json",
    cache_policy=NO_CACHE,
    cache_result_in_memory=True,
    retry_condition_fn=_may_retry,
)
def run_stage(job: Job, inputs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Reuses or computes a node's artifact; the result is the JSON of its ArtifactRef.

    Raises what the stage raised, in ringflow's failure kinds (components.failures).
    """
    with at(Place(job.session.run_id, job.node.name)):
        return _run(job.node, job.session, inputs)


def _run(node: Node, session: Session, inputs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    refs = {name: ArtifactRef.model_validate(value) for name, value in inputs.items()}
    timing = Timing()
    try:
        with timing.meter.active():
            session.stop.check()
            ref = _obtain(node, session, refs, timing)
    except BaseException as error:
        failure = classify(error)
        if session.stop.is_set() and not isinstance(failure, Cancelled):
            log.info("%s ended while stopping: %s", node.name, first_lines(failure))
            failure = Cancelled(f"stopped: {session.stop.reason}")
        state = "stopped" if isinstance(failure, Cancelled) else "failed"
        session.board.state(node.name, state, first_lines(failure))
        add("ringflow_stages_total", state=state)
        kind = type(failure).__name__
        session.outcomes[node.name] = {"state": state, "error": str(failure), "kind": kind, **timing.result()}
        if failure is error:
            raise
        raise failure from error
    state = "done" if node.name in session.computed else "reused"
    session.board.state(node.name, state, summary_text(ref))
    add("ringflow_stages_total", state=state)
    session.outcomes[node.name] = {"state": state, "ref": ref, **timing.result()}
    return ref.model_dump(mode="json")


class Timing:
    """started: time.monotonic() when the stage's own code, or the look for its artifact, began.

    meter: what the task waited for besides the stage's own work.
    """

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.work_seconds = 0.0
        self.meter = Meter()

    @contextmanager
    def work(self) -> Iterator[None]:
        """Counts the stage's own code without what it waits for in the store, the tracker and the like."""
        began, waited = time.monotonic(), self.meter.total()
        try:
            yield
        finally:
            self.work_seconds += time.monotonic() - began - (self.meter.total() - waited)

    def result(self) -> dict[str, Any]:
        return {
            "started": self.started,
            "seconds": time.monotonic() - self.started,
            "work_seconds": self.work_seconds,
            "waited": dict(self.meter.seconds),
        }


def _obtain(node: Node, session: Session, refs: Mapping[str, ArtifactRef], timing: Timing) -> ArtifactRef:
    """The committed artifact, found or computed; its lineage is complete in the tracker when this returns."""
    identity = node.identity(refs, session.repeat if node.name in session.forced else None)
    fingerprint = fingerprint_of(identity)
    project, stage = session.execution.project, node.stage.type
    with spent_on("S3"):
        found = session.store.committed(project, stage, fingerprint)
    if found is None and node.name not in session.allowed:
        raise BadInput(
            "this stage is not finished, and the run may not start it",
            where=node.name,
            remedy="Run it first: choose an earlier stage (in a form, also compute what a stage reads)",
        )
    if found is None:
        with _lease(node, session, fingerprint) as lease:
            with spent_on("S3"):
                found = session.store.committed(project, stage, fingerprint)
            if found is None:
                with session.hardware:
                    timing.started = time.monotonic()
                    return _compute(node, session, refs, identity, lease, timing)
    with spent_on("S3"):
        session.store.check_sizes(found)
    if session.tracker is not None:
        with spent_on("MLflow"):
            session.tracker.reused(node, session.store, found, identity)
    return found


def _lease(node: Node, session: Session, fingerprint: str) -> Lease:
    """Takes the lease; while another run holds it, waits and says so."""
    execution = session.execution
    deadline = time.monotonic() + OTHER_RUN_DEADLINE_S
    while True:
        session.stop.check()
        try:
            # longer than a stale lease takes to be recognised, which needs one uninterrupted look
            return Lease.acquire(
                session.store,
                execution.project,
                node.stage.type,
                fingerprint,
                ttl_s=execution.lease_ttl_s,
                wait_s=execution.lease_ttl_s * 1.5,
                run_id=session.run_id,
            )
        except DeadlineExceeded as error:
            if time.monotonic() > deadline:
                raise
            session.board.progress(node.name, 0, 0, str(error))


def _compute(
    node: Node,
    session: Session,
    refs: Mapping[str, ArtifactRef],
    identity: Mapping[str, Any],
    lease: Lease,
    timing: Timing,
) -> ArtifactRef:
    session.stop.check()
    directory = session.work / f"{node.name}-{uuid.uuid4().hex[:8]}"
    session.board.state(node.name, "running")
    tracked = None
    made, records = provenance_of(node, session, refs), records_of(session)
    try:
        if session.tracker is not None:
            with spent_on("MLflow"):
                tracked = session.tracker.stage(node, lease.fingerprint, identity, made, records)
                tracked.guarded_by(lease.check)
        with PrefectProgress(f"{node.name}-progress", node.name) as progress:
            context = RunnerContext(node, session, lease, tracked, progress, directory)
            with timing.work():
                result = node.stage.function()(context, dict(refs), node.config)
        session.stop.check()
        run_id = tracked.run_id if tracked is not None else ""
        provenance = finished(made, session, context.reads, context.clock.seconds(), run_id)
        with spent_on("S3"):
            ref = session.store.publish(
                lease,
                context.output,
                node.stage.produces,
                identity,
                provenance,
                result.contract,
                result.summary,
                node=node.name,
                records=records,
            )
        session.computed.add(node.name)
        if tracked is not None:
            with spent_on("MLflow"):
                tracked.finish(session.store, ref, provenance)
        try:
            with spent_on("S3"):
                StoreResume(session.store, lease, context.scratch).clear()
        except RingflowError as error:  # the artifact is committed; leftovers cost space, not correctness
            log.warning("resume points of %s were not removed: %s", node.name, error)
        return ref
    except BaseException as error:
        if tracked is not None:
            tracked.fail(error)
        raise
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def summary_text(ref: ArtifactRef) -> str:
    """The first few numbers of a summary, for one line."""
    shown = []
    for name, value in list(ref.summary.items())[:4]:
        shown.append(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
    return ", ".join(shown)
