"""Test cases of program tasks, in the shapes published sets have, as the two the code verifier knows.

{"inputs": [...], "outputs": [...]}          APPS, rllm                -> stdin/stdout, or calls of its `fn_name`
{"input": [...], "output": [...]}            CodeContests              -> stdin/stdout
[{"input": ..., "output": ...}]              Codeforces, LiveCodeBench -> stdin/stdout
["assert f(1) == 2", ...]                    MBPP                      -> call/result
"def check(candidate): assert candidate..."  HumanEval, LeetCode       -> call/result
"""

from __future__ import annotations

import ast
from typing import Any

# What LeetCode has imported before a `class Solution` starts.
LEETCODE_PRELUDE = """\
import bisect, collections, functools, heapq, itertools, math, operator, random, re, string
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import *
from typing import *
inf = float("inf")
"""


def parse_tests(tests: Any, entry_point: str | None, program: str) -> dict[str, Any]:
    """Reference of a code verifier: {"language", "tests", "entry_point"?}. Raises ValueError saying what is wrong.

    `program`: a solution or the problem with its starter code; it tells the method name of a `class Solution`.
    """
    if isinstance(tests, dict) and isinstance(tests.get("functional"), str):
        tests = tests["functional"]
    for names in (("inputs", "outputs"), ("input", "output")):
        if isinstance(tests, dict) and tests.keys() >= set(names):
            return _columns(tests[names[0]], tests[names[1]], tests.get("fn_name"))
    if isinstance(tests, list) and tests and all(isinstance(test, dict) for test in tests):
        return _reference([_pair(test, position) for position, test in enumerate(tests)], entry_point)
    if isinstance(tests, list) and tests and all(isinstance(test, str) for test in tests):
        tests = "\n".join(tests)
    if isinstance(tests, str) and "assert" in tests:
        target = entry_point or _solution_method(program)
        return _reference(_assertions(tests, target), target)
    raise ValueError("tests are in no known shape: inputs/outputs, input/output pairs, asserts or a check function")


def _columns(inputs: Any, outputs: Any, function: str | None) -> dict[str, Any]:
    """Inputs and outputs side by side: standard input and output, or arguments and value of a named function."""
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs) or not inputs:
        counts = [len(side) if isinstance(side, list) else type(side).__name__ for side in (inputs, outputs)]
        raise ValueError(f"{counts[0]} inputs and {counts[1]} outputs")
    pairs = zip(inputs, outputs, strict=True)
    if function is None:
        return _reference([{"stdin": _text(a), "stdout": _text(b)} for a, b in pairs], None)
    calls = []
    for arguments, result in pairs:
        listed = arguments if isinstance(arguments, list) else [arguments]
        calls.append({"call": f"{function}({', '.join(map(repr, listed))})", "result": repr(result)})
    return _reference(calls, function)


def _text(value: Any) -> str:
    """Some sets keep the lines of a test as a list."""
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def _reference(tests: list[dict[str, str]], entry_point: str | None) -> dict[str, Any]:
    reference: dict[str, Any] = {"language": "python", "tests": tests}
    if entry_point:
        reference["entry_point"] = entry_point
    if entry_point and entry_point.startswith("Solution()."):
        reference["prelude"] = LEETCODE_PRELUDE
    return reference


def _pair(test: dict[str, Any], position: int) -> dict[str, str]:
    for given, expected, stdin in (("stdin", "stdout", True), ("input", "output", True), ("call", "result", False)):
        if given in test and expected in test:
            names = ("stdin", "stdout") if stdin else ("call", "result")
            return {names[0]: str(test[given]), names[1]: str(test[expected])}
    raise ValueError(f"test {position} has neither input/output, stdin/stdout nor call/result")


def _solution_method(program: str) -> str | None:
    """`Solution().name` for starter code with a class Solution."""
    start = program.find("class Solution")
    method = program.find("def ", start) if start >= 0 else -1
    return f"Solution().{program[method + 4 :].split('(')[0].strip()}" if method >= 0 else None


def _is_value(node: ast.expr) -> bool:
    """Written out, so that its text is its repr: `10 + 5` and `sorted(x)` are not."""
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def _assertions(source: str, target: str | None) -> list[dict[str, str]]:
    """`assert a == value` is a call with its result; any other assertion is an expression whose result is True."""
    try:
        module = ast.parse(source)
    except SyntaxError as error:
        raise ValueError(f"tests do not parse: line {error.lineno}: {error.msg}") from None
    body: list[ast.stmt] = []
    for statement in module.body:
        body += statement.body if isinstance(statement, ast.FunctionDef) and statement.name == "check" else [statement]
    tests = []
    for statement in body:
        if not isinstance(statement, ast.Assert):
            if isinstance(statement, ast.For | ast.While | ast.If | ast.FunctionDef):
                raise ValueError("tests hold more than plain assertions")
            continue
        test = statement.test
        equality = (
            isinstance(test, ast.Compare)
            and len(test.ops) == 1
            and isinstance(test.ops[0], ast.Eq)
            and _is_value(test.comparators[0])
        )
        call, result = (
            (ast.unparse(test.left), ast.unparse(test.comparators[0])) if equality else (ast.unparse(test), "True")
        )
        if "candidate" in call:
            if not target:
                raise ValueError("tests call `candidate`, and no entry_point or class Solution names it")
            call = call.replace("candidate", target)
        tests.append({"call": call, "result": result})
    if not tests:
        raise ValueError("tests hold no assertion")
    return tests
