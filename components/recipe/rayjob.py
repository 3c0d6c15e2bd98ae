"""The Ray cluster that a stage has for itself on Kubernetes: its pods, as a recipe describes them.

One group of pods is Ray's head, which also runs the process of the stage; the others hold learners and engines. Secrets
are named here and never given: the pods read them from Kubernetes.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from components.recipe.base import StrictModel

# RFC 1035, as Kubernetes asks it of the names of groups and secrets.
NAME = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
IMAGE = re.compile(r"(?:[^\s/@]+/)*[^\s/:@]+(?::[\w.-]*\d[\w.-]*|(?::[\w.-]+)?@sha256:[0-9a-f]{64})")
Name = Annotated[str, Field(pattern=NAME, max_length=63)]


def pinned(image: str) -> str:
    """Raises ValueError for an image that may be another one tomorrow."""
    if image and not IMAGE.fullmatch(image):
        raise ValueError("not an image by digest or with a tag that names a version")
    return image


class Toleration(StrictModel):
    """Of a node's taint, as Kubernetes has it."""

    key: str = Field(min_length=1)
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class SecretKey(StrictModel):
    """One value of a Kubernetes secret in the namespace of the job."""

    name: Name
    key: str = Field(pattern=r"^[-._a-zA-Z0-9]+$")


class Pods(StrictModel):
    """Pods of one kind. Each asks for what it may use, no less: Ray would count on it."""

    cpus: float = Field(default=4, gt=0)
    memory_gib: float = Field(default=16, gt=0)
    gpus: int = Field(default=0, ge=0, description="nvidia.com/gpu of each pod")
    shm_gib: float = Field(default=2, gt=0, description="/dev/shm: Ray's object store and NCCL; counts as memory")
    disk_gib: float = Field(default=100, gt=0, description="/tmp, on the node's disk")
    resources: dict[str, int] = Field(default={}, description="Further resources of Kubernetes, such as rdma/hca: 8")
    node_selector: dict[str, str] = Field(default={})
    tolerations: tuple[Toleration, ...] = ()
    priority_class: Name = "ringflow-training"

    @model_validator(mode="after")
    def _shm_fits(self) -> Pods:
        if self.shm_gib >= self.memory_gib:
            raise ValueError("shm_gib counts as memory and must leave some of memory_gib")
        return self


class Head(Pods):
    """Ray's head and the process of the stage, which holds weights only where a stage exports them."""

    cpus: float = Field(default=2, gt=0)
    memory_gib: float = Field(default=8, gt=0)


class Workers(Pods):
    """replicas: pods of this group; as many as the GPUs of learners and engines take when absent, 1 without GPUs."""

    name: Annotated[str, Field(pattern=NAME, max_length=30)] = "workers"
    replicas: int | None = Field(default=None, ge=1)


class StageCluster(StrictModel):
    """What a stage has in the place of `head` and `workers`. workers: none, and all is done in the head's pod."""

    head: Head | None = None
    workers: tuple[Workers, ...] | None = None


class RayJobConfig(StrictModel):
    """A KubeRay RayJob per stage: what its cluster is made of."""

    namespace: str = Field(default="", description="That of the kubeconfig, or of this process's pod, when empty")
    image: str = Field(default="", description="Of all pods, by digest or with a tag that names a version")
    pull_secrets: tuple[Name, ...] = ()
    head: Head = Head()
    workers: tuple[Workers, ...] = ()
    per_stage: dict[str, StageCluster] = Field(
        default={}, description="For single stages, by name (rlvr-2) or type (rlvr)"
    )
    env_from_config: tuple[Name, ...] = Field(default=("ringflow-client",), description="Config maps, whole")
    env_from_secrets: tuple[Name, ...] = Field(
        default=("ringflow-client", "ringflow-store"), description="Secrets, whole"
    )
    env_from_keys: dict[str, SecretKey] = Field(default={}, description="Variable: one key of a secret")
    ray_auth: Name = Field(default="ringflow-ray", description="The secret whose auth_token is Ray's token")
    keep_s: int = Field(default=300, ge=0, description="A cluster stays so long after a failure, to be looked at")

    _pinned = field_validator("image")(pinned)

    @field_validator("workers")
    @classmethod
    def _distinct(cls, workers: tuple[Workers, ...]) -> tuple[Workers, ...]:
        if len({group.name for group in workers}) < len(workers):
            raise ValueError("two groups of workers have one name")
        return workers

    def of_stage(self, node: str, stage: str) -> tuple[Head, tuple[Workers, ...]]:
        """The pods of a node's cluster. stage: its type."""
        own = self.per_stage.get(node) or self.per_stage.get(stage) or StageCluster()
        return own.head or self.head, self.workers if own.workers is None else own.workers
