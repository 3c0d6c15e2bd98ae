"""Math families: chains of arithmetic modulo 10, and chains of maxima and minima."""

from __future__ import annotations

import random

from components.data.generator.problem import Family, Problem, answer_verifier, boxed, labels


def chain(level: int, rng: random.Random) -> Problem:
    """`m:6a+3b-1c+2` -> `a6+3=9;b9-1=8;c8+2=0;` -> 80: the last two states, modulo 10; operands 1 to 3."""
    state = rng.randrange(10)
    prompt, thinking, states, key = f"m:{state}", "", "", f"m:{state}"
    for label in labels(level + 1, rng):
        operator, operand = rng.choice("+-"), rng.randrange(1, 4)
        before, state = state, (state + operand if operator == "+" else state - operand) % 10
        prompt += f"{label}{operator}{operand}"
        key += f"{operator}{operand}"
        thinking += f"{label}{before}{operator}{operand}={state};"
        states += str(state)
    return Problem(prompt, thinking, boxed(states[-2:]), answer_verifier("math", states[-2:]), key)


def extremes(level: int, rng: random.Random) -> Problem:
    """`x:4a>7b<2` -> `a4>7=7;b7<2=2;` -> 72: `>` keeps the larger, `<` the smaller; the last two states."""
    state = rng.randrange(10)
    prompt, thinking, states, key = f"x:{state}", "", "", f"x:{state}"
    for label in labels(level + 1, rng):
        operator, operand = rng.choice("><"), rng.randrange(10)
        before, state = state, (max if operator == ">" else min)(state, operand)
        prompt += f"{label}{operator}{operand}"
        key += f"{operator}{operand}"
        thinking += f"{label}{before}{operator}{operand}={state};"
        states += str(state)
    return Problem(prompt, thinking, boxed(states[-2:]), answer_verifier("math", states[-2:]), key)


TAUGHT = Family("math", "extremes", extremes)
OPEN = Family("math", "chain", chain)
