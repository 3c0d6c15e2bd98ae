"""One Prefect task for every stage: fingerprint, reuse, lease, work, publish, lineage. Written once for all stages.

    identity -> committed already? reuse it
             -> lease, the stage's function, publish, lineage (tasks.obtain): here, or in a job of its own (stage_job)
             -> the artifact's reference, which is the task's result

The store is the truth: a task that Prefect retries, or a flow run again, finds what was committed and resumes what was
not. Only failures of the machinery are retried, with growing delays and jitter, a bounded number of times.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.states import State

from components.artifacts.ref import ArtifactRef
from components.failures import Cancelled
from components.telemetry.logs import Place, at
from components.telemetry.metrics import add
from tasks.node import Node
from tasks.obtain import Timing, obtain
from tasks.outcome import JITTER, classify, first_lines, retry_delays, retryable
from tasks.session import Session
from tasks.stage_job import obtain_by_job

log = logging.getLogger(__name__)


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
            as_job = session.execution.cluster.stages != "driver"
            ref = (obtain_by_job if as_job else obtain)(node, session, refs, timing)
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


def summary_text(ref: ArtifactRef) -> str:
    """The first few numbers of a summary, for one line."""
    shown = []
    for name, value in list(ref.summary.items())[:4]:
        shown.append(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
    return ", ".join(shown)
