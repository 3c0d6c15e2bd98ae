"""Who keeps the jobs of stages: Ray's Jobs API of a standing cluster, or Kubernetes with a RayJob for each stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from components.cluster.following import Following
from components.cluster.jobs import Jobs, JobState
from components.cluster.rayjobs import RayJobs
from components.failures import InfrastructureError, RingflowError
from components.recipe.execution import ExecutionConfig

# Of a job that is told to stop: for its stage to notice and to leave the lease and MLflow in order.
STOP_S = 15


class Service(Protocol):
    """ours: how the ids of ringflow's jobs begin."""

    ours: str

    def prefix(self, stage: str, fingerprint: str) -> str:
        """Of the ids of all attempts at an artifact; the number of the attempt follows."""

    def of(self, prefix: str) -> list[JobState]:
        """Every job whose id begins so, in no order."""

    def get(self, job: str) -> JobState | None:
        """None when it is not known (any more)."""

    def submit(self, job: str, command: str, stop: str, env: Mapping[str, str], about: Mapping[str, str]) -> bool:
        """Starts it; False when there is one of this id. stop: ends the command's process in good order."""

    def stop(self, job: str) -> None:
        """Asks it to end within STOP_S."""

    def clear(self, prefix: str) -> None:
        """What is kept of the attempts at an artifact that is there."""

    def follow(self, job: str) -> Following:
        """Its log."""

    def failure(self, state: JobState) -> RingflowError:
        """What ended a job whose stage did not say it."""


def connect(execution: ExecutionConfig, node: str, stage: str) -> Service:
    """Of the recipe's choice. Raises BadInput without its address or access, InfrastructureError without an answer."""
    if execution.cluster.stages == "rayjob":
        return RayJobs.connect(execution, node, stage)
    return OnRay(Jobs.connect(), execution, node, stage)


class OnRay:
    ours = "ringflow-"

    def __init__(self, jobs: Jobs, execution: ExecutionConfig, node: str, stage: str) -> None:
        self._jobs, self._project = jobs, execution.project
        self._resources = execution.cluster.of_stage(node, stage)
        self.of, self.get, self.stop, self.follow = jobs.of, jobs.get, jobs.stop, jobs.follow

    def prefix(self, stage: str, fingerprint: str) -> str:
        return f"{self.ours}{self._project}-{stage}-{fingerprint[:32]}-"

    def submit(self, job: str, command: str, stop: str, env: Mapping[str, str], about: Mapping[str, str]) -> bool:
        return self._jobs.submit(job, command, {**env, "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S)}, self._resources, about)

    def clear(self, prefix: str) -> None:
        """Ray forgets its jobs by itself."""

    def failure(self, state: JobState) -> RingflowError:
        return InfrastructureError(f"job {state.id} ended without saying why: {state.message[-1000:].strip()}")
