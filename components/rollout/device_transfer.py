"""The engines' side of weight transfer on GPUs: vLLM's control plane over our actors.

See components.training.device_transfer, which has the whole of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class EngineClient:
    """vLLM's four-method control plane (VLLMWeightSyncClient) over our engine actors.

    engines: Ray handles of components.cluster.worker.Worker around Engine. deadline_s: of every call. names: which
    engines these are.
    """

    def __init__(self, engines: Sequence[Any], deadline_s: float) -> None:
        self.engines, self.deadline_s = list(engines), deadline_s
        self.names = tuple(engine._actor_id.hex() for engine in self.engines)

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._all("init_weight_transfer_engine", {"init_info": init_info})

    def start_weight_update(self) -> None:
        self._all("start_weight_update", {})

    def update_weights(self, update_info: Any) -> None:
        self._all("update_weights", {"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._all("finish_weight_update", {})

    def _all(self, method: str, arguments: dict[str, Any]) -> None:
        import ray

        calls = [engine.invoke.remote("transfer", method, arguments) for engine in self.engines]
        ray.get(calls, timeout=self.deadline_s)
