"""How a cluster runs a recipe: stages as jobs of their own, what those get, and the pod of a whole run.

Like all execution settings it is no part of a fingerprint. Secrets have no place here: the nodes of the cluster have
them in their environment (components.recipe.secrets refuses them).
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from components.recipe.base import StrictModel
from components.recipe.rayjob import RayJobConfig, pinned

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Where servers are is said by the environment of whoever starts a run, and by it alone.
GIVEN = frozenset(
    {
        *("AWS_ENDPOINT_URL", "MLFLOW_TRACKING_URI", "PREFECT_API_URL", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"),
        *("RAY_AUTH_MODE", "RINGFLOW_PROFILE", "RINGFLOW_STORE"),
    }
)
Amount = Annotated[float, Field(ge=0)]


class JobResources(StrictModel):
    """What the process of a stage's job reserves in Ray; learners and engines reserve their own besides.

    With any of them Ray may start it on any node that has them, without it starts on the head.
    """

    cpus: float = Field(default=0, ge=0)
    gpus: float = Field(default=0, ge=0)
    memory_gib: float = Field(default=0, ge=0)
    custom: dict[str, Amount] = Field(default={}, description="Ray's custom resources, such as a node type: amount")


class PodResources(StrictModel):
    """The pod of a whole run, in a Kubernetes work pool; what is not said here is the pool's.

    With stages as jobs it computes nothing, and needs little.
    """

    image: str = Field(default="", description="By digest, or with a tag that names a version")
    cpus: float | None = Field(default=None, gt=0)
    memory_gib: float | None = Field(default=None, gt=0)

    _pinned = field_validator("image")(pinned)


class ClusterConfig(StrictModel):
    """Where stages run, and with what."""

    stages: Literal["driver", "job", "rayjob"] = Field(
        default="driver",
        description="driver: in the process of the flow. job: each as a Ray job, which outlives that process and is "
        "taken up again by the next one; needs RAY_API_SERVER_ADDRESS. rayjob: the same on Kubernetes, each with a "
        "Ray cluster of its own (KubeRay)",
    )
    rayjob: RayJobConfig = RayJobConfig()
    env: dict[str, str] = Field(
        default={}, description="Environment variables of the jobs and their workers; no secrets"
    )
    resources: JobResources = JobResources()
    stage_resources: dict[str, JobResources] = Field(
        default={},
        description="The same for single stages, by name (rlvr-2) or type (rlvr), in the place of `resources`",
    )
    pod: PodResources = PodResources()
    directory: str = Field(
        default="", description="ringflow's code on Ray's nodes; where this process has it when empty"
    )
    python: str = Field(default="", description="The interpreter on Ray's nodes; this process's own when empty")
    queue_deadline_s: float = Field(default=900, gt=0, description="A job may wait so long for its resources")
    job_deadline_s: float = Field(default=7 * 24 * 3600, gt=0, description="A run attends to one job for so long")

    @field_validator("env")
    @classmethod
    def _names(cls, env: dict[str, str]) -> dict[str, str]:
        for name in env:
            if not VARIABLE.fullmatch(name):
                raise ValueError(f"{name!r} is no name of an environment variable")
            if name in GIVEN:
                raise ValueError(f"{name} is taken from the environment of whoever starts the run")
        return env

    @model_validator(mode="after")
    def _complete(self) -> ClusterConfig:
        if self.stages == "rayjob":
            if not self.rayjob.image:
                raise ValueError("stages: rayjob needs rayjob.image")
            if self.stage_resources or self.resources != JobResources():
                raise ValueError("a stage's process is in the head's pod with stages: rayjob; rayjob.head sizes it")
        return self

    def of_stage(self, node: str, stage: str) -> JobResources:
        """The reservation of a node's job. stage: its type."""
        given = self.stage_resources
        return given[node] if node in given else given.get(stage, self.resources)
