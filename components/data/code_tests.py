"""Test cases of program tasks, in the shapes published sets have, as the two the code verifier knows.

{"inputs": [...], "outputs": [...]}          CodeContests, APPS        -> stdin/stdout
[{"input": ..., "output": ...}]              Codeforces, LiveCodeBench -> stdin/stdout
["assert f(1) == 2", ...]                    MBPP                      -> call/result
"def check(candidate): assert candidate..."  HumanEval, LeetCode       -> call/result
"""

from __future__ import annotations

import ast
from typing import Any


def parse_tests(tests: Any, entry_point: str | None, program: str) -> dict[str, Any]:
    """Reference of a code verifier: {"language", "tests", "entry_point"?}. Raises ValueError saying what is wrong.

    `program`: a solution or the problem with its starter code; it tells the method name of a `class Solution`.
    """
    if isinstance(tests, dict) and isinstance(tests.get("functional"), str):
        tests = tests["functional"]
    if isinstance(tests, dict) and {"inputs", "outputs"} <= tests.keys():
        inputs, outputs = tests["inputs"], tests["outputs"]
        if len(inputs) != len(outputs) or not inputs:
            raise ValueError(f"{len(inputs)} inputs and {len(outputs)} outputs")
        return _reference([{"stdin": str(a), "stdout": str(b)} for a, b in zip(inputs, outputs, strict=True)], None)
    if isinstance(tests, list) and tests and all(isinstance(test, dict) for test in tests):
        return _reference([_pair(test, position) for position, test in enumerate(tests)], entry_point)
    if isinstance(tests, list) and tests and all(isinstance(test, str) for test in tests):
        tests = "\n".join(tests)
    if isinstance(tests, str) and "assert" in tests:
        target = entry_point or _solution_method(program)
        return _reference(_assertions(tests, target), target)
    raise ValueError("tests are in no known shape: inputs/outputs, input/output pairs, asserts or a check function")


def _reference(tests: list[dict[str, str]], entry_point: str | None) -> dict[str, Any]:
    return {"language": "python", "tests": tests} | ({"entry_point": entry_point} if entry_point else {})


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


def _assertions(source: str, target: str | None) -> list[dict[str, str]]:
    """`assert a == b` is a call with its result; any other assertion is a call whose result is True."""
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
        equality = isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq)
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
