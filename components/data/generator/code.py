"""Code families: write a Python function from steps given out of order. Checked by running it on tests."""

from __future__ import annotations

import random

from components.data.generator.problem import LABELS, Family, Problem
from components.data.schema import Verifier

_INTEGER = {"A": "x+={n}", "S": "x-={n}", "M": "x*={n}", "R": "x%={n}"}
_TEXT = {"B": "s=s[::-1]", "U": "s=s.upper()", "T": "s=s[1:]", "D": "s*=2", "P": "s+='{n}'"}
_INTEGER_TESTS = (0, 1, 7, -4, 23)
_TEXT_TESTS = ("", "a", "xyz", "Hello")


def _problem(
    prefix: str, argument: str, steps: list[tuple[str, str, str]], arguments: tuple, rng: random.Random
) -> Problem:
    """steps: (label, what the prompt says, statement), in order of execution; the prompt shows them shuffled."""
    shown = list(steps)
    rng.shuffle(shown)
    prompt = prefix + ";".join(f"{label}{says}" for label, says, _ in shown)
    thinking = "".join(f"{label}{says};" for label, says, _ in steps)
    body = "".join(f"\n {statement}" for _, _, statement in steps)
    program = f"def f({argument}):{body}\n return {argument}"
    namespace: dict = {}
    exec(program, namespace)  # our own statements, to find what the tests expect
    tests = [{"call": f"f({value!r})", "result": repr(namespace["f"](value))} for value in arguments]
    reference = {"language": "python", "entry_point": "f", "tests": tests}
    return Problem(prompt, thinking, program, Verifier(kind="code", reference=reference), key=program)


def integers(level: int, rng: random.Random) -> Problem:
    """`f:bM2;aA3` -> `aA3;bM2;` -> a function of x that adds 3, then doubles."""
    steps = []
    for label in LABELS[:level]:
        code, operand = rng.choice("ASMR"), rng.randrange(2, 10)
        steps.append((label, f"{code}{operand}", _INTEGER[code].format(n=operand)))
    return _problem("f:", "x", steps, _INTEGER_TESTS, rng)


def text(level: int, rng: random.Random) -> Problem:
    """`g:bU;aPk` -> `aPk;bU;` -> a function of s that appends k, then converts to upper case."""
    steps = []
    for label in LABELS[:level]:
        code = rng.choice("BUTDPPP")
        letter = rng.choice("ghijkmnopqr") if code == "P" else ""
        steps.append((label, f"{code}{letter}", _TEXT[code].format(n=letter)))
    return _problem("g:", "s", steps, _TEXT_TESTS, rng)


TAUGHT = Family("code", "text", text)
OPEN = Family("code", "integers", integers)
