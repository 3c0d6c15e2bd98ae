"""WorkerGroup on a real local Ray: SPMD calls, deadlines, deaths and placement."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from components.cluster.connect import connect
from components.cluster.warm import borrow, prewarm, release_all, warm
from components.cluster.workers import WorkerGroup
from components.failures import DeadlineExceeded, Diverged, InfrastructureError
from components.recipe.execution import ExecutionConfig
from tests.components.cluster.sample_worker import SampleWorker

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module", autouse=True)
def ray_here():
    connect(ExecutionConfig())
    yield
    release_all()


def make(world: int = 2, **options) -> WorkerGroup:
    return WorkerGroup(SampleWorker, world, [(10 * rank,) for rank in range(world)], deadline_s=120, **options)


def test_calls_reach_every_rank_in_order_with_own_core_and_environment():
    group = make(env={"EXTRA": "yes"})
    assert group.call("add", 1, deadline_s=30) == [1, 11]
    assert group.call_each("add", [(1,), (2,)], deadline_s=30) == [1, 12]
    seen = group.call("surroundings", deadline_s=30)
    available = sorted(os.sched_getaffinity(0))
    assert [s["cores"] for s in seen] == [[available[rank % len(available)]] for rank in range(2)]
    assert all(s["threads"] == "1" and s["extra"] == "yes" for s in seen)
    with pytest.raises(Diverged, match="step 3"):
        group.call("diverge", deadline_s=30)
    assert group.alive()
    host, port = group.rendezvous()
    assert host == "127.0.0.1"
    assert port > 0
    group.close()
    group.close()
    with pytest.raises(InfrastructureError, match="closed"):
        group.call("add", 1, deadline_s=30)


def test_what_a_killed_worker_left_is_removed_when_the_next_one_starts():
    group = make(1)
    left = Path(group.call("surroundings", deadline_s=30)[0]["temporary"])
    assert str(group.call("pid", deadline_s=30)[0]) in left.parent.name
    assert left.is_dir()
    group.close()
    ends = time.monotonic() + 20
    while left.exists() and time.monotonic() < ends:
        again = make(1)
        again.call("pid", deadline_s=30)
        again.close()
    assert not left.parent.exists()


@pytest.mark.fault("a worker ends by itself", "while its peers go on", "named with its last words at once")
def test_a_dead_worker_is_named_with_its_last_words_without_waiting_for_the_others():
    group = make()
    started = time.monotonic()
    with pytest.raises(InfrastructureError, match=r"(?s)SampleWorker\[1\] died during die_if.*disk is full"):
        group.call("die_if", 10, deadline_s=50)
    assert time.monotonic() - started < 40
    assert not group.alive()
    group.close()


@pytest.mark.fault("a worker hangs", "for longer than its deadline", "ranks named, group not used again")
def test_a_missed_deadline_names_the_ranks_and_retires_the_group():
    group = make()
    with pytest.raises(DeadlineExceeded, match=r"SampleWorker.sleep did not finish in 0.5 s on ranks \[0, 1\]"):
        group.call("sleep", 30.0, deadline_s=0.5)
    assert not group.alive()
    group.close()


def test_no_room_shows_wanted_and_available_resources():
    group = WorkerGroup(SampleWorker, 1, [(0,)], cpus=1000, deadline_s=2)
    with pytest.raises(DeadlineExceeded, match=r"(?s)wanted.*CPU\s+1000"):
        group.ready()


def test_an_error_of_the_constructor_comes_through():
    group = WorkerGroup("tests.components.cluster.sample_worker:RefusingWorker", 1, [()], deadline_s=120)
    with pytest.raises(Diverged, match="cannot start"):
        group.ready()
    group.close()


def test_warm_groups_are_shared_replaced_when_dead_and_lent_to_one_user():
    prewarm("sample", lambda: make(1)).join(60)
    group = warm("sample", lambda: pytest.fail("built twice"))
    pid = group.call("pid", deadline_s=30)[0]
    with borrow("sample", lambda: pytest.fail("built twice"), 5) as borrowed:
        assert borrowed is group
        with pytest.raises(DeadlineExceeded, match="in use"), borrow("sample", lambda: make(1), 0.1):
            pass
    with pytest.raises(InfrastructureError):
        group.call("die_if", 0, deadline_s=30)
    again = warm("sample", lambda: make(1))
    assert again.call("pid", deadline_s=60)[0] != pid
    release_all()
    assert not again.alive()


def test_an_unreachable_address_is_said_within_seconds():
    program = """
        from components.cluster.connect import connect
        from components.recipe.execution import ExecutionConfig
        connect(ExecutionConfig())
    """
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:9", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    assert "InfrastructureError: Ray at RAY_ADDRESS=127.0.0.1:9 does not answer" in done.stderr


@pytest.mark.fault("kill -9 of the flow process", "with learners and engines at work", "they end with it")
def test_workers_end_when_the_driver_is_killed():
    program = """
        import sys
        from components.cluster.connect import connect
        from components.cluster.workers import WorkerGroup
        from components.recipe.execution import ExecutionConfig
        connect(ExecutionConfig())
        group = WorkerGroup("tests.components.cluster.sample_worker:SampleWorker", 1, [(0,)], deadline_s=100)
        print(group.call("pid", deadline_s=60)[0], flush=True)
        group.call("sleep", 600.0, deadline_s=600)
    """
    driver = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    worker = int(driver.stdout.readline())
    driver.kill()
    driver.wait(10)
    ends = time.monotonic() + 60
    while Path(f"/proc/{worker}").exists() and time.monotonic() < ends:
        time.sleep(0.2)
    assert not Path(f"/proc/{worker}").exists()
