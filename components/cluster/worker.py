"""The process around one worker object: environment, core and imports in the right order, and its last words.

Thread counts are read when torch or vLLM are imported, so the environment and the CPU affinity are set first and the
worker's class is imported after. One process per core with one thread each is the placement that never stalled on CPU
(FACTS 6); a worker with several threads gets as many neighbouring cores.
"""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Mapping
from typing import Any


class Worker:
    """Ray actor body. Holds one object of the class that `target` names and forwards calls to it.

    Args:
        target: `module:Class`, imported in this process only.
        rank, world: position in the group, also exported as RINGFLOW_RANK and RINGFLOW_WORLD.
        args: positional arguments of the class.
        env: environment variables set before anything heavy is imported.
        threads: CPU threads, and cores, of this worker; 0 leaves affinity and thread settings alone.
    """

    def __init__(
        self, target: str, rank: int, world: int, args: tuple[Any, ...], env: Mapping[str, str], threads: int
    ) -> None:
        os.environ.update(RINGFLOW_RANK=str(rank), RINGFLOW_WORLD=str(world))
        if threads:
            pin(rank, threads)
        os.environ.update(env)
        self._target, self._args = target, args

    def build(self) -> None:
        """Imports the class and makes the object. Apart from the constructor, so that its errors arrive as they are."""
        module, _, name = self._target.partition(":")
        self._object = getattr(importlib.import_module(module), name)(*self._args)
        del self._args

    def describe(self) -> dict[str, Any]:
        """Process id, host and log file: known while it lives, needed once it is dead."""
        return {"pid": os.getpid(), "host": socket.gethostname(), "log": os.readlink("/proc/self/fd/2")}

    def rendezvous(self) -> tuple[str, int]:
        """An address on this worker's node with a port that was free a moment ago, for torch.distributed."""
        import ray

        host = ray.util.get_node_ip_address()
        with socket.socket() as probe:
            probe.bind((host, 0))
            return host, probe.getsockname()[1]

    def invoke(self, method: str, *args: Any) -> Any:
        return getattr(self._object, method)(*args)


def pin(rank: int, threads: int) -> list[int]:
    """Binds this process to cores `rank * threads ...` (wrapping around) and caps the OpenMP and BLAS thread pools."""
    available = sorted(os.sched_getaffinity(0))
    chosen = sorted({available[(rank * threads + i) % len(available)] for i in range(threads)})
    os.sched_setaffinity(0, chosen)
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(threads)
    return chosen
