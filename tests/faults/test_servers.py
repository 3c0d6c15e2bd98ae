"""kill -9 of a server in the middle of a stage's work: the run goes on when it is back, or ends with its name."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from infra import stack as embedded
from infra.stack import processes
from infra.stack.home import read_state
from tests.faults.mini import World, wait_for

pytestmark = [pytest.mark.server, pytest.mark.timeout(400)]


def kill(home: Path, service: str) -> None:
    """SIGKILL for the service and all it started."""
    record = read_state(home)["services"][service]
    leader = processes.Identity(record["pid"], record["started"])
    for member in processes.members(processes.mark_of(home, service), leader):
        os.kill(member.pid, signal.SIGKILL)
    wait_for(lambda: not processes.alive(leader), 10, f"the end of {service}")


@pytest.mark.parametrize(
    "service",
    [
        pytest.param(
            name, marks=pytest.mark.fault(f"kill -9 of {shown}", "during work, back soon", "the run completes")
        )
        for name, shown in (("s3", "the S3 server"), ("mlflow", "MLflow"), ("prefect", "Prefect"))
    ],
)
def test_a_server_that_comes_back_costs_nothing(service, stack, world: World) -> None:
    world.overrides += ["execution.retries=8"]
    gate = world.touch("block-decontaminate")
    results: list = []
    thread = threading.Thread(target=lambda: results.append(world.run()))
    thread.start()
    try:
        world.wait_blocked("decontaminate")
        kill(stack.home, service)
        gate.unlink()
        time.sleep(1)
    finally:
        gate.unlink(missing_ok=True)
        embedded.up(stack.home, deadline_s=240)
    thread.join(240)
    world.assert_whole(results[0])
    assert max(world.calls().values()) <= 2, "no more than the step that was cut off is done again"
