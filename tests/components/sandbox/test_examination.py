# ruff: noqa: E501
"""Unit tests and boolean checks in an examiner, checkers, limits of one test, deadlines, fetched files, libraries."""

from __future__ import annotations

import threading

import pytest

from components.failures import BadInput
from components.sandbox import Limits, Program, Sandbox, Saturated, Test

FAST = Limits(cpu_s=1, wall_s=4, memory_bytes=256 << 20)


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(workers=1, libraries=("sortedcontainers",)) as pool:
        yield pool


COUNTER = "class Wrong(ValueError): pass\nclass Counter:\n def __init__(self, n=0): self.n = n\n def add(self, k=1):\n  if k < 0: raise Wrong('k')\n  self.n += k\n  return self\n def __len__(self): return self.n\n def __iter__(self): return iter(range(self.n))\n def __add__(self, o): return Counter(self.n + o.n)\n def __eq__(self, o): return self.n == o.n\n"


@pytest.mark.parametrize(
    ("source", "unit", "value"),
    [
        ("def f(x): return [x, {'a': (1, 2.5)}]", "assert f(1) == [1, {'a': (1, 2.5)}]", "1/1"),
        ("def f(x): return x", "from solution import f\nassert f(1) == 2", "0/1"),
        ("def sort(a): a.sort(); return None", "a = [3, 1]\nsort(a)\nassert a == [1, 3]", "1/1"),
        ("def f(k): return sorted([3, 1, 2], key=k)", "assert f(lambda x: -x) == [3, 2, 1]", "1/1"),
        ("def f():\n yield 1\n yield 2", "assert list(f()) == [1, 2]", "1/1"),
        ("from collections import Counter\ndef f(s): return Counter(s)", "assert f('aab') == {'a': 2, 'b': 1}", "1/1"),
        (COUNTER, "c = Counter(2)\nassert c.add().n == 3 and len(c) == 3 and list(c) == [0, 1, 2]\nassert Counter(1) + Counter(2) == c\nassert isinstance(c, Counter)", "1/1"),
        (COUNTER, "import unittest\nimport solution\nclass T(unittest.TestCase):\n def test_a(self):\n  with self.assertRaises(solution.Wrong): solution.Counter().add(-1)\n def test_b(self): self.assertEqual(len(solution.Counter(2)), 2)\n def test_c(self): self.assertEqual(1, 2)", "2/3"),
        ("def f(x): return x * 2", "def test_one():\n assert f(2) == 4\ndef test_two():\n assert f('a') == 'aa'\ndef test_bad():\n assert f(2) == 5", "2/3"),
        ("def sum(a, b): return a - b", "assert sum(5, 2) == 3", "1/1"),
        ("def abs(x): return 0\ndef f(x): return 99", "assert abs(f(1) - 2) < 1e-6", "0/1"),
        ("def f(x): raise KeyError('no')", "try:\n f(1)\n assert False\nexcept KeyError as error:\n assert error.args == ('no',)", "1/1"),
        ("import math\ndef f(x): return math.nan", "assert math.isnan(f(1)) and f(1) != f(1)", "1/1"),
        ("if __name__ == '__main__': print(input())\ndef f(): return 10 ** 40", "assert f() == 10 ** 40", "1/1"),
        ("class Node:\n def __init__(self, v): self.v = v\ndef f(n): n.v += 1; return n", "class Mine: pass\nm = Mine(); m.v = 1\nassert f(m) is m and m.v == 2", "1/1"),
    ],
)  # fmt: skip
def test_unit_tests(sandbox, source, unit, value):
    result = sandbox.run(Program("python", source), [Test(unit=unit)], FAST)
    assert result.tests[0].value == value, result
    passed, total = value.split("/")
    assert result.verdict == ("accepted" if passed == total else "wrong-answer")


@pytest.mark.parametrize(
    ("source", "verdict"),
    [
        ("def f(x):\n while True: pass", "time-limit"), ("import os\ndef f(x): os._exit(0)", "runtime-error"),
        ("import os\nos._exit(0)", "runtime-error"), ("1/0", "runtime-error"), ("def f(:", "compile-error"),
        ("def f(x): return bytearray(1 << 30)", "wrong-answer"), ("import ctypes\ndef f(x): ctypes.CDLL(None).ptrace(0,0,0,0)", "security-violation"),
        ("import sys\ndef f(x): sys.exit(0)", "wrong-answer"), ("def f(x):\n while True: print('x'*9999)", "output-limit"),
        ("import os\ndef f(x): os.write(5, b'\\0\\0\\0\\x02{}' * 99); return 1", "wrong-answer"),
        ("import os\ndef f(x): os.write(5, b'\\x7f' * 99); return 1", "runtime-error"),
        ("def f(x):\n a = []\n a.append(a)\n return a", "wrong-answer"),
        # asks the examiner for its own objects, code and modules
        ("import os,json,struct\ndef f(x):\n for ask in ({'ask':'get','values':[{'module':'gc'},'get_objects']},{'ask':'get','values':[{'own':0},'__globals__']},{'ask':'call','values':[{'type':'list'},{'tuple':[]},{'dict':[]}]}):\n  b=json.dumps(ask).encode(); os.write(5,struct.pack('>I',len(b))+b)\n  n,=struct.unpack('>I',os.read(5,4)); answer=json.loads(os.read(5,n))\n  if 'value' in answer: print('LEAK',answer)\n return 1", "accepted"),
    ],
)  # fmt: skip
def test_programs_that_break_their_examination(sandbox, source, verdict):
    result = sandbox.run(Program("python", source), [Test(unit="assert f(1) == 1")], FAST)
    assert result.verdict == verdict, result
    assert "LEAK" not in "".join(test.stdout for test in result.tests)


def test_tests_that_do_not_parse_are_bad_input(sandbox):
    with pytest.raises(BadInput, match="unit tests do not parse"):
        sandbox.run(Program("python", ""), [Test(unit="assert (")])
    with pytest.raises(BadInput, match="for Python"):
        sandbox.run(Program("bash", ""), [Test(unit="assert True")])


CHECKER = Program(
    "python",
    "import sys\nn = int(open(sys.argv[1]).read())\na, b = map(int, open(sys.argv[2]).read().split())\nassert open(sys.argv[3]).read() == 'key'\nprint('sum is', a + b)\nsys.exit(0 if a + b == n else 1 if a + b < n else 3)",
)


def test_checkers_judge_what_has_several_right_answers(sandbox):
    tests = [Test(stdin=str(n), expected="key", checker=CHECKER) for n in (5, 7)]
    result = sandbox.run(Program("python", "n = int(input())\nprint(2, n - 2 if n == 5 else 1)"), tests, FAST)
    assert [(test.verdict, test.detail) for test in result.tests] == [
        ("accepted", "sum is 5"),
        ("wrong-answer", "sum is 3"),
    ]
    assert sandbox.run(Program("python", "1/0"), tests[:1], FAST).verdict == "runtime-error"
    bad = sandbox.run(Program("python", "print(9, 9)"), tests[:1], FAST)
    assert bad.verdict == "infrastructure-error"
    assert "the checker failed" in bad.detail
    crash = sandbox.run(Program("python", "print('x')"), tests[:1], FAST)  # the checker raises: exit code 1, no verdict
    assert crash.verdict == "infrastructure-error"


def test_a_checker_in_another_language(sandbox):
    checker = Program("bash", '[ "$(sort "$2")" = "$(sort "$3")" ]')
    test = Test(stdin="", expected="a\nb\n", checker=checker)
    assert sandbox.run(Program("python", "print('b')\nprint('a')"), [test], FAST).accepted
    assert sandbox.run(Program("python", "print('b')"), [test], FAST).verdict == "wrong-answer"


def test_each_test_may_have_its_own_limits_and_each_call_has_the_whole_time(sandbox):
    short = Limits(cpu_s=0.2, wall_s=1, memory_bytes=64 << 20)
    spin = "import time\ndef f(s):\n while time.process_time() < s: pass\n return bytearray(100 << 20)[0]"
    tests = [
        Test(call="f(0)", expected="0", limits=short),
        Test(call="f(0)", expected="0"),
        Test(call="f(3)", expected="0", limits=short),
    ]
    result = sandbox.run(Program("python", spin), tests, FAST)
    assert [test.verdict for test in result.tests] == ["memory-limit", "accepted", "time-limit"]
    each = (
        "import time\ndef f(x):\n ends = time.process_time() + 0.3\n while time.process_time() < ends: pass\n return x"
    )
    many = [Test(call=f"f({x})", expected=str(x)) for x in range(4)]
    assert sandbox.run(Program("python", each), many, Limits(cpu_s=0.5, wall_s=5)).accepted


def test_fetched_files_and_libraries(sandbox):
    source = "import os, sortedcontainers\nopen('a.txt','wb').write(bytes(3))\nos.symlink('/etc/hostname','b.txt')\nos.mkfifo('c.txt')\nprint(list(sortedcontainers.SortedList([2, 1])))"
    result = sandbox.run(Program("python", source), [Test(stdin="", expected="[1, 2]")], FAST, fetch=["*.txt"])
    assert result.accepted, result
    assert result.tests[0].files == {"a.txt": bytes(3)}
    with pytest.raises(BadInput, match="no_such_library"), Sandbox(1, libraries=("no_such_library",)) as pool:
        pool.warm()


def test_a_passed_deadline_is_a_failure_of_the_machine_and_a_full_queue_pushes_back():
    with Sandbox(workers=1, max_waiting=1) as pool:
        pool.warm()
        slow = threading.Thread(
            target=pool.run, args=(Program("python", "import time; time.sleep(1)"), [Test(stdin="")])
        )
        slow.start()
        while pool.pids():
            pass
        late = pool.run(Program("python", "print(1)"), [Test(stdin="")], deadline_s=0.05)
        assert late.verdict == "infrastructure-error"
        assert "no sandbox worker" in late.detail
        waits = threading.Thread(target=pool.run, args=(Program("python", "print(1)"), [Test(stdin="")]))
        waits.start()
        while not pool.waiting:
            pass
        with pytest.raises(Saturated):
            pool.run(Program("python", "print(1)"), [Test(stdin="")])
        slow.join()
        waits.join()


def test_results_before_a_failure_of_the_machine_are_kept(monkeypatch):
    from components.failures import InfrastructureError
    from components.sandbox.worker import Worker

    hear, heard = Worker.hear, []

    def failing(self, deadline_s):
        heard.append(1)
        if len(heard) > 2:
            raise InfrastructureError("the disk is gone")
        return hear(self, deadline_s)

    with Sandbox(workers=1) as pool:
        monkeypatch.setattr(Worker, "hear", failing)  # the worker's start and the first test are answered
        result = pool.run(Program("python", "print(1)"), [Test(stdin="", expected="1")] * 3)
        monkeypatch.undo()
    assert result.verdict == "infrastructure-error"
    assert [test.verdict for test in result.tests] == ["accepted"]
