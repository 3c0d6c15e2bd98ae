"""Science families: counting the atoms of a formula, and motion in discrete time."""

from __future__ import annotations

import random

from components.data.generator.problem import LABELS, Family, Problem, answer_verifier, boxed


def atoms(level: int, rng: random.Random) -> Problem:
    """`n:aCbHcHdO` -> running counts of C, H, O `aC=100;bH=110;cH=120;dO=121;` -> C1H2O1."""
    counts = {"C": 0, "H": 0, "O": 0}
    prompt, thinking = "n:", ""
    for label in LABELS[: level + 2]:
        element = rng.choice("CHO")
        counts[element] += 1
        prompt += f"{label}{element}"
        thinking += f"{label}{element}={''.join(map(str, counts.values()))};"
    answer = "".join(f"{element}{count}" for element, count in counts.items())
    return Problem(prompt, thinking, boxed(answer), answer_verifier("logic", answer))


def motion(level: int, rng: random.Random) -> Problem:
    """`t:p3v2a4b0` on a ring of ten places: v += acceleration, p += v; `a4v6p9;b0v6p5;` -> p5v6."""
    position, velocity = rng.randrange(10), rng.randrange(10)
    prompt, thinking = f"t:p{position}v{velocity}", ""
    for label in LABELS[:level]:
        acceleration = rng.randrange(10)
        velocity = (velocity + acceleration) % 10
        position = (position + velocity) % 10
        prompt += f"{label}{acceleration}"
        thinking += f"{label}{acceleration}v{velocity}p{position};"
    answer = f"p{position}v{velocity}"
    return Problem(prompt, thinking, boxed(answer), answer_verifier("logic", answer))


FAMILIES = (Family("science", "atoms", atoms), Family("science", "motion", motion))
