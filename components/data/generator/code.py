"""Code families: write a Python function from labelled steps. Checked by running it on tests."""

from __future__ import annotations

import random

from components.data.generator.problem import Family, Problem, labels, outline
from components.data.schema import Verifier

_STATEMENTS = {"A": "+{n}", "S": "-{n}", "M": "*{n}", "R": "%{n}"}
_INTEGER_TESTS = (0, 1, 7, -4, 23)
_DIGIT_TESTS = (0, 3, 5, 8, 9)


def _verifier(program: str, arguments: tuple[int, ...]) -> Verifier:
    namespace: dict = {}
    exec(program, namespace)  # our own statements, to find what the tests expect
    tests = [{"call": f"f({value!r})", "result": repr(namespace["f"](value))} for value in arguments]
    return Verifier(kind="code", reference={"language": "python", "entry_point": "f", "tests": tests})


def integers(level: int, rng: random.Random) -> Problem:
    """`f:aA3bM2` -> `a+3;b*2;` -> a function with one statement per step, each naming its value by the label."""
    prompt, thinking, key, body, value = "f:", "", "f:", "", "x"
    chosen = labels(level, rng)
    for label in chosen:
        code, operand = rng.choice("ASMR"), rng.randrange(2, 10)
        operation = _STATEMENTS[code].format(n=operand)
        prompt += f"{label}{code}{operand}"
        key += operation
        thinking += f"{label}{operation};"
        body += f"\n {label}={value}{operation}"
        value = label
    program = f"def f(x):{body}\n return {value}"
    return Problem(prompt, thinking, program, _verifier(program, _INTEGER_TESTS), key, outline(chosen))


def fold(level: int, rng: random.Random) -> Problem:
    """`g:aA3bS1` -> `a0+3=3;b3-1=2;` -> `def f(x):\\n return (x+2)%10`: many shifts of a digit folded into one.

    What compilers call constant folding: the program is short, and only working the steps out finds its constant.
    """
    state, prompt, thinking, key = 0, "g:", "", "g:"
    chosen = labels(level + 1, rng)
    for label in chosen:
        code, operand = rng.choice("AS"), rng.randrange(1, 4)
        operator = "+" if code == "A" else "-"
        before, state = state, (state + operand if code == "A" else state - operand) % 10
        prompt += f"{label}{code}{operand}"
        key += f"{code}{operand}"
        thinking += f"{label}{before}{operator}{operand}={state};"
    program = f"def f(x):\n return (x+{state})%10"
    return Problem(prompt, thinking, program, _verifier(program, _DIGIT_TESTS), key, outline(chosen))


TAUGHT = Family("code", "integers", integers)
OPEN = Family("code", "fold", fold)
