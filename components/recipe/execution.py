"""Execution settings: where and how a recipe runs. They never enter a fingerprint, so changing them reuses results."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.recipe.base import StrictModel


class ExecutionConfig(StrictModel):
    """On two CPU cores: one process per core with one thread each, learners and engines taking turns."""

    device: Literal["cpu", "cuda"] = "cpu"
    learners: int = Field(default=2, ge=1, description="Learner processes (data parallel unless a layout says more)")
    engines: int = Field(default=2, ge=1, description="vLLM engine processes")
    threads: int = Field(default=1, ge=1, description="CPU threads of each learner and engine")
    tensor_parallel: int = Field(default=1, ge=1)
    expert_parallel: int = Field(default=1, ge=1)
    pipeline_parallel: int = Field(default=1, ge=1)
    engine_tensor_parallel: int = Field(default=1, ge=1)
    max_num_seqs: int = Field(default=128, ge=1, description="Sequences one engine decodes together")
    data_workers: int = Field(default=1, ge=1, description="Processes that read and convert data; above 1 on Ray Data")
    start_deadline_s: float = Field(default=300, gt=0, description="Actors and placement groups")
    step_deadline_s: float = Field(default=600, gt=0, description="One training step or one generation call")
    retries: int = Field(default=2, ge=0, description="Retries of a stage after an infrastructure failure")
    retry_delay_s: float = Field(default=2.0, ge=0)
    lease_ttl_s: float = Field(default=30.0, gt=0, description="A lease without a heartbeat for this long is stale")
    project: str = Field(default="ringflow", pattern=r"^[a-z0-9-]+$", description="First path part in the store")
