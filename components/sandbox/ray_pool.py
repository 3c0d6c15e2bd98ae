"""One sandbox on every node of a Ray cluster, behind the interface of one sandbox.

Each node has one actor that owns a pool of workers; a program goes to the node with the fewest programs per worker. An
actor that dies with its node is left out from then on and its programs go to another, once each; a program that failed
twice has the verdict infrastructure-error. Ray must be connected (components.cluster.connect).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from components.failures import DeadlineExceeded, InfrastructureError
from components.sandbox.pool import Sandbox
from components.sandbox.types import Limits, Program, RunResult, Test, Tier

_ANSWER_SLACK_S = 60.0


class SandboxActor:
    """A node's pool; its methods run in threads, as many as there are workers."""

    def __init__(self, workers: int, options: dict[str, Any]) -> None:
        self._sandbox = Sandbox(workers, **options)

    def warm(self) -> Tier:
        return self._sandbox.warm()

    def run(self, program: Program, tests: Sequence[Test], limits: Limits | None, options: dict[str, Any]) -> RunResult:
        return self._sandbox.run(program, tests, limits, **options)

    def close(self) -> None:
        self._sandbox.close()


@dataclass
class _Node:
    name: str
    actor: Any
    workers: int
    running: int = 0
    alive: bool = True


class SandboxCluster:
    """Sandboxes on all nodes that are alive now.

    Args:
        workers_per_core: workers of a node for each of its CPUs, at least one.
        wait_s: how long a program may wait for its node and run there, beyond its own limits.
        options: of every `Sandbox`, as tier, libraries, max_waiting.
    Raises:
        InfrastructureError: no node could start its sandbox at the tier asked for, within `start_s`.
    """

    def __init__(
        self, *, workers_per_core: float = 1.0, wait_s: float = 600.0, start_s: float = 120.0, **options: Any
    ) -> None:
        self._lock, self._wait_s = threading.Lock(), wait_s
        self._nodes: list[_Node] = []
        remote = ray.remote(SandboxActor)
        for node in ray.nodes():
            if not node["Alive"] or not node["Resources"].get("CPU"):
                continue
            workers = max(1, int(node["Resources"]["CPU"] * workers_per_core))
            actor = remote.options(
                num_cpus=0,
                max_concurrency=workers + 4,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            ).remote(workers, {**options, "wait_s": wait_s})
            self._nodes.append(_Node(node["NodeManagerHostname"], actor, workers))
        starting = {node.name: node.actor.warm.remote() for node in self._nodes}
        failures, ends = [], time.monotonic() + start_s
        for node in self._nodes:
            try:
                self.tier: Tier = ray.get(starting[node.name], timeout=max(0.0, ends - time.monotonic()))
            except (RayError, InfrastructureError, GetTimeoutError) as error:
                node.alive = False
                failures.append(f"{node.name}: {error}")
        if not any(node.alive for node in self._nodes):
            self.close()
            raise InfrastructureError(f"no node of the cluster could start a sandbox: {'; '.join(failures) or 'none'}")

    @property
    def workers(self) -> int:
        """Programs that run at the same time on all nodes."""
        return sum(node.workers for node in self._nodes if node.alive)

    def nodes(self) -> list[str]:
        """Names of the nodes that still have a sandbox."""
        return [node.name for node in self._nodes if node.alive]

    def run(self, program: Program, tests: Sequence[Test], limits: Limits | None = None, **options: Any) -> RunResult:
        """As `Sandbox.run`."""
        return self.run_many([(program, tests)], limits, **options)[0]

    def run_many(
        self, jobs: Sequence[tuple[Program, Sequence[Test]]], limits: Limits | None = None, **options: Any
    ) -> list[RunResult]:
        """As `Sandbox.run_many`, over all nodes; results in the order of the jobs.

        Raises:
            BadInput: as `Sandbox.run`.
            DeadlineExceeded: a node did not answer in the time its programs may take.
            InfrastructureError: no node is left.
        """
        results: list[RunResult | None] = [None] * len(jobs)
        todo = list(range(len(jobs)))
        for last in (False, True):
            sent = [(index, *self._send(jobs[index], limits, options)) for index in todo]
            todo = []
            for index, node, reference in sent:
                try:
                    results[index] = ray.get(reference, timeout=self._patience(jobs[index][1], limits))
                except RayActorError as error:
                    node.alive = False
                    todo.append(index)
                    program = jobs[index][0]
                    results[index] = RunResult("infrastructure-error", (), self.tier, program.language, 0.0, str(error))
                except GetTimeoutError:
                    raise DeadlineExceeded(f"the sandbox of node {node.name} gave no answer in time") from None
                finally:
                    with self._lock:
                        node.running -= 1
            if not todo or last:
                break
        return [result for result in results if result is not None]

    def _send(self, job: tuple[Program, Sequence[Test]], limits: Limits | None, options: dict[str, Any]) -> tuple:
        with self._lock:
            alive = [node for node in self._nodes if node.alive]
            if not alive:
                raise InfrastructureError("no node of the cluster has a sandbox any more")
            node = min(alive, key=lambda node: node.running / node.workers)
            node.running += 1
        return node, node.actor.run.remote(job[0], list(job[1]), limits, options)

    def _patience(self, tests: Sequence[Test], limits: Limits | None) -> float:
        wall = (limits or Limits()).wall_s
        return self._wait_s + _ANSWER_SLACK_S + 8 * wall * (len(tests) + 1)

    def close(self) -> None:
        """Ends every sandbox with what runs in it. Safe to call twice."""
        nodes, self._nodes = self._nodes, []
        for node in nodes:
            if node.alive:
                with contextlib.suppress(RayError, GetTimeoutError):
                    ray.get(node.actor.close.remote(), timeout=_ANSWER_SLACK_S)
            ray.kill(node.actor)

    def __enter__(self) -> SandboxCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
