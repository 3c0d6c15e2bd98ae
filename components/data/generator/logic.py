"""Logic families: Boolean chains (three states are asked for, so that guessing does not pay) and sorting."""

from __future__ import annotations

import random

from components.data.generator.problem import Family, Problem, answer_verifier, boxed, labels


def boolean(level: int, rng: random.Random) -> Problem:
    """`b:1a&0b|1c^1` -> `a1&0=0;b0|1=1;c1^1=0;` -> 010: the last three states."""
    state = rng.randrange(2)
    prompt, thinking, states, key = f"b:{state}", "", "", f"b:{state}"
    for label in labels(level + 2, rng):
        operator, operand = rng.choice("&|^"), rng.randrange(2)
        before, state = state, {"&": state & operand, "|": state | operand, "^": state ^ operand}[operator]
        prompt += f"{label}{operator}{operand}"
        key += f"{operator}{operand}"
        thinking += f"{label}{before}{operator}{operand}={state};"
        states += str(state)
    return Problem(prompt, thinking, boxed(states[-3:]), answer_verifier("logic", states[-3:]), key)


def sorting(level: int, rng: random.Random) -> Problem:
    """`o:5391` -> `1:539;3:59;5:9;9:;` -> 1359: take the smallest, write what remains."""
    items = rng.sample("0123456789", min(level + 3, 9))
    prompt, thinking, ordered = "o:" + "".join(items), "", ""
    while items:
        smallest = min(items)
        items.remove(smallest)
        thinking += f"{smallest}:{''.join(items)};"
        ordered += smallest
    return Problem(prompt, thinking, boxed(ordered), answer_verifier("logic", ordered))


TAUGHT = Family("logic", "sorting", sorting)
OPEN = Family("logic", "boolean", boolean)
