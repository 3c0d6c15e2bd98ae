"""Sandboxes as Ray actors, one pool for each node, on a real local Ray."""

from __future__ import annotations

import psutil
import pytest
import ray

from components.cluster.connect import connect
from components.failures import BadInput, InfrastructureError
from components.recipe.execution import ExecutionConfig
from components.sandbox import Program, Test
from components.sandbox.ray_pool import SandboxCluster


@pytest.fixture(scope="module", autouse=True)
def local_ray():
    connect(ExecutionConfig())


def jobs(count: int):
    return [(Program("python", f"print({n})"), [Test(stdin="", expected=str(n % 3))]) for n in range(count)]


def workers_of_actors() -> list[psutil.Process]:
    """Sandbox workers below the actors of this test's Ray."""
    own = psutil.Process().children(recursive=True)
    actors = [process for process in own if "SandboxActor" in " ".join(process.cmdline())]
    return [below for actor in actors for below in actor.children(recursive=True)]


def test_one_pool_for_each_node_and_nothing_is_left():
    with SandboxCluster(workers_per_core=0.5, start_s=60) as cluster:
        assert cluster.tier == "strict"
        assert len(cluster.nodes()) == sum(node["Alive"] for node in ray.nodes())
        results = cluster.run_many(jobs(6))
        assert [result.accepted for result in results] == [True] * 3 + [False] * 3
        assert {result.verdict for result in results} == {"accepted", "wrong-answer"}
        with pytest.raises(BadInput, match="brainfuck"):
            cluster.run(Program("brainfuck", "+"), [Test(stdin="")])
        started = workers_of_actors()
        assert started
        ray.kill(cluster._nodes[0].actor)
        if len(cluster.nodes()) == 1:  # its programs have nowhere to go: an error, never a verdict
            with pytest.raises(InfrastructureError, match="no node"):
                cluster.run_many(jobs(2))
    _, alive = psutil.wait_procs(started, timeout=10)
    assert not alive
