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

from components.cluster.imports import imports
from components.cluster.scratch import use_scratch_directory
from components.failures import BadInput


class Worker:
    """Ray actor body. Holds one object of the class that `target` names and forwards calls to it.

    Args:
        target: `module:Class`, imported in this process only.
        rank, world: position in the group, also exported as RINGFLOW_RANK and RINGFLOW_WORLD.
        args: positional arguments of the class.
        env: environment variables set before anything heavy is imported.
        threads: CPU threads, and cores, of this worker; 0 leaves affinity and thread settings alone.
        first_core: the group's first core, when its cores are its own; None: it shares them with other groups.
    """

    def __init__(
        self,
        target: str,
        rank: int,
        world: int,
        args: tuple[Any, ...],
        env: Mapping[str, str],
        threads: int,
        first_core: int | None = None,
    ) -> None:
        os.environ.update(RINGFLOW_RANK=str(rank), RINGFLOW_WORLD=str(world))
        use_scratch_directory()
        if threads:
            pin(rank, threads, first_core)
        os.environ.update(env)
        self._target, self._args = target, args

    def build(self) -> None:
        """Imports the class and makes the object. Apart from the constructor, so that its errors arrive as they are."""
        module, _, name = self._target.partition(":")
        with imports():
            found = getattr(importlib.import_module(module), name)
        self._object = found(*self._args)
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

    def share(self, method: str, *args: Any) -> tuple[Any, Any]:
        """(description, reference) of a method that returns (description, payload): the payload stays on this node, in
        Ray's object store, and only who needs it reads it."""
        import ray

        description, payload = getattr(self._object, method)(*args)
        return description, ray.put(payload)


def pin(rank: int, threads: int, first_core: int | None = None) -> list[int]:
    """Binds this process to cores `rank * threads ...` and caps the OpenMP and BLAS thread pools.

    Counted from `first_core`, cores are the group's own and never shared; from None they start at 0 and wrap around.

    Raises:
        BadInput: there are not that many cores.
    """
    available = sorted(os.sched_getaffinity(0))
    first = (first_core or 0) + rank * threads
    if first_core is not None and first + threads > len(available):
        raise BadInput(
            f"core {first + threads - 1} is asked for, this machine gives cores 0 to {len(available) - 1}",
            where="execution.placement",
            remedy="disaggregated needs (learners + engines) x threads cores: lower them, or use shared or colocated",
        )
    chosen = sorted({available[(first + i) % len(available)] for i in range(threads)})
    os.sched_setaffinity(0, chosen)
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(threads)
    if threads > 1 and first_core is None:
        # Waiting threads would spin on cores that the threads of other processes need (docs/parallelism.md).
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return chosen
