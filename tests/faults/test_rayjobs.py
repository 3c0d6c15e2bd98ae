"""Stages as RayJobs: each on a Ray of its own, which a stand-in for KubeRay starts, ordered by Kubernetes' API."""

from __future__ import annotations

import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.cluster.rayjobs import RAYJOBS
from flows import prefect_api
from tests.components.cluster import kube_world
from tests.components.cluster.kuberay import Operator
from tests.faults.jobs import interpreter
from tests.faults.mini import World, wait_for

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(500)]

ONCE = Counter({f"corpus {step}": 1 for step in range(1, 6)})
PATIENCE_S = 250


@pytest.fixture(scope="module", params=kube_world.BACKENDS)
def kube(request: pytest.FixtureRequest, tmp_path_factory) -> Iterator[kube_world.World]:
    made = kube_world.real if request.param == "real" else kube_world.stand_in
    with made(tmp_path_factory.mktemp("kube")) as world:
        yield world


@pytest.fixture(scope="module")
def operator(stack, kube: kube_world.World) -> Iterator[Operator]:
    with Operator(kube.admin, stack.environment, kube.node() if kube.server is None else "") as made:
        kube.logs = made.log_of
        yield made
    assert not made.errors


class RayJobWorld(World):
    """Its one stage is a RayJob."""

    def __init__(self, directory: Path, kube: kube_world.World) -> None:
        super().__init__(directory)
        self.kube, cluster = kube, "execution.cluster"
        self.overrides += [
            f"{cluster}.stages=rayjob",
            f"{cluster}.rayjob.image=registry.example.org/ringflow-cpu:0.1.0",
        ]
        self.overrides += [f"{cluster}.python={interpreter(directory)}", f"{cluster}.env.TOY_DIR={directory}"]

    def rayjobs(self) -> list[dict]:
        found = self.kube.admin.list(RAYJOBS, {"ringflow-project": self.project})
        return sorted(found, key=lambda item: item["metadata"]["name"])

    def unblock(self) -> None:
        (self.directory / "block-corpus").unlink()

    def wait_said(self, text: str, seconds: float = 150) -> None:
        wait_for(lambda: text in self.log(), seconds, f"'{text}' in the log of the flow")


@pytest.fixture
def world(toys, operator, kube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RayJobWorld]:
    monkeypatch.setenv("TOY_NODES", "corpus")
    monkeypatch.setenv("KUBECONFIG", str(kube.kubeconfig))
    made = RayJobWorld(tmp_path, kube)
    yield made
    for item in made.rayjobs():
        kube.admin.delete(RAYJOBS, item["metadata"]["name"])


@pytest.mark.fault(
    "kill -9 of the flow process", "its stage a RayJob, in mid-step", "the RayJob goes on; the next run attends to it"
)
def test_the_next_run_takes_up_the_rayjob_of_a_killed_flow(world: RayJobWorld, flow, operator: Operator) -> None:
    world.touch("block-corpus")
    first = flow()
    world.wait_blocked("corpus", PATIENCE_S)
    first.kill()
    first.join(10)
    assert first.exitcode == -signal.SIGKILL
    (item,) = world.rayjobs()
    assert item["status"]["jobStatus"] == "RUNNING"

    second = flow()
    world.wait_said("this run attends to it")
    assert [each["metadata"]["uid"] for each in world.rayjobs()] == [item["metadata"]["uid"]]
    world.unblock()
    second.join(PATIENCE_S)
    assert second.exitcode == 0, world.log()
    assert world.calls() == ONCE
    # Its cluster went with it, and what it said on its way was heard.
    wait_for(
        lambda: not world.rayjobs() and item["metadata"]["name"] not in operator.heads, 60, "the end of the cluster"
    )
    assert re.search(r"attends to job .*▶ corpus: running\n", world.log(), re.S)


@pytest.mark.fault("a node with Ray's head dies", "its stage a RayJob, in mid-step", "a second RayJob resumes")
def test_a_lost_head_is_followed_by_a_rayjob_that_resumes(world: RayJobWorld, flow, operator: Operator) -> None:
    world.touch("block-corpus")
    process = flow()
    world.wait_blocked("corpus", PATIENCE_S)
    (name,) = [item["metadata"]["name"] for item in world.rayjobs()]
    operator.heads[name].ray.kill()
    world.unblock()
    process.join(PATIENCE_S)
    assert process.exitcode == 0, world.log()
    assert world.calls() == ONCE + Counter({"corpus 3": 1})
    assert "its head was lost" in world.log()


def test_cancel_deletes_the_rayjob_and_its_stage_ends_in_order(world: RayJobWorld, flow, operator: Operator) -> None:
    world.touch("block-corpus")
    process = flow()
    world.wait_blocked("corpus", PATIENCE_S)
    (run,) = [run for run in prefect_api.recent_runs(50, ("RUNNING",)) if world.project in str(run["parameters"])]
    prefect_api.cancel(run["id"])
    process.join(PATIENCE_S)
    assert prefect_api.get_run(run["id"])["state_type"] == "CANCELLED", world.log()
    wait_for(lambda: not world.rayjobs() and not operator.heads, 60, "the end of the RayJob and its cluster")
    world.unblock()
    assert world.run().succeeded
    assert world.calls() == ONCE + Counter({"corpus 3": 1})
    assert "taken over from" not in world.log()  # the lease was given back


def test_a_failure_in_the_stage_is_one_of_the_flow(world: RayJobWorld) -> None:
    world.touch("fail-corpus", "BadInput")
    (failed,) = world.run().stages
    assert (failed.state, failed.kind, failed.error) == ("failed", "BadInput", "made to fail with BadInput")
    (item,) = world.rayjobs()
    assert (item["status"]["jobDeploymentStatus"], item["status"]["reason"]) == ("Failed", "AppFailed")
