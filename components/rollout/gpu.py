"""What an engine is told on GPUs and not on CPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from components.recipe.execution import ENGINE_MEMORY, ExecutionConfig


@dataclass(frozen=True)
class GpuSettings:
    """memory: share of the GPU's memory that the engine may fill. transfer: backend of weight exchange
    (components.training.device_transfer). graphs: decode by CUDA graphs; without torch.compile, which would take a
    minute at every start. New weights are copied to where the old ones were, so a graph stays valid."""

    memory: float
    transfer: Literal["ipc", "nccl"]
    graphs: bool = False

    @classmethod
    def of(cls, execution: ExecutionConfig) -> GpuSettings | None:
        """None on CPUs."""
        if execution.device != "cuda":
            return None
        shared = execution.shares_gpus
        memory = execution.engine_memory or ENGINE_MEMORY[shared]
        return cls(memory, "ipc" if shared else "nccl", execution.engine_graphs)

    def arguments(self) -> dict[str, Any]:
        """Of vllm.LLM."""
        graphs = {"compilation_config": {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}}
        return (graphs if self.graphs else {"enforce_eager": True}) | {
            "enable_sleep_mode": True,
            "gpu_memory_utilization": self.memory,
            "weight_transfer_config": {"backend": self.transfer},
        }
