"""Programs: HumanEval and MBPP by their unit tests, LiveCodeBench and CodeForces by hidden input and output.

A unit test runs as one call inside the sandbox, with the tests' own code placed before the program, so what the authors
wrote decides. LiveCodeBench is scored inside a window of contest dates, because older problems may be known to a model:
the report's is August 2024 to May 2025 (v6, 2408-2505); another is `livecodebench:YYMM-YYMM`.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import re
import zlib
from dataclasses import replace
from functools import partial
from typing import Any

from components.data.schema import Verifier
from components.evaluation.benchmark import Benchmark, Hub, Question, RecordProblem, Row, text
from components.evaluation.contests import rating_metrics, scoreboard

PYTHON = "Write the whole solution in Python, with its imports, in one code block at the end of your answer."
CPP = (
    "Write the whole program in C++17 in one code block at the end of your answer. It reads standard input and writes \
standard output."
)
_LIMIT = re.compile(r"(Time|Memory) Limit:\s*([\d.]+)\s*(ms|s|MB)", re.IGNORECASE)


def _unit(prelude: str, calls: list[str]) -> Verifier:
    tests = [{"call": call, "result": "None"} for call in calls]
    return Verifier(kind="code", reference={"language": "python", "prelude": prelude, "tests": tests})


def humaneval(row: Row) -> Question:
    """The prompt stands before the program too: some tests call a helper that it defines."""
    stub, tests, name = text(row, "prompt"), text(row, "test"), text(row, "entry_point")
    if "def check(" not in tests:
        raise RecordProblem("test", "no function check(candidate)")
    prompt = f"Complete this function.\n\n```python\n{stub.rstrip()}\n```\n\n{PYTHON}"
    return Question(text(row, "task_id"), prompt, _unit(f"{stub}\n\n{tests}\n\n", [f"check({name})"]))


def mbpp(row: Row) -> Question:
    """Every assertion is a test of its own; the first one is shown, as it names the function."""
    tests = row["test_list"]
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
        raise RecordProblem("test_list", "a list of assertions is expected")
    imports = "\n".join(row.get("test_imports") or ())
    body = "\n".join(
        f"def ringflow_test_{number}():\n    " + test.replace("\n", "\n    ") for number, test in enumerate(tests)
    )
    shown = "\n".join(tests)
    prompt = f"{text(row, 'prompt', 'text').strip()}\nIt must pass these tests:\n```python\n{shown}\n```\n\n{PYTHON}"
    calls = [f"ringflow_test_{number}()" for number in range(len(tests))]
    return Question(text(row, "task_id"), prompt, _unit(f"{imports}\n{body}\n\n", calls))


# What LiveCodeBench's runner puts before every program: answers lean on it (List, math, heapq without an import).
_STARRED = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics"),
    *("itertools", "functools", "operator", "io", "sys", "json", "builtins", "typing"),
)
LCB_PRELUDE = (
    "".join(f"from {name} import *\n" for name in _STARRED)
    + "".join(f"import {name}\n" for name in _STARRED)
    + "sys.setrecursionlimit(50000)\n"
    # Its runner takes a tuple for the list that the tests have.
    + "def ringflow_plain(value):\n    return list(value) if isinstance(value, tuple) else value\n\n"
)


def livecodebench(row: Row) -> Question:
    """Public and private tests; functional ones (LeetCode) call a method of the starter code's class.

    Printed numbers are compared as decimals, line by line, as the benchmark's testing_util.py does.
    """
    given = [*_tests(row, "public_test_cases"), *_tests(row, "private_test_cases")]
    starter, metadata = str(row.get("starter_code") or ""), row.get("metadata") or {}
    metadata = json.loads(metadata) if isinstance(metadata, str) else metadata
    functional = metadata.get("func_name")
    tests = [_functional(functional, test, at) if functional else _stdin(test, at) for at, test in enumerate(given)]
    if not tests:
        raise RecordProblem("public_test_cases", "there is no test")
    ask = (
        f"Start from this code:\n```python\n{starter.rstrip()}\n```\n\n{PYTHON}"
        if starter.strip()
        else (f"The program reads standard input and writes standard output. {PYTHON}")
    )
    reference = {"language": "python", "prelude": LCB_PRELUDE, "tests": tests, "time_limit_s": 6.0, "tolerance": 0.0}
    verifier = Verifier(kind="code", reference=reference)
    prompt = f"{text(row, 'question_content').strip()}\n\n{ask}"
    level = {"easy": 1, "medium": 2, "hard": 3}.get(str(row.get("difficulty")), 0)
    return Question(text(row, "question_id", "question_title"), prompt, verifier, str(row.get("platform") or ""), level)


def in_window(row: Row, first: str, last: str) -> bool:
    """Whether contest_date (ISO) lies in [first, last], months as YYMM."""
    date = text(row, "contest_date")
    return first <= date[2:4] + date[5:7] <= last


def window(benchmark: Benchmark, months: str) -> Benchmark:
    """livecodebench:2410-2504. Raises RecordProblem for another form."""
    if not re.fullmatch(r"\d{4}-\d{4}", months):
        raise RecordProblem("window", f"{months!r} is not YYMM-YYMM")
    first, last = months.split("-")
    return replace(
        benchmark,
        name=f"livecodebench:{months}",
        title=f"LiveCodeBench {months}",
        keep=partial(in_window, first=first, last=last),
    )


def codeforces(row: Row) -> Question:
    """problem_id such as 1971A; limits stand in the statement."""
    problem = text(row, "problem_id", "id")
    found = re.fullmatch(r"(\d+)([A-Z]\d?)", problem)
    if not found:
        raise RecordProblem("problem_id", f"{problem!r} is no contest number with a letter")
    statement = text(row, "problem", "description")
    tests = [_stdin(test, at) for at, test in enumerate(row["tests"])]
    reference: dict[str, Any] = {"language": "cpp", "tests": tests}
    for what, amount, unit in _LIMIT.findall(statement):
        if what.lower() == "time":
            reference["time_limit_s"] = float(amount) / (1000 if unit.lower() == "ms" else 1)
        else:
            reference["memory_limit_bytes"] = int(float(amount) * 1024 * 1024)
    prompt = f"{statement.split('Tags:')[0].strip()}\n\n{CPP}"
    return Question(problem, prompt, Verifier(kind="code", reference=reference), problem)


def _tests(row: Row, field: str) -> list[dict[str, Any]]:
    value = row.get(field) or []
    if not isinstance(value, str):
        return list(value)
    try:
        return json.loads(value)
    except ValueError:
        pass
    try:
        return json.loads(_Text(io.BytesIO(zlib.decompress(base64.b64decode(value)))).load())
    except (ValueError, zlib.error, pickle.UnpicklingError, EOFError) as error:
        raise RecordProblem(field, f"neither JSON nor compressed JSON: {error}") from None


class _Text(pickle.Unpickler):
    """Reads a pickled string and nothing that would run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}; only text is read")


def _stdin(test: Row, position: int) -> dict[str, str]:
    try:
        return {"stdin": str(test["input"]), "stdout": str(test["output"])}
    except (KeyError, TypeError):
        raise RecordProblem(f"tests[{position}]", "input and output are expected") from None


def _functional(name: str, test: Row, position: int) -> dict[str, str]:
    try:
        arguments = ", ".join(repr(json.loads(line)) for line in test["input"].split("\n") if line.strip())
        return {"call": f"ringflow_plain(Solution().{name}({arguments}))", "result": repr(json.loads(test["output"]))}
    except (KeyError, TypeError, ValueError) as error:
        raise RecordProblem(f"tests[{position}]", f"input lines and output are JSON: {error}") from None


_code = partial(Benchmark, domain="code", top_p=0.95)

BENCHMARKS = (
    _code(
        name="humaneval",
        title="HumanEval",
        read=humaneval,
        source="arXiv 2107.03374",
        hub=Hub("openai/openai_humaneval", "test"),
    ),
    _code(
        name="mbpp",
        title="MBPP, sanitized",
        read=mbpp,
        source="arXiv 2108.07732",
        hub=Hub("google-research-datasets/mbpp", "test", "sanitized"),
    ),
    _code(
        name="livecodebench",
        title="LiveCodeBench v6, 2408-2505",
        read=livecodebench,
        variant=window,
        source="arXiv 2510.18855 section 5; arXiv 2403.07974",
        samples=4,
        max_new_tokens=131_072 - 16_384,
        keep=partial(in_window, first="2408", last="2505"),
        hub=Hub("livecodebench/code_generation_lite", "test", "release_v6"),
    ),
    _code(
        name="codeforces",
        title="CodeForces",
        read=codeforces,
        samples=8,
        max_new_tokens=131_072 - 16_384,
        source="arXiv 2510.18855 section 5; arXiv 2501.01257",
        metrics=rating_metrics,
        board=scoreboard,
        files=("standings", "ratings"),
    ),
)
