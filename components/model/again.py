"""Activation recomputation (Chen et al., arXiv 1604.06174): a layer keeps its input and is computed again when its
gradient is wanted.

Megatron's own (`recompute_granularity`) saves and restores CUDA random states, which a CPU has not and a model without
dropout does not need. What a layer's forward pass changes beside its output must not change twice: the router counts
its experts' tokens. And what it reads beside its input must be what it was, though other micro-batches have passed
meanwhile (a pipeline): filling tokens and replayed experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


def compute_again(layer: Any, around: Callable[[], Any] = nullcontext) -> None:
    """Makes a transformer layer of components.model.builder do so whenever gradients are wanted.

    around: the context that the second pass needs as the first one had it from outside (FP8).
    """
    once = layer.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return once(*args, **kwargs)
        again = _as_it_was(layer.mlp, around)
        return checkpoint(
            once,
            *args,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=lambda: (nullcontext(), again),
            **kwargs,
        )

    layer.forward = forward


def _as_it_was(mlp: Any, around: Callable[[], Any]) -> Any:
    """A context for the second pass: what the layer reads is what it is now, what it counts is not counted."""
    if not hasattr(mlp, "router"):
        return around()
    replay, padding = mlp.router.router_replay, mlp.padding
    target, action = replay.target_topk_idx, replay.router_replay_action

    @contextmanager
    def context() -> Iterator[None]:
        counted, now = mlp.router.local_tokens_per_expert.clone(), (mlp.padding, replay.target_topk_idx)
        acting = replay.router_replay_action
        mlp.padding, replay.target_topk_idx, replay.router_replay_action = padding, target, action
        try:
            with around():
                yield
        finally:
            mlp.padding, replay.target_topk_idx = now
            replay.router_replay_action = acting
            mlp.router.local_tokens_per_expert.copy_(counted)

    return context()
