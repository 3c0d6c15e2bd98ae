"""Runs whose process is gone, and the jobs of their stages that go on without them: ended where a person wants it."""

from __future__ import annotations

from typing import Any

from components.artifacts.tidy import Leftover
from components.cluster.jobs import wait_ended
from components.failures import InfrastructureError
from flows import crashed
from flows.again import KINDS, request_of
from flows.prefect_api import flow_name
from tasks.job_service import STOP_S, Service, connect
from tasks.stage_job import RUN


def jobs_of(run: dict[str, Any]) -> list[tuple[Service, str]]:
    """Those that a run submitted and that are at work, each with who keeps it. run: Prefect's.

    Raises BadInput without the recipe or the address of the jobs, InfrastructureError without an answer.
    """
    if flow_name(run) not in KINDS:
        return []
    graph, loaded = request_of(run)[1].load()
    execution = loaded.recipe.execution
    if execution.cluster.stages == "driver":
        return []
    node = next(iter(graph.nodes.values()))
    service = connect(execution, node.name, node.stage.type)
    found = service.of(service.ours)
    return [(service, job.id) for job in found if not job.ended and job.about.get(RUN) == run["id"]]


def end(run: dict[str, Any]) -> str:
    """Marks the run as crashed if Prefect takes it for a running one, and stops its jobs; says what was done.

    Raises InfrastructureError when a job goes on.
    """
    jobs, done = jobs_of(run), []
    for service, job in jobs:
        service.stop(job)
    for service, job in jobs:
        if not wait_ended(service, job, 2 * STOP_S):
            raise InfrastructureError(f"job {job} was told to stop and goes on after {2 * STOP_S} s")
        done.append(f"its job {job} was stopped")
    if crashed.died(run):
        (marked,) = crashed.mark([Leftover("run", run["name"], crashed.GONE, key=run["id"])])
        done.insert(0, f"its process is gone: {marked.kept or 'marked as crashed'}")
    return "; ".join(done)
