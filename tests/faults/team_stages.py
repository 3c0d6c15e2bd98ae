"""The toy stages with their work in a Ray actor, as learners do it, and their flow for a worker to run."""

from __future__ import annotations

import os
import sys
import time
import types
from collections.abc import Mapping
from pathlib import Path

from components.artifacts.context import StageContext, StageResult
from components.artifacts.ref import ArtifactRef
from components.cluster.connect import connect
from components.cluster.workers import WorkerGroup
from tasks.stage import STAGES, StageConfig
from tests.faults.mini import mini
from tests.flows import toy


class Counter:
    """The actor: counts, says on which node, and waits in the middle of the third step while there is a gate."""

    def count(self, node: str, step: int, count: int) -> int:
        import ray

        directory = Path(os.environ["TOY_DIR"])
        with (directory / "actors").open("a") as stream:
            stream.write(f"{node} {step} {ray.util.get_node_ip_address()}\n")
        while step == toy.TURN and (directory / f"gate-{node}").exists():
            (directory / f"reached-{node}").touch()
            time.sleep(0.05)
        return count + 1


def run(context: StageContext, inputs: Mapping[str, ArtifactRef], config: StageConfig) -> StageResult:
    """tests.flows.toy's stage; every addition is made by the actor."""
    connect(context.execution)
    environment = {"TOY_DIR": os.environ["TOY_DIR"]}
    group = WorkerGroup("tests.faults.team_stages:Counter", 1, [()], cpus=1, env=environment, threads=0, deadline_s=120)
    try:
        return toy.run(
            context, inputs, config, lambda step, n: group.call("count", context.node, step, n, deadline_s=120)[0]
        )
    finally:
        group.close()


def install() -> None:
    for stage in STAGES.values():
        module = types.ModuleType(f"tasks.stages.{stage.type.replace('-', '_')}")
        module.run = run
        sys.modules[module.__name__] = module


if __name__ != "tests.faults.team_stages":  # Prefect loads an entrypoint by another name than the actors
    install()

__all__ = ["mini"]
