"""Control groups: version 1 or 2 as this machine has it, version 2 on a directory that looks like one, leftovers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from components.sandbox import Limits, Program, Sandbox, Test
from components.sandbox.cgroup import ROOT, ControlGroup, leftover_groups, sweep


def _unified(root: Path) -> Path:
    (root / "cgroup.controllers").write_text("cpu memory pids")
    (root / "cgroup.subtree_control").write_text("cpu memory pids")
    return root


def test_version_2_is_bounded_where_controllers_are_delegated(tmp_path, monkeypatch):
    root = _unified(tmp_path)
    made = Path.mkdir

    def mkdir(self, *args, **kwargs):  # the kernel fills a new group with its files
        made(self, *args, **kwargs)
        for name in ("pids.max", "memory.max", "memory.swap.max", "cpu.max", "cgroup.procs"):
            (self / name).write_text("")

    monkeypatch.setattr(Path, "mkdir", mkdir)
    group = ControlGroup.create(40, 1 << 20, 1.5, root)
    (path,) = group.paths
    assert (group.processes, group.memory, group.cpu) == (True, True, True)
    values = {name: (path / name).read_text() for name in ("pids.max", "memory.max", "memory.swap.max", "cpu.max")}
    assert values == {"pids.max": "40", "memory.max": str(1 << 20), "memory.swap.max": "0", "cpu.max": "75000 50000"}
    group.bound(50, 1 << 21)
    assert (path / "memory.max").read_text() == str(1 << 21)
    assert group.memory_kills() == 0
    (path / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    assert group.memory_kills() == 2
    assert f"echo $$ > '{path / 'cgroup.procs'}'" in group.joined(["true"])[2]


def test_without_a_writable_group_nothing_is_in_force(tmp_path):
    for root in (tmp_path, _unified(tmp_path)):
        (root / "cgroup.subtree_control").unlink(missing_ok=True)
        group = ControlGroup.create(40, 1 << 20, 1.0, root)
        assert (group.processes, group.memory, group.cpu, group.paths) == (False, False, False, [])
        assert group.joined(["true"]) == ["true"]
        assert group.remove()


def test_groups_of_killed_processes_are_swept_and_those_of_living_ones_are_not(tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    for owner in (gone.pid, os.getpid()):
        (tmp_path / "pids" / f"ringflow-sandbox-{owner}-x").mkdir(parents=True)
    assert [path.name for path in leftover_groups(tmp_path)] == [f"ringflow-sandbox-{gone.pid}-x"]
    sweep(tmp_path)
    assert [path.name for path in (tmp_path / "pids").iterdir()] == [f"ringflow-sandbox-{os.getpid()}-x"]


def test_memory_of_all_processes_together_is_bounded_and_no_group_is_left():
    with Sandbox(workers=1) as pool:
        pool.warm()
        (worker,) = pool._slots.free()
        assert worker is not None
        if not worker.group.memory:
            pytest.skip("no memory control group is writable here")
        paths = list(worker.group.paths)
        assert all(path.is_relative_to(ROOT) for path in paths)
        source = (
            "import os,time\nfor _ in range(8):\n if os.fork()==0:\n  x=bytearray(60<<20)\n"
            "  for i in range(0,len(x),4096): x[i]=1\n  time.sleep(1)\n  os._exit(0)\n"
            "print(sum(os.waitstatus_to_exitcode(os.wait()[1])==0 for _ in range(8)))"
        )
        alone = pool.run(Program("python", source), [Test(stdin="")], Limits(memory_bytes=1 << 30, wall_s=20))
        assert alone.tests[0].stdout == "8\n"
        together = pool.run(Program("python", source), [Test(stdin="")], Limits(memory_bytes=128 << 20, wall_s=20))
        assert together.verdict == "memory-limit" or int(together.tests[0].stdout) < 8
    assert not any(path.exists() for path in paths)
