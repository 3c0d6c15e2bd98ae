"""Which experts the engine chose for every token it computed, for replay in the trainer (rollout routing replay, R3).

An engine of lower precision sometimes ranks two experts the other way round than the trainer, and then a token passes
through other weights: the largest part of a MoE's train-inference mismatch. Replayed, the trainer goes through the
engine's experts with its own gate values.

vLLM returns them itself (`enable_return_routed_experts`), but only from its Model Runner V2
(VllmConfig._verify_aux_output_compatibility), and that needs Triton (VllmConfig.use_v2_model_runner), which the CPU
build does not have. What V2 fills its answer from is there, though: every router calls `capture_fn` with the experts it
chose (BaseRouter.select_experts). This recorder sets it, and reads from the V1 runner which request and position each
row is.
"""

from __future__ import annotations

from typing import Any

import numpy as np


class RoutingRecorder:
    """Records the experts of one in-process engine. model_runner: vLLM's V1 runner, whose model is loaded."""

    def __init__(self, model_runner: Any) -> None:
        from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner

        self._runner = model_runner
        layers = [module for module in model_runner.model.modules() if isinstance(module, MoERunner)]
        self._layers = sorted(layers, key=lambda module: module.layer_id)
        self._step: list[np.ndarray] = []
        self._chunks: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        for module in self._layers:
            module.router.set_capture_fn(self._capture)

    def _capture(self, experts: Any) -> None:
        """Called by one router after the other with [rows, topk]; the last one of a step completes it."""
        self._step.append(experts.numpy().astype(np.uint8 if experts.max() < 256 else np.uint16))
        if len(self._step) < len(self._layers):
            return
        chosen, self._step = np.stack(self._step, axis=1), []
        batch = self._runner.input_batch
        ends = self._runner.query_start_loc.np[: batch.num_reqs + 1]
        positions = self._runner.positions[: int(ends[-1])].numpy()
        for name, start, end in zip(batch.req_ids, ends[:-1], ends[1:], strict=True):
            external = name.rpartition("-")[0]  # vLLM adds random characters to the name it was given
            self._chunks.setdefault(external, []).append((positions[start:end].copy(), chosen[start:end]))

    def forget(self) -> None:
        """Drops everything recorded, so that names can be used again."""
        self._chunks.clear()

    def take(self, name: str, length: int) -> np.ndarray:
        """[length - 1, sparse layers, topk] of a finished request of `length` tokens in all: the engine never computes
        the last one.

        Raises:
            RuntimeError: a position was not computed (taken from a prefix cache, say).
        """
        chunks = self._chunks.pop(name)
        first = chunks[0][1]
        out = np.empty((length - 1, *first.shape[1:]), first.dtype)
        seen = np.zeros(length - 1, dtype=bool)
        for positions, chosen in chunks:
            out[positions], seen[positions] = chosen, True
        if not seen.all():
            raise RuntimeError(
                f"request {name}: the experts of {int((~seen).sum())} of {length - 1} tokens are unknown"
            )
        return out
