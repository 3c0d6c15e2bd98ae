"""Execution settings: where and how a recipe runs. They never enter a fingerprint, so changing them reuses results."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.failures import BadInput
from components.recipe.base import StrictModel
from components.recipe.cluster import ClusterConfig

# Share of a GPU's memory an engine may fill, by whether learners are on the same GPUs.
ENGINE_MEMORY = {False: 0.9, True: 0.4}


class JudgeEndpoint(StrictModel):
    """Where a judge model answers: an OpenAI-compatible endpoint, or a directory that a local vLLM serves meanwhile."""

    model: str = Field(min_length=1, description="Name in the recipe's rewards and at the endpoint")
    base_url: str | None = Field(default=None, description="Ends in /v1; RINGFLOW_JUDGE_URL when absent")
    directory: str | None = Field(default=None, description="A release or Hugging Face directory to serve here")
    api_key_env: str | None = Field(default=None, description="Environment variable that holds the key")
    concurrency: int = Field(default=8, ge=1)
    timeout_s: float = Field(default=60.0, gt=0, description="One request")
    deadline_s: float = Field(default=300.0, gt=0, description="One question with its retries")
    retries: int = Field(default=4, ge=0)
    budget_tokens: int | None = Field(default=None, ge=1, description="Prompt and completion tokens of one attempt")
    cache: str | None = Field(default=None, description="File of replies that outlives the run")


class ExecutionConfig(StrictModel):
    """On two CPU cores: one process per core with one thread each, learners and engines taking turns."""

    device: Literal["cpu", "cuda"] = "cpu"
    learners: int = Field(
        default=2, ge=1, description="Learner processes: tensor x context x pipeline x data parallel ranks"
    )
    engines: int = Field(default=2, ge=1, description="vLLM engine processes")
    threads: int = Field(default=1, ge=1, description="CPU threads of each learner and engine")
    tensor_parallel: int = Field(default=1, ge=1, description="Learners that share every matrix")
    context_parallel: int = Field(default=1, ge=1, description="Learners that share the tokens of one micro-batch")
    pipeline_parallel: int = Field(default=1, ge=1, description="Learners that share the layers")
    expert_parallel: int = Field(default=1, ge=1, description="Learners of one stage that share the experts")
    distributed_optimiser: bool = Field(
        default=False,
        description="Learners with the same parameters each keep a part of their moments (and of the float32 copies of "
        "weights that are not float32), and step that",
    )
    learner_dtype: Literal["float32", "bfloat16", "fp8"] = Field(
        default="float32",
        description="Of weights, activations and products in training; bfloat16 keeps a float32 copy of the weights, "
        "float32 gradients and a float32 LM head; fp8 is bfloat16 with products of layers in blocks of e4m3",
    )
    kernels: Literal["local", "transformer_engine"] = Field(
        default="local", description="Whose layers learners run: torch's, or NVIDIA's on GPUs, which fp8 needs"
    )
    micro_batch_tokens: int = Field(
        default=2048, ge=1, description="Tokens of one forward and backward pass of a replica, if its rows are shorter"
    )
    recompute: bool = Field(
        default=False, description="Layers are computed again in the backward pass: only their inputs are kept"
    )
    logit_rows: int | None = Field(
        default=None, ge=1, description="Positions whose logits exist together in training; all of a micro-batch"
    )
    engine_memory: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Share of a GPU's memory an engine may fill; 0.9, or 0.4 where learners are on the same GPUs",
    )
    engine_graphs: bool = Field(
        default=False, description="Engines on GPUs decode by CUDA graphs, captured at their start, instead of eagerly"
    )
    engine_tensor_parallel: int = Field(default=1, ge=1, description="GPUs of one node that share an engine's matrices")
    placement: Literal["shared", "colocated", "disaggregated"] = Field(
        default="shared",
        description="shared: both in memory, on the same cores or GPUs, as work comes. colocated: strictly by turns, "
        "the one that waits gives its memory back. disaggregated: cores or GPUs of their own",
    )
    max_num_seqs: int = Field(default=128, ge=1, description="Sequences one engine decodes together")
    sandbox_tier: Literal["strict", "namespaces", "rlimits"] = Field(
        default="strict", description="Weakest isolation of programs; weaker than strict only by this name"
    )
    data_workers: int = Field(default=1, ge=1, description="Processes that read and convert data; above 1 on Ray Data")
    start_deadline_s: float = Field(default=300, gt=0, description="Actors and placement groups")
    step_deadline_s: float = Field(default=600, gt=0, description="One training step or one generation call")
    retries: int = Field(default=2, ge=0, description="Retries of a stage after an infrastructure failure")
    retry_delay_s: float = Field(default=2.0, ge=0)
    lease_ttl_s: float = Field(default=30.0, gt=0, description="A lease without a heartbeat for this long is stale")
    judges: tuple[JudgeEndpoint, ...] = Field(default=(), description="Where the judges of `rewards` answer")
    cluster: ClusterConfig = ClusterConfig()
    project: str = Field(default="ringflow", pattern=r"^[a-z0-9-]+$", description="First path part in the store")

    @property
    def shares_gpus(self) -> bool:
        """Learners and engines are on the same GPUs."""
        return self.device == "cuda" and self.placement != "disaggregated"

    @property
    def gpus(self) -> int:
        """GPUs that learners and engines stand on together."""
        if self.device != "cuda":
            return 0
        engines = self.engines * self.engine_tensor_parallel
        return max(self.learners, engines) if self.shares_gpus else self.learners + engines

    @property
    def weight_dtype(self) -> str:
        """Of learners' weights and activations."""
        return "bfloat16" if self.learner_dtype == "fp8" else self.learner_dtype

    @property
    def fused(self) -> bool:
        """Learners run the layers of Transformer Engine."""
        return self.kernels == "transformer_engine"

    def check_devices(self) -> None:
        """Raises BadInput when learners and engines shall share GPUs and do not stand on equally many, or learners
        shall run kernels that their devices do not have."""
        self.check_kernels()
        engines, width = self.engines, self.engine_tensor_parallel
        if self.shares_gpus and self.learners != engines * width:
            raise BadInput(
                f"{self.learners} learners and {engines} engines of {width} GPUs cannot stand on the same GPUs",
                where="execution.learners",
                remedy="Set learners to engines x engine_tensor_parallel, or placement to disaggregated",
            )

    def check_kernels(self) -> None:
        """Raises BadInput where `kernels`, `learner_dtype` and `device` do not go together."""
        if self.learner_dtype == "fp8" and not self.fused:
            raise BadInput(
                "FP8 products are Transformer Engine's",
                where="execution.kernels",
                remedy="Set it to transformer_engine, or execution.learner_dtype to bfloat16",
            )
        if self.fused and self.device != "cuda":
            raise BadInput(
                "Transformer Engine runs on NVIDIA GPUs alone",
                where="execution.kernels",
                remedy="Set it to local, or execution.device to cuda",
            )
        if self.fused and self.learner_dtype == "float32":
            raise BadInput(
                "Transformer Engine's fused attention takes 16 bits",
                where="execution.learner_dtype",
                remedy="Set it to bfloat16 or fp8, or execution.kernels to local",
            )
