"""WorkerGroup: N Ray actors of one class that act as one (SPMD), with a deadline on every wait.

Actors are never restarted behind our back (max_restarts 0): a worker that lost its weights must not answer. They belong
to the driver and end with it, also when it is killed. Starting does not block, so several groups start side by side;
the first call, or `ready()`, waits.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError, RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from components.cluster.devices import Device
from components.cluster.worker import Worker
from components.failures import DeadlineExceeded, InfrastructureError, RingflowError

LAST_WORDS_LINES = 20


class WorkerGroup:
    """`world` actors, rank i built as `cls(*args_per_rank[i])`.

    Args:
        cls: the worker class, or `module:Class` so that the driver does not import it.
        args_per_rank: one tuple of constructor arguments per rank.
        cpus, gpus: per worker, as Ray counts them; a CPU worker that shares its core by turns asks for a fraction.
        env: environment of every worker, set before its imports.
        threads: CPU threads (and cores) per worker; rank i takes core i (wrapping); 0 leaves them alone.
        first_core: the first of cores that are this group's alone; see worker.pin.
        devices: of each rank, GPUs that other groups use too (components.cluster.devices), instead of `gpus`.
        deadline_s: for placement and start together.
        name: how errors call the group.
    Raises (from `ready` and the first call):
        InfrastructureError: not enough resources (with a table of wanted and available), or a worker died.
    """

    def __init__(
        self,
        cls: type | str,
        world: int,
        args_per_rank: Sequence[tuple[Any, ...]],
        *,
        cpus: float = 0.25,
        gpus: float = 0,
        env: Mapping[str, str] | None = None,
        threads: int = 1,
        first_core: int | None = None,
        devices: Sequence[Sequence[Device]] | None = None,
        deadline_s: float,
        name: str | None = None,
    ) -> None:
        if len(args_per_rank) != world:
            raise ValueError(f"{world} workers need {world} argument tuples, got {len(args_per_rank)}")
        target = cls if isinstance(cls, str) else f"{cls.__module__}:{cls.__qualname__}"
        self.name = name or target.partition(":")[2]
        self.world = world
        gpus = 0 if devices else gpus
        self._bundle = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
        self._started, self._deadline_s = time.monotonic(), deadline_s
        self._ready, self._failed, self._closed = False, "", False
        self._about: list[dict[str, Any]] = [{} for _ in range(world)]
        self._lock = threading.Lock()
        self._placement = None
        if devices is None:
            self._placement = placement_group([dict(self._bundle) for _ in range(world)], strategy="PACK")
        actor = ray.remote(Worker)
        environments = [{**(env or {}), **_visible(devices[rank] if devices else ())} for rank in range(world)]
        self._actors = [
            actor.options(
                num_cpus=cpus,
                num_gpus=gpus,
                max_restarts=0,
                max_task_retries=0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._placement, placement_group_bundle_index=rank)
                if devices is None
                else NodeAffinitySchedulingStrategy(devices[rank][0].node, soft=False),
                runtime_env={"env_vars": {"PYTHONPATH": _python_path(), **environments[rank]}},
            ).remote(target, rank, world, args_per_rank[rank], environments[rank], threads, first_core)
            for rank in range(world)
        ]
        self._describing = [worker.describe.remote() for worker in self._actors]
        self._building = [worker.build.remote() for worker in self._actors]

    @property
    def actors(self) -> list[Any]:
        """The Ray handles, in rank order, for a third party that has to call them itself."""
        self.ready()
        return list(self._actors)

    def ready(self) -> None:
        """Waits until every worker is built. Raises what the constructor raised, or what the group died of."""
        with self._lock:
            if self._ready:
                return
            if self._placement is not None and not self._placement.wait(timeout_seconds=self._remaining()):
                self._failed = "no room for it"
                message = self._resource_table()
                self.close()
                raise DeadlineExceeded(message)
            try:
                self._about = self._collect(self._describing, "start", self._remaining())
                self._collect(self._building, "build", self._remaining())
            except Exception as error:
                self._failed = self._failed or f"it could not be built: {error}"
                raise
            self._ready = True

    def call(self, method: str, *args: Any, deadline_s: float) -> list[Any]:
        """Runs `method(*args)` on every rank at once and returns the results in rank order."""
        return self.call_each(method, [args] * self.world, deadline_s)

    def call_one(self, rank: int, method: str, *args: Any, deadline_s: float) -> Any:
        """Runs `method(*args)` on one rank, under the rules of `call_each`."""
        self.ready()
        if self._failed or self._closed:
            raise InfrastructureError(f"worker group {self.name} is closed: {self._failed or 'close() was called'}")
        return self._collect([self._actors[rank].invoke.remote(method, *args)], method, deadline_s)[0]

    def call_shared(self, method: str, *args: Any, deadline_s: float) -> list[tuple[Any, ray.ObjectRef]]:
        """Runs a method that returns (description, payload) on every rank; payloads stay behind as references."""
        self.ready()
        if self._failed or self._closed:
            raise InfrastructureError(f"worker group {self.name} is closed: {self._failed or 'close() was called'}")
        return self._collect([worker.share.remote(method, *args) for worker in self._actors], method, deadline_s)

    def call_each(self, method: str, per_rank_args: Sequence[tuple[Any, ...]], deadline_s: float) -> list[Any]:
        """Runs `method(*per_rank_args[i])` on rank i, all at once; results in rank order.

        The first failing rank fails the call at once, since its peers may wait for it in a collective for ever.

        Raises:
            RingflowError: as a worker raised it. Any other exception of a worker is passed on with its traceback.
            InfrastructureError: a worker died; names the rank and shows the end of its log.
            DeadlineExceeded: the call took longer than `deadline_s`; the group cannot be used afterwards.
        """
        if len(per_rank_args) != self.world:
            raise ValueError(f"{self.name}.{method}: {self.world} ranks but {len(per_rank_args)} argument tuples")
        self.ready()
        return self._collect(self.submit(method, per_rank_args), method, deadline_s)

    def each_as_done(
        self, method: str, per_rank_args: Sequence[tuple[Any, ...]], deadline_s: float
    ) -> Iterator[tuple[int, Any]]:
        """(rank, result) in the order the ranks finish, under the rules of `call_each`."""
        self.ready()
        references = self.submit(method, per_rank_args)
        return self._as_done(references, method, deadline_s)

    def submit(self, method: str, per_rank_args: Sequence[tuple[Any, ...]]) -> list[ray.ObjectRef]:
        """Starts the calls without waiting; hand the references to `collect`."""
        return [self.submit_to(rank, method, args) for rank, args in enumerate(per_rank_args)]

    def submit_to(self, rank: int, method: str, args: Sequence[Any]) -> ray.ObjectRef:
        """Starts one call on one rank without waiting."""
        if self._failed or self._closed:
            raise InfrastructureError(f"worker group {self.name} is closed: {self._failed or 'close() was called'}")
        return self._actors[rank].invoke.remote(method, *args)

    def collect(self, references: Sequence[ray.ObjectRef], method: str, deadline_s: float) -> list[Any]:
        """Results of `submit` in rank order, under the same rules as `call_each`."""
        return self._collect(references, method, deadline_s)

    def rendezvous(self, deadline_s: float = 30.0) -> tuple[str, int]:
        """Host and free port on rank 0's node, for torch.distributed."""
        self.ready()
        return self._collect([self._actors[0].rendezvous.remote()], "rendezvous", deadline_s)[0]

    def alive(self) -> bool:
        """False once a worker is dead or a deadline was missed. A busy worker counts as alive."""
        if self._failed or self._closed or not ray.is_initialized():
            return False
        if not self._ready:
            return True
        done, _ = ray.wait([worker.describe.remote() for worker in self._actors], num_returns=self.world, timeout=0.5)
        try:
            ray.get(done)
        except RayError as error:
            self._failed = str(error).splitlines()[0]
            return False
        return True

    def close(self) -> None:
        """Ends the workers and frees their placement. Safe to call twice, and after Ray is gone."""
        if self._closed:
            return
        self._closed = True
        if not ray.is_initialized():
            return
        for worker in self._actors:
            ray.kill(worker, no_restart=True)
        if self._placement is not None:
            remove_placement_group(self._placement)

    def _remaining(self) -> float:
        return max(self._deadline_s - (time.monotonic() - self._started), 0.1)

    def _collect(self, references: Sequence[ray.ObjectRef], method: str, deadline_s: float) -> list[Any]:
        results = dict(self._as_done(references, method, deadline_s))
        return [results[rank] for rank in range(len(references))]

    def _as_done(
        self, references: Sequence[ray.ObjectRef], method: str, deadline_s: float
    ) -> Iterator[tuple[int, Any]]:
        ends, pending = time.monotonic() + deadline_s, list(references)
        while pending:
            done, pending = ray.wait(pending, num_returns=1, timeout=max(ends - time.monotonic(), 0))
            if not done:
                waiting = [references.index(reference) for reference in pending]
                self._failed = f"{method} passed its deadline"
                raise DeadlineExceeded(f"{self.name}.{method} did not finish in {deadline_s:g} s on ranks {waiting}")
            rank = references.index(done[0])
            try:
                result = ray.get(done[0])
            except RayTaskError as error:
                if isinstance(error.cause, RingflowError):
                    raise error.cause from error
                raise
            except (ActorDiedError, ActorUnavailableError) as error:
                self._failed = f"rank {rank} died"
                raise InfrastructureError(self._obituary(rank, method, error)) from error
            yield rank, result

    def _obituary(self, rank: int, method: str, error: Exception) -> str:
        about = self._about[rank]
        text = f"{self.name}[{rank}] died during {method} (pid {about.get('pid', '?')}): {error}"
        try:
            with open(about["log"], errors="replace") as log:
                words = [line.rstrip() for line in log.readlines() if not line.startswith(":")][-LAST_WORDS_LINES:]
        except (KeyError, OSError):
            return text
        return "\n".join([text, "its last words:", *("  " + line for line in words)]) if words else text

    def _resource_table(self) -> str:
        total, free = ray.cluster_resources(), ray.available_resources()
        rows = [f"{'resource':<12}{'wanted':>10}{'free':>10}{'total':>10}"]
        for resource, amount in self._bundle.items():
            rows.append(
                f"{resource:<12}{amount * self.world:>10g}{free.get(resource, 0):>10g}{total.get(resource, 0):>10g}"
            )
        return "\n".join(
            [
                f"{self.name}: {self.world} workers found no room within {self._deadline_s:g} s.",
                *rows,
                "Lower execution.learners or execution.engines, stop other runs, or add nodes.",
            ]
        )


def _visible(devices: Sequence[Device]) -> dict[str, str]:
    """Ray hides all GPUs from a worker that holds none; the worker puts this back before anything reads it."""
    return {"CUDA_VISIBLE_DEVICES": ",".join(device.number for device in devices)} if devices else {}


def _python_path() -> str:
    """The directory this package was imported from, so that workers import the same code whatever their cwd."""
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return os.pathsep.join(dict.fromkeys([here, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]))
