"""Math families: chains of arithmetic modulo 10, and addition with carries (digits low to high)."""

from __future__ import annotations

import random

from components.data.generator.problem import LABELS, Family, Problem, answer_verifier, boxed


def chain(level: int, rng: random.Random) -> Problem:
    """`m:6a+4b*7c-4` -> `a+4=0;b*7=0;c-4=6;` -> 6. Every state is taken modulo 10."""
    state = rng.randrange(10)
    prompt, thinking = f"m:{state}", ""
    for label in LABELS[:level]:
        operator, operand = rng.choice("+-*"), rng.randrange(1, 10)
        state = {"+": state + operand, "-": state - operand, "*": state * operand}[operator] % 10
        prompt += f"{label}{operator}{operand}"
        thinking += f"{label}{operator}{operand}={state};"
    answer = str(state)
    return Problem(prompt, thinking, boxed(answer), answer_verifier("math", answer))


def addition(level: int, rng: random.Random) -> Problem:
    """`s:a3+4b2+9` -> `a3+4+0=07;b2+9+0=11;` -> 711: digits low to high, then the last carry."""
    carry, digits = 0, ""
    prompt, thinking = "s:", ""
    for label in LABELS[: level + 1]:
        left, right = rng.randrange(10), rng.randrange(10)
        total = left + right + carry
        prompt += f"{label}{left}+{right}"
        thinking += f"{label}{left}+{right}+{carry}={total:02d};"
        digits += str(total % 10)
        carry = total // 10
    answer = digits + str(carry)
    return Problem(prompt, thinking, boxed(answer), answer_verifier("logic", answer))


FAMILIES = (Family("math", "chain", chain), Family("math", "addition", addition))
