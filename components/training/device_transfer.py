"""Weights from learners to engines on GPUs through vLLM's own weight-transfer engines.

Written against vLLM 0.32 (vllm/distributed/weight_transfer/{base,factory,ipc_engine,nccl_engine,clients}.py and
v1/worker/gpu_worker.py). Whole tensors are put together one at a time (components.model.stream); an engine worker
receives packed buffers and loads from them what it needs: its layers, experts, rows.

`ipc`, learners and engines on the same GPUs: every learner puts the tensors together in its own memory and hands the
worker on its GPU a handle; nothing leaves the device.
`nccl`, GPUs of their own: the learner of rank 0 is the sender and joins one NCCL group with every engine worker; the
other learners only feed it.

Versions fence engines here as they do on CPU. Checksums do not: the transports are trusted, and the receive buffers are
inside vLLM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

Backend = Literal["ipc", "nccl"]


@dataclass(frozen=True)
class DeviceWeights:
    """What LearnerGroup.weights returns on GPUs: nothing was moved yet; `send` moves it.

    send: (vLLM's control plane of the engines, their GPUs in all) -> None; a collective of the learners.
    """

    send: Callable[[Any, int], None]


def open_sender(
    backend: Backend, model: Any, rank: int, address: str, port: int, engine_workers: int, client: Any
) -> Any:
    """vLLM's trainer-side engine for this learner; called on every rank, only the first talks to engines.

    engine_workers: GPUs of all engines together. client: components.rollout.device_transfer.EngineClient.
    Returns an object whose send_weights() is a collective of the learners.
    """
    from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource
    from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
    from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

    from components.model.stream import WholeTensors

    whole = WholeTensors(model, everywhere=backend == "ipc")

    class Source(WeightSource):
        def metadata(self) -> list[ParamMeta]:
            return [ParamMeta(name, whole.dtype(name), shape) for name, shape in whole.shapes.items()]

        def __iter__(self) -> Iterator[Any]:
            return iter(whole)

    if backend == "ipc":
        info = IPCTrainerInitInfo(rank=rank, packed=True)
    else:
        info = NCCLTrainerInitInfo(rank=rank, master_address=address, master_port=port, world_size=1 + engine_workers)
    return WeightTransferTrainerFactory.trainer_init(info, client=client, source=Source())
