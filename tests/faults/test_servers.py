"""kill -9 of a server in the middle of a stage's work: the run goes on when it is back, or ends with its name."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest

from components.failures import InfrastructureError
from infra import stack as embedded
from infra.stack import processes
from infra.stack.home import read_state
from tests.faults.mini import World, wait_for
from tests.faults.proxy import Proxy, storm

pytestmark = [pytest.mark.server, pytest.mark.timeout(400)]


def kill(home: Path, service: str) -> None:
    """SIGKILL for the service and all it started."""
    record = read_state(home)["services"][service]
    leader = processes.Identity(record["pid"], record["started"])
    for member in processes.members(processes.mark_of(home, service), leader):
        os.kill(member.pid, signal.SIGKILL)
    wait_for(lambda: not processes.alive(leader), 10, f"the end of {service}")


def wait_blocked(world: World, node: str, results: list) -> None:
    blocked = world.directory / f"blocked-{node}"
    wait_for(lambda: results or blocked.exists(), 120, f"{node} at its third step")
    assert not results, f"the run ended before {node}: {results}"


def begin(world: World) -> tuple[threading.Thread, list]:
    """The run in a thread of its own, and the list that gets its result, or what it raised."""
    results: list = []

    def go() -> None:
        try:
            results.append(world.run())
        except BaseException as error:
            results.append(error)
            raise

    thread = threading.Thread(target=go, daemon=True)
    thread.start()
    return thread, results


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
    thread, results = begin(world)
    try:
        wait_blocked(world, "decontaminate", results)
        kill(stack.home, service)
        gate.unlink()
        time.sleep(1)
    finally:
        gate.unlink(missing_ok=True)
        embedded.up(stack.home, deadline_s=240)
    thread.join(240)
    world.assert_whole(results[0])
    assert max(world.calls().values()) <= 2, "no more than the step that was cut off is done again"


@pytest.mark.fault(
    "kill -9 of the S3 server", "during work, stays away", "named failure in bounded time; resumes later"
)
def test_a_store_that_stays_away_ends_the_run_with_its_name(stack, world: World) -> None:
    world.overrides += ["execution.lease_ttl_s=10"]
    gate = world.touch("block-corpus")
    thread, results = begin(world)
    try:
        wait_blocked(world, "corpus", results)
        kill(stack.home, "s3")
        gate.unlink()
        thread.join(200)
        assert not thread.is_alive(), "the run hangs"
    finally:
        gate.unlink(missing_ok=True)
        embedded.up(stack.home, deadline_s=240)
    assert results[0].stages[0].state == "failed"
    assert re.search(re.escape(os.environ["AWS_ENDPOINT_URL"]), results[0].stages[0].error), results[0].message()
    world.assert_whole(world.run())
    assert world.calls()["corpus 1"] == world.calls()["corpus 2"] == 1


@pytest.mark.fault("S3 behind a bad network", "one request in ten spoiled, a whole run", "complete, nothing doubled")
def test_a_run_through_a_storm(stack, world: World, monkeypatch) -> None:
    world.overrides += ["execution.retries=10", "execution.retry_delay_s=0.1"]
    result = None
    with monkeypatch.context() as patched, Proxy(os.environ["AWS_ENDPOINT_URL"], storm(seed=7, share=0.1)) as proxy:
        patched.setenv("AWS_ENDPOINT_URL", proxy.url)
        for _ in range(4):  # whether the store is there is asked once, at a run's start
            with contextlib.suppress(InfrastructureError):
                result = world.run()
                if result.succeeded:
                    break
        assert len(proxy.spoiled) > 5
    world.assert_whole(result)
