"""None escapes, disturbs another program, or survives. Real sandbox, real programs."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from components.sandbox import Limits, Program, Sandbox, Test
from components.sandbox.languages import available_languages
from tests.faults.hostile.programs import FORGERIES, OTHERS, PYTHON, SECRET

LIMITS = Limits(cpu_s=1, wall_s=2.5, memory_bytes=256 << 20, output_bytes=1 << 16, tmp_bytes=16 << 20)
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
        if len(below) <= 3:  # bwrap's own, the zygote, and the supervisor that waits for the next program
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


@pytest.mark.parametrize(("language", "name", "source", "allowed"), OTHERS)
def test_program_in_another_language_is_contained(sandbox, secret, language, name, source, allowed):
    if language not in available_languages():
        pytest.skip(f"{language} is not installed")
    text = source.replace("{secret}", str(secret)).replace("{{", "{").replace("}}", "}")
    result = sandbox.run(Program(language, text), [Test(stdin="")], LIMITS)
    assert result.verdict in allowed, result
    assert SECRET not in result.detail + "".join(test.stdout + test.stderr for test in result.tests)
    _assert_clean(sandbox)


def test_nothing_of_one_program_is_there_for_the_next(sandbox):
    writer = "open('/tmp/left','w').write('x')\nimport builtins, math\nbuiltins.left = math.pi = 1"
    reader = "import builtins, math, os\nprint(os.path.exists('/tmp/left'), hasattr(builtins, 'left'), math.pi == 1)"
    assert sandbox.run(Program("python", writer), [Test(stdin="")]).accepted
    for program in (Program("python", reader),):
        result = sandbox.run(program, [Test(stdin="", expected="False False False")] * 2)
        assert result.accepted, result
    both = writer + "\n" + reader.replace("print(", "print(len(os.listdir('/tmp')), ")
    assert sandbox.run(Program("python", both), [Test(stdin="", expected="1 True True True")] * 2).accepted


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
