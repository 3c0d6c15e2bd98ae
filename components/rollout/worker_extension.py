"""What an engine asks of its vLLM workers, by name, so that it works alike in this process and in several.

vLLM mixes this class into its own worker class (`worker_extension_cls`); `self` is that worker: `self.model_runner` is
its runner. An engine of one worker has it in its own process (executor `uni`); one of several (tensor parallel) starts
them as child processes (`mp`), to which methods go by name and arguments as pickles.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.cluster.memory import resident_bytes
from components.model.wire import unpack
from components.rollout.exchange import Layouts

# Allocations of at least this size come from the system each time, as zeros (glibc's largest mmap threshold).
ALWAYS_FRESH = 32 * 1024**2


class EngineWorker:
    """Mixed into vLLM's worker."""

    def take_weights(self, layouts: Layouts, buffers: Sequence[np.ndarray]) -> None:
        """Loads the part of these weights that is this worker's; buffers as components.model.wire.pack lays them."""
        self._forget_packed_experts()
        named = ((name, _read_only(array)) for name, array in unpack(layouts, buffers))
        self.model_runner.reload_weights(weights_iterator=named)

    def take_files(self, directory: str) -> None:
        """Loads this worker's part of a Hugging Face directory."""
        from components.model.hf import read_hf_directory

        self._forget_packed_experts()
        self.model_runner.reload_weights(weights_iterator=iter(read_hf_directory(Path(directory), mtp=False)[1]))

    def free_cache(self) -> int:
        """Frees the storages of the key-value cache (CPU: vLLM's sleep mode is CUDA's); returns bytes released."""
        before = resident_bytes()
        caches = {cache.untyped_storage().data_ptr(): cache for cache in self.model_runner.kv_caches}
        self._freed = [(cache, cache.untyped_storage().nbytes()) for cache in caches.values()]
        for cache, _ in self._freed:
            cache.untyped_storage().resize_(0)
        return max(before - resident_bytes(), 0)

    def take_cache(self) -> None:
        """Allocates what `free_cache` freed; it is empty."""
        for cache, size in getattr(self, "_freed", ()):
            cache.untyped_storage().resize_(size)
            if size < ALWAYS_FRESH:
                cache.zero_()
        self._freed = []

    def _forget_packed_experts(self) -> None:
        # vLLM's CPU MoE kernel keeps the packed copy of the first weights it saw; without this the experts stay stale
        # and log-probs are off by ~0.9, silently.
        for module in self.model_runner.get_model().modules():
            if getattr(getattr(module, "quant_method", None), "moe_kernel", None) is not None:
                module.quant_method.moe_kernel = None


def _read_only(array: np.ndarray) -> Any:
    """A tensor over memory that Ray marked read-only: torch has no such mark and warns; the loader only reads it."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)
