# ruff: noqa: E501
"""The real sandbox: verdicts, languages, threads, failures of the machine."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from components.failures import BadInput, InfrastructureError
from components.sandbox import Limits, Program, Sandbox, Test, run_file
from components.sandbox import isolation as isolation_module
from components.sandbox.cgroup import ControlGroup
from components.sandbox.isolation import tier_in_force

FAST = Limits(cpu_s=1, wall_s=2, memory_bytes=128 << 20)


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(workers=2) as pool:
        yield pool


@pytest.mark.parametrize(
    ("source", "test", "verdict"),
    [
        ("print(1)", Test(stdin="", expected="1"), "accepted"),
        ("print(1)", Test(stdin="", expected="2"), "wrong-answer"),
        ("print(0.1+0.2)", Test(stdin="", expected="0.3", tolerance=1e-9), "accepted"),
        ("import sys\nprint(sum(map(int,sys.stdin)))", Test(stdin="1\n2\n", expected="3"), "accepted"),
        ("print(open('/dev/stdin').read())", Test(stdin="hé", expected="hé"), "accepted"),
        ("if __name__ == '__main__':\n print(1)", Test(stdin="", expected="1"), "accepted"),
        ("raise SystemExit", Test(stdin=""), "accepted"),
        ("raise SystemExit(3)", Test(stdin=""), "runtime-error"),
        ("1/0", Test(stdin=""), "runtime-error"),
        ("def f(:", Test(stdin=""), "compile-error"),
        ("def f(:", Test(call="f()", expected="1"), "compile-error"),
        ("while True: pass", Test(stdin=""), "time-limit"),
        ("import time; time.sleep(9)", Test(stdin=""), "time-limit"),
        ("x = bytearray(1 << 30)", Test(stdin=""), "memory-limit"),
        ("print('x' * (2 << 20))", Test(stdin=""), "output-limit"),
        ("def f(x): return [x]", Test(call="f(1)", expected="[1]"), "accepted"),
        ("def f(x): return 1/0", Test(call="f(1)", expected="[1]"), "runtime-error"),
        ("x = 1", Test(call="f(1)", expected="1"), "runtime-error"),
        ("def f(x):\n while True: pass", Test(call="f(1)", expected="1"), "time-limit"),
        ("from dataclasses import dataclass\n@dataclass\nclass P:\n x: int\ndef f(x): return P(x).x",
         Test(call="f(1)", expected="1"), "accepted"),
        ("import threading\ndef g(): print(1)\nthreading.Thread(target=g).start()", Test(stdin="", expected="1"), "accepted"),
        ("import multiprocessing as m\nif __name__=='__main__':\n c=m.get_context('fork')\n p=c.Process(target=print,args=(1,))\n p.start(); p.join()",
         Test(stdin="", expected="1"), "accepted"),
    ],
)  # fmt: skip
def test_python_verdicts(sandbox, source, test, verdict):
    result = sandbox.run(Program("python", source), [test], FAST)
    assert result.verdict == verdict, result
    assert result.tier == "strict"


def test_calls_after_one_that_ends_the_process_still_run(sandbox):
    source = "import os, time\ndef f(x):\n if x == 2: os._exit(0)\n if x == 4: time.sleep(9)\n return x\n"
    tests = [Test(call=f"f({x})", expected=str(x)) for x in (1, 2, 3, 4, 5)]
    result = sandbox.run(Program("python", source), tests, FAST)
    verdicts = [test.verdict for test in result.tests]
    assert verdicts == ["accepted", "runtime-error", "accepted", "time-limit", "accepted"]
    stopped = sandbox.run(Program("python", source), tests, FAST, stop_at_first_failure=True)
    assert [test.verdict for test in stopped.tests] == ["accepted", "runtime-error"]


def test_files_are_in_the_working_directory(sandbox):
    program = Program("python", "print(open('a/b.txt').read())", {"a/b.txt": "here"})
    assert sandbox.run(program, [Test(stdin="", expected="here")]).accepted
    with pytest.raises(BadInput):
        sandbox.run(Program("python", "", {"../x": ""}), [Test(stdin="")])


def test_an_unknown_language_is_bad_input(sandbox):
    with pytest.raises(BadInput, match="brainfuck"):
        sandbox.run(Program("brainfuck", "+"), [Test(stdin="")])


def test_many_threads_and_short_lived_threads(sandbox):
    wrong = []

    def work(number: int) -> None:
        result = sandbox.run(Program("python", f"print({number})"), [Test(stdin="", expected=str(number))])
        if not result.accepted:
            wrong.append(result)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    jobs = [(Program("python", f"print({n})"), [Test(stdin="", expected=str(n % 3))]) for n in range(6)]
    assert [result.accepted for result in sandbox.run_many(jobs)] == [True] * 3 + [False] * 3


@pytest.mark.fault("kill -9 of a reward worker", "while a program runs", "replaced, run again, same verdict")
def test_a_killed_worker_is_replaced_and_the_program_runs_again():
    with Sandbox(workers=1) as pool:
        pool.warm()
        (pid,) = pool.pids()
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)
        result = pool.run(Program("python", "print(1)"), [Test(stdin="", expected="1")])
        assert result.accepted
        assert pool.pids() != [pid]


def test_expected_outputs_never_enter(monkeypatch):
    from components.sandbox.worker import Worker

    sent = []
    tell = Worker.tell
    monkeypatch.setattr(Worker, "tell", lambda self, *frames, **k: sent.append(str(frames)) or tell(self, *frames, **k))
    with Sandbox(workers=1) as pool:
        pool.run(Program("python", "def f(x): return x"), [Test(call="f(1)", expected="'a-secret'")])
        pool.run(Program("python", "print(1)"), [Test(stdin="", expected="a-secret")])
    assert len(sent) == 3  # the settings, and one for each program
    assert not any("a-secret" in message for message in sent)


def test_no_isolation_is_an_infrastructure_error_with_the_remedy(monkeypatch, tmp_path):
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'No permissions to create new namespace' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(isolation_module, "find_bubblewrap", lambda: str(broken))
    with Sandbox(workers=1) as pool:
        with pytest.raises(InfrastructureError, match="rlimits") as caught:
            pool.warm()
        assert "No permissions to create new namespace" in str(caught.value)
        assert pool.run(Program("python", "print(1)"), [Test(stdin="")]).verdict == "infrastructure-error"


def test_the_weakest_tier_runs_only_when_named_and_says_so():
    with Sandbox(workers=1, tier="rlimits") as pool:
        result = pool.run(Program("python", "print(1)"), [Test(stdin="", expected="1")] * 2)
        assert result.accepted
        assert result.tier == "rlimits"
        endless = "import os, time\nif os.fork():\n while True: pass\nos.setsid()\ntime.sleep(60)"
        assert pool.run(Program("python", endless), [Test(stdin="")], FAST).verdict == "time-limit"
        assert pool.run(Program("python", "print(1)"), [Test(stdin="", expected="1")]).accepted


def test_the_tier_is_what_the_facts_prove():
    names = ("user", "pid", "net", "ipc", "uts", "mnt", "cgroup")
    own = {name: f"{name}:[1]" for name in names}
    facts = {"namespaces": own, "seccomp": True, "user_dropped": True}
    bounded = ControlGroup(processes=True)
    assert tier_in_force(facts, bounded) == ("strict", [])
    assert tier_in_force(facts | {"seccomp": False}, bounded)[0] == "namespaces"
    for name, tier in (("net", "rlimits"), ("cgroup", "namespaces")):
        shared = {**own, name: os.readlink(f"/proc/self/ns/{name}")}
        assert tier_in_force(facts | {"namespaces": shared}, bounded)[0] == tier
    if os.getuid() == 0:
        tier, missing = tier_in_force(facts | {"user_dropped": False}, ControlGroup())
        assert tier == "namespaces"
        assert len(missing) == 2


def test_run_file(tmp_path):
    path = tmp_path / "program.py"
    path.write_text("print(input()[::-1])")
    result = run_file("python", path, "abc")
    assert result.verdict == "accepted"
    assert result.tests[0].stdout == "cba\n"
    with pytest.raises(BadInput, match=r"missing\.py"):
        run_file("python", tmp_path / "missing.py")
