"""None escapes, disturbs another program, or survives. Real sandbox, real programs; `python -m tests.faults.hostile`
prints what became of each."""

from __future__ import annotations

import platform
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from components.sandbox import Limits, Program, Sandbox, Test
from components.sandbox.languages import available_languages
from tests.faults.hostile.others import CALLER, KERNEL_SURFACE, OTHERS
from tests.faults.hostile.programs import FORGERIES, PYTHON, SECRET

LIMITS = Limits(cpu_s=0.6, wall_s=1.5, memory_bytes=256 << 20, output_bytes=1 << 16, tmp_bytes=16 << 20)
COMPILING = Limits(cpu_s=10, wall_s=30, memory_bytes=1 << 30, tmp_bytes=256 << 20, processes=128)
# Their runtimes take a good part of a second to start on a busy machine.
SLOW_STARTERS = {language: replace(LIMITS, cpu_s=4, wall_s=12) for language in ("java", "csharp", "r", "javascript")}
HONEST = (Program("python", "def f(x):\n    return x + 1\n"), [Test(call="f(1)", expected="2")])


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(workers=1, worker_memory_bytes=1 << 30) as pool:
        assert pool.warm() == "strict"
        yield pool


@pytest.fixture(scope="module")
def secret(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("host") / "secret.txt"
    path.write_text(SECRET)
    return path


def _assert_clean(sandbox: Sandbox) -> None:
    """Only the worker's own processes are left, it is the same worker, and it judges the next program rightly."""
    (pid,) = sandbox.pids()
    ends = time.monotonic() + 5
    while True:
        below = psutil.Process(pid).children(recursive=True)
        if len(below) <= 5:  # bwrap's own, zygote, supervisor, process 1 and the process that waits for its program
            break
        assert time.monotonic() < ends, f"left behind: {below}"
        time.sleep(0.01)
    assert sandbox.run(*HONEST).verdict == "accepted"


@pytest.mark.parametrize("name", PYTHON)
def test_python_program_is_contained(sandbox, secret, name):
    source, allowed = PYTHON[name]
    (pid,) = sandbox.pids()
    result = sandbox.run(Program("python", source.replace("{secret!r}", repr(str(secret)))), [Test(stdin="")], LIMITS)
    shown = [(test.verdict, test.exit_code, test.signal, test.stderr[-400:]) for test in result.tests]
    assert result.verdict in allowed, (result.verdict, result.detail, shown)
    for test in result.tests:
        assert SECRET not in test.stdout + test.stderr
        assert "LEAK" not in test.stdout
        assert test.seconds < 4 * LIMITS.wall_s + 2  # a program that a busy machine starved gets up to four times
    assert sandbox.pids() == [pid], "the worker had to be replaced"
    _assert_clean(sandbox)


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_results_do_not_pass(sandbox, name):
    tests = [Test(call="f(1)", expected="2"), Test(call="f(2)", expected="3")]
    result = sandbox.run(Program("python", FORGERIES[name]), tests, LIMITS)
    assert result.verdict in ("wrong-answer", "runtime-error", "compile-error"), result
    assert all(test.verdict != "accepted" for test in result.tests)
    _assert_clean(sandbox)


@pytest.mark.parametrize("name", FORGERIES)
@pytest.mark.parametrize(
    "test",
    [Test(call="f(1) == 2 and f(2) == 3", expected="True"), Test(call="abs(f(1) - 2) < 1e-6", expected="True"),
     Test(unit="from solution import f\nassert f(1) == 2\nassert f(2) == 3\n")],
    ids=["equation", "distance", "unit tests"],
)  # fmt: skip
def test_forged_checks_do_not_pass(sandbox, name, test):
    result = sandbox.run(Program("python", FORGERIES[name]), [test], LIMITS)
    assert result.verdict in ("wrong-answer", "runtime-error", "compile-error"), result


@pytest.mark.parametrize(
    ("language", "name", "source", "allowed"), OTHERS, ids=[f"{language}: {name}" for language, name, *_ in OTHERS]
)
def test_program_in_another_language_is_contained(sandbox, secret, language, name, source, allowed):
    if language not in available_languages():
        pytest.skip(f"{language} is not installed here (make languages)")
    (pid,) = sandbox.pids()
    result = sandbox.run(
        Program(language, source.replace("@SECRET@", str(secret))),
        [Test(stdin="")],
        SLOW_STARTERS.get(language, LIMITS),
        compile_limits=COMPILING,
    )
    assert result.verdict in allowed, result
    shown = result.detail + "".join(test.stdout + test.stderr for test in result.tests)
    assert SECRET not in shown
    assert "LEAK" not in "".join(test.stdout for test in result.tests)
    assert sandbox.pids() == [pid], "the worker had to be replaced"
    _assert_clean(sandbox)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86-64")
def test_the_kernel_does_nothing_for_them(sandbox):
    if "c" not in available_languages():
        pytest.skip("gcc is not installed")
    result = sandbox.run(Program("c", CALLER), [Test(stdin=str(number)) for number in KERNEL_SURFACE], LIMITS)
    for (number, name), test in zip(KERNEL_SURFACE.items(), result.tests, strict=True):
        refused = test.verdict == "accepted" and test.stdout == "-1\n"
        assert test.verdict == "security-violation" or refused, (number, name, test)
    _assert_clean(sandbox)


# Never puts the two halves of a needle together itself.
SCAN = """
import sys
half = b'needle-in-the-'
def found(name):
    with open('/proc/self/maps') as maps, open('/proc/self/mem', 'rb', 0) as memory:
        for line in maps:
            where, mode = line.split()[:2]
            start, end = (int(x, 16) for x in where.split('-'))
            if mode[0] == 'r' and 'vvar' not in line and 'vsyscall' not in line and 'vdso' not in line:
                try:
                    memory.seek(start)
                    data = memory.read(end - start)
                    at = data.find(half)
                    while at >= 0:
                        if data.startswith(name, at + len(half)): return True
                        at = data.find(half, at + 1)
                except OSError: pass
    return False
"""


@pytest.mark.parametrize("way", ["stdin", "call", "unit"])
def test_a_program_finds_neither_answers_nor_later_tests_in_its_memory(sandbox, way):
    """And it would find them: its own input is found."""
    needles = {name: f"needle-in-the-{name}" for name in ("answer", "later", "input")}
    ask = "{name: found(name) for name in (b'answer', b'later', b'input')}"
    limits = Limits(memory_bytes=1 << 30)
    if way == "stdin":
        source = f"{SCAN}text = sys.stdin.read()\nprint({ask})"
        tests = [Test(stdin=needles["input"], expected=needles["answer"]), Test(stdin=needles["later"], expected="x")]
        said = sandbox.run(Program("python", source), tests, limits).tests[0].stdout
        assert "b'input': True" in said, said
    elif way == "call":
        tests = [Test(call="f(1)", expected=repr(needles["answer"]))]
        said = sandbox.run(Program("python", f"{SCAN}def f(x): return {ask}"), tests, limits).tests[0].value
    else:
        unit = f"from solution import f\nassert f(1) == '{needles['answer']}', f(1)\nlater = '{needles['later']}'"
        said = (
            sandbox.run(Program("python", f"{SCAN}def f(x): return {ask}"), [Test(unit=unit)], limits).tests[0].detail
        )
    assert "b'answer': False" in said, said
    assert "b'later': False" in said, said


def test_a_program_finds_nothing_of_the_one_before_in_its_memory(sandbox):
    first = Program("python", "print('needle-in-the-' + 'first'); x = 'needle-in-the-first'")
    assert sandbox.run(first, [Test(stdin="needle-in-the-first")]).accepted
    source = f"{SCAN}print(found(b'first'))"
    result = sandbox.run(Program("python", source), [Test(stdin="", expected="False")], Limits(memory_bytes=1 << 30))
    assert result.accepted, result


def test_one_compilation_cannot_spoil_another(sandbox):
    """Equal sources with unequal files are two programs, and a file named like the output is overwritten."""
    if "c" not in available_languages():
        pytest.skip("gcc is not installed")
    source = '#include <stdio.h>\n#include "n.h"\nint main(){printf("%d",N);}'
    for number in (1, 2, 1):
        program = Program("c", source, {"n.h": f"#define N {number}\n", "main": "#!/bin/sh\necho evil\n"})
        assert sandbox.run(program, [Test(stdin="", expected=str(number))]).accepted


def test_nothing_of_one_program_is_there_for_the_next(sandbox):
    writer = "open('/tmp/left','w').write('x')\nimport builtins, math\nbuiltins.left = math.pi = 1"
    reader = "import builtins, math, os\nprint(os.path.exists('/tmp/left'), hasattr(builtins, 'left'), math.pi == 1)"
    assert sandbox.run(Program("python", writer), [Test(stdin="")]).accepted
    for program in (Program("python", reader),):
        result = sandbox.run(program, [Test(stdin="", expected="False False False")] * 2)
        assert result.accepted, result
    both = writer + "\n" + reader.replace("print(", "print(len(os.listdir('/tmp')), ")
    assert sandbox.run(Program("python", both), [Test(stdin="", expected="1 True True True")] * 2).accepted


UNTIDY = {
    "leaves a process": "import os, time\nif os.fork() == 0:\n time.sleep(99)",
    "is killed": "import os\nos.kill(os.getpid(), 9)",
    "runs out of time": "while True: pass",
    "prints too much": "while True: print('x' * 9999)",
}  # fmt: skip


FIRST = 2  # the number of the first process after process 1: its namespace is new


def _number(sandbox: Sandbox) -> int:
    """The next program's own process number. It is alone there with process 1."""
    source = "import os\nprint(os.getpid(), sum(name.isdigit() for name in os.listdir('/proc')))"
    number, processes = sandbox.run(Program("python", source), [Test(stdin="")]).tests[0].stdout.split()
    assert processes == "2"
    return int(number)


@pytest.mark.parametrize("name", UNTIDY)
def test_a_namespace_in_which_anything_went_wrong_is_given_up(sandbox, name):
    before = _number(sandbox)
    assert _number(sandbox) > before  # after an orderly end it is kept
    sandbox.run(Program("python", UNTIDY[name]), [Test(stdin="")], LIMITS)
    assert _number(sandbox) == FIRST


def test_programs_draw_different_random_numbers(sandbox):
    program = Program("python", "import random\nprint(random.random())")
    drawn = {test.stdout for test in sandbox.run(program, [Test(stdin="")] * 4).tests}
    assert len(drawn) == 4


ATTACKS_ON_PROCESS_1 = """
import os, resource as r
def tried(function, *arguments):
    try:
        function(*arguments)
        print('LEAK', function.__name__)
    except OSError:
        pass
for kind in range(16):
    tried(r.prlimit, 1, kind, (0, 0))
tried(os.sched_setaffinity, 1, {0})
tried(os.sched_setscheduler, 1, os.SCHED_BATCH, os.sched_param(0))
tried(os.sched_setparam, 1, os.sched_param(0))
tried(os.setpriority, os.PRIO_PROCESS, 1, 19)
tried(os.setpriority, os.PRIO_USER, os.getuid(), 19)
tried(open, '/proc/1/mem', 'r+b')
for number in range(1, 65):
    os.kill(1, number)
os.kill(-1, 15) if os.fork() == 0 else os.wait()
"""


@pytest.mark.parametrize("filtered", [True, False])
def test_process_1_is_safe_where_programs_have_its_user(monkeypatch, filtered):
    """As for a host user who is not root. Without the filter it could be limited: then every program has its own."""
    from components.sandbox import worker

    monkeypatch.setattr(worker, "user_namespace", lambda: None)
    monkeypatch.setattr(worker, "is_host_root", lambda: False)
    if not filtered:
        monkeypatch.setattr(worker, "filter_bytes", lambda: None)
    with Sandbox(workers=1, tier="namespaces", worker_memory_bytes=1 << 30) as pool:
        pool.warm()
        (pid,) = pool.pids()
        attacked = pool.run(Program("python", ATTACKS_ON_PROCESS_1), [Test(stdin="")], LIMITS)
        if filtered:
            assert "LEAK" not in attacked.tests[0].stdout, attacked
            assert _number(pool) < _number(pool)
            assert pool.pids() == [pid]
        else:  # limited so, it may end at any moment: the worker with it, and the program is run again in another
            assert attacked.verdict != "accepted", attacked
            assert [_number(pool), _number(pool)] == [FIRST, FIRST]
            (now,) = pool.pids()
            assert now == pid or not psutil.pid_exists(pid)
            pid = now
        assert pool.run(*HONEST).accepted
        assert pool.pids() == [pid]


def test_closing_the_pool_ends_everything(secret):
    pool = Sandbox(workers=1)
    pool.warm()
    (pid,) = pool.pids()
    family = psutil.Process(pid).children(recursive=True)
    assert family
    pool.close()
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive
    assert not psutil.pid_exists(pid)
