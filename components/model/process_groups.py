"""Megatron-core's process groups of a layout, made once for each layout and set of connected processes.

A layout's ranks are numbered by components.model.layout; that megatron numbers them the same is checked here.
"""

from __future__ import annotations

import torch

from components.failures import BadInput, InfrastructureError
from components.model import cpu_compat
from components.model.layout import UNDIVIDED, Layout, Place

cpu_compat.install()

from megatron.core import parallel_state  # noqa: E402  after the patches: decorators run at import

_initialised: tuple[Layout, torch.distributed.ProcessGroup] | None = None


def ensure_parallel_state(layout: Layout = UNDIVIDED) -> None:
    """Process groups of `layout`. A process that nobody connected to others is one of its own; no socket is opened.

    Raises:
        BadInput: more or fewer processes are connected than the layout has ranks.
    """
    if not torch.distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        torch.distributed.init_process_group(backend, store=torch.distributed.HashStore(), rank=0, world_size=1)
    if (connected := torch.distributed.get_world_size()) != layout.world:
        raise BadInput(f"{connected} learners are connected, the layout has {layout.world}", where="execution.learners")
    if parallel_state.model_parallel_is_initialized():
        if _initialised == (layout, torch.distributed.group.WORLD):
            return
        # Of another layout, or of connections that somebody (an engine in this process) has ended since.
        parallel_state.destroy_model_parallel()
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tensor,
        pipeline_model_parallel_size=layout.pipeline,
        context_parallel_size=layout.context,
        expert_model_parallel_size=layout.expert,
        expert_tensor_parallel_size=1,
    )
    _remember(layout)


def _remember(layout: Layout) -> None:
    global _initialised
    _initialised = layout, torch.distributed.group.WORLD
    place = layout.place(torch.distributed.get_rank())
    found = Place(
        parallel_state.get_tensor_model_parallel_rank(),
        parallel_state.get_context_parallel_rank(),
        parallel_state.get_data_parallel_rank(),
        parallel_state.get_pipeline_model_parallel_rank(),
        parallel_state.get_expert_model_parallel_rank(),
    )
    if place != found:
        raise InfrastructureError(f"megatron-core numbers ranks otherwise: {found}, expected {place}")
