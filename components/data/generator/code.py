"""Code families: write a Python function from labelled steps. Checked by running it on tests."""

from __future__ import annotations

import random

from components.data.generator.problem import Family, Problem, labels
from components.data.schema import Verifier

_INTEGER = {"A": "+{n}", "S": "-{n}", "M": "*{n}", "R": "%{n}"}
_TEXT = {"B": "[::-1]", "U": ".upper()", "T": "[1:]", "D": "*2", "P": "+'{n}'"}
_INTEGER_TESTS = (0, 1, 7, -4, 23)
_TEXT_TESTS = ("", "a", "xyz", "Hello")


def _problem(prefix: str, argument: str, steps: list[tuple[str, str, str]], arguments: tuple) -> Problem:
    """steps: (label, what the prompt says, operation), in order. A label names the value its step computes."""
    prompt = prefix + "".join(f"{label}{says}" for label, says, _ in steps)
    thinking = "".join(f"{label}{operation};" for label, _, operation in steps)
    values = [argument, *(label for label, _, _ in steps)]
    body = "".join(f"\n {label}={value}{step}" for value, (label, _, step) in zip(values, steps, strict=False))
    program = f"def f({argument}):{body}\n return {values[-1]}"
    namespace: dict = {}
    exec(program, namespace)  # our own statements, to find what the tests expect
    tests = [{"call": f"f({value!r})", "result": repr(namespace["f"](value))} for value in arguments]
    reference = {"language": "python", "entry_point": "f", "tests": tests}
    key = prefix + ";".join(operation for _, _, operation in steps)
    return Problem(prompt, thinking, program, Verifier(kind="code", reference=reference), key=key)


def integers(level: int, rng: random.Random) -> Problem:
    """`f:aA3bM2` -> `a+3;b*2;` -> a function of x that adds 3, then doubles."""
    steps = []
    for label in labels(level, rng):
        code, operand = rng.choice("ASMR"), rng.randrange(2, 10)
        steps.append((label, f"{code}{operand}", _INTEGER[code].format(n=operand)))
    return _problem("f:", "x", steps, _INTEGER_TESTS)


def text(level: int, rng: random.Random) -> Problem:
    """`g:aPkbU` -> a function of s that appends k, then converts to upper case."""
    steps = []
    for label in labels(level, rng):
        code = rng.choice("BUTDPPP")
        letter = rng.choice("ghijkmnopqr") if code == "P" else ""
        steps.append((label, f"{code}{letter}", _TEXT[code].format(n=letter)))
    return _problem("g:", "s", steps, _TEXT_TESTS)


TAUGHT = Family("code", "text", text)
OPEN = Family("code", "integers", integers)
