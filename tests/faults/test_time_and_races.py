"""A lease lost during work, a clock that jumps, a full disk: one commit, the right one, and a named cause."""

from __future__ import annotations

import os
import signal

import pytest

from tests.faults.mini import NO_MOUNT, World

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]


@pytest.mark.fault(
    "lease lost during work", "process stopped for longer than the lease", "the other run commits; LeaseLost"
)
def test_who_lost_the_lease_stops_and_commits_nothing(world: World) -> None:
    world.overrides += ["execution.lease_ttl_s=6"]
    gate = world.touch("block-decontaminate")
    first = world.start()
    try:
        world.wait_blocked("decontaminate")
        os.kill(first.pid, signal.SIGSTOP)
        gate.unlink()
        result = world.run()
        world.assert_whole(result)
        os.kill(first.pid, signal.SIGCONT)
        first.join(120)
    finally:
        first.kill()
        first.join(10)
    assert first.exitcode == 1, world.log()
    assert "was taken by" in world.message()
    assert "decontaminate" in world.message()
    world.assert_whole(result)
    assert world.calls()["decontaminate 2"] == 1
    assert world.calls()["decontaminate 4"] == 1


@pytest.mark.parametrize(
    "jump",
    [
        pytest.param(
            86400.0, marks=pytest.mark.fault("the clock jumps", "a day forward during work", "nothing happens")
        ),
        pytest.param(-86400.0, marks=pytest.mark.fault("the clock jumps", "a day back during work", "nothing happens")),
    ],
)
def test_a_jump_of_the_clock_loses_no_lease_and_no_work(jump, world: World) -> None:
    gate = world.touch("block-decontaminate")
    process = world.start("clock", str(jump))
    try:
        world.wait_blocked("decontaminate")
        gate.unlink()
        process.join(120)
    finally:
        process.kill()
        process.join(10)
    assert process.exitcode == 0, world.log()
    assert set(world.calls().values()) == {1}
    world.assert_whole(world.run())
    assert set(world.calls().values()) == {1}


@pytest.mark.fault(
    "full disk", "a stage writes more than there is room for (ENOSPC)", "named, retried, resumes with room"
)
def test_a_full_disk_is_named_and_the_stage_resumes_when_there_is_room(world: World) -> None:
    world.touch("fill-corpus", str(4 << 20))
    process = world.start("disk", "1m")
    process.join(180)
    if process.exitcode == NO_MOUNT:
        pytest.skip("this user may not mount a file system of its own")
    assert process.exitcode == 1, world.log()
    assert "the disk is full at" in world.message()
    assert "free some space" in world.message()
    calls = world.calls()
    assert calls == {"corpus 1": 1, "corpus 2": 1, "corpus 3": 3}, "two retries, each from the resume point"
    world.assert_whole(world.run())
    assert world.calls()["corpus 2"] == 1
