"""GPUs that groups of workers share: learners and engines of one recipe that take turns on the same devices.

Ray gives a GPU to one worker, or fractions of any GPU to several, but never "the one the learner of this rank has". So
small actors hold the GPUs, each those of one engine on one node, and workers are told their numbers: rank i of the
learners and the engine that i belongs to then meet on the same device, which CUDA IPC between them needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray

from components.cluster.warm import warm
from components.failures import DeadlineExceeded
from components.recipe.execution import ExecutionConfig


@dataclass(frozen=True)
class Device:
    """node: Ray's id of the node. number: the GPU's number there, as CUDA_VISIBLE_DEVICES takes it."""

    node: str
    number: str


class _Holder:
    def places(self) -> list[Device]:
        node = ray.get_runtime_context().get_node_id()
        return [Device(node, str(number)) for number in ray.get_gpu_ids()]


class SharedDevices:
    """`holders` times `width` GPUs, each holder's on one node.

    Raises:
        DeadlineExceeded: the cluster has not that many free, with what is there.
    """

    def __init__(self, holders: int, width: int, deadline_s: float) -> None:
        actor = ray.remote(_Holder)
        self._holders = [actor.options(num_cpus=0, num_gpus=width).remote() for _ in range(holders)]
        asked = [holder.places.remote() for holder in self._holders]
        done, waiting = ray.wait(asked, num_returns=holders, timeout=deadline_s)
        if waiting:
            self.close()
            raise DeadlineExceeded(
                f"{len(done)} of {holders} groups of {width} GPUs were free within {deadline_s:g} s; the cluster has "
                f"{ray.cluster_resources().get('GPU', 0):g} GPUs, {ray.available_resources().get('GPU', 0):g} of them "
                "free. Lower execution.engines, stop other runs, or add nodes"
            )
        self.devices: list[Device] = [device for places in ray.get(asked) for device in places]

    def alive(self) -> bool:
        return bool(self._holders) and ray.is_initialized()

    def close(self) -> None:
        if ray.is_initialized():
            for holder in self._holders:
                ray.kill(holder, no_restart=True)
        self._holders = []


def shared_devices(execution: ExecutionConfig) -> list[Device]:
    """The GPU of each learner, in rank order, and of each engine so many in turn; held until the process is done.

    Raises:
        BadInput: learners and engines do not stand on equally many GPUs.
    """
    execution.check_devices()
    holders, width = execution.engines, execution.engine_tensor_parallel
    held: Any = warm(("devices", holders, width), lambda: SharedDevices(holders, width, execution.start_deadline_s))
    return held.devices
