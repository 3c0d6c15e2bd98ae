"""Science families: counting the atoms of a formula, and motion in discrete time."""

from __future__ import annotations

import random

from components.data.generator.problem import Family, Problem, answer_verifier, boxed, labels, outline


def atoms(level: int, rng: random.Random) -> Problem:
    """`n:aCbHcHdO` -> running counts of C, H, O `aC=100;bH=110;cH=120;dO=121;` -> C1H2O1."""
    counts = {"C": 0, "H": 0, "O": 0}
    prompt, thinking, key = "n:", "", "n:"
    chosen = labels(level + 2, rng)
    for label in chosen:
        element = rng.choice("CHO")
        counts[element] += 1
        prompt += f"{label}{element}"
        key += f"{element}"
        thinking += f"{label}{element}={''.join(map(str, counts.values()))};"
    answer = "".join(f"{element}{count}" for element, count in counts.items())
    return Problem(prompt, thinking, boxed(answer), answer_verifier("logic", answer), key, outline(chosen))


def motion(level: int, rng: random.Random) -> Problem:
    """`t:p3v2afbs` on a ring of ten places: f faster, s slower (speed 0 to 3), then the place moves on by the speed.

    `af3+3=6;bs6+2=8;` -> 68: label, command, place + speed = new place; the answer is the last two places.
    """
    position, speed = rng.randrange(10), rng.randrange(4)
    prompt, thinking, places, key = f"t:p{position}v{speed}", "", "", f"t:p{position}v{speed}"
    chosen = labels(level + 1, rng)
    for label in chosen:
        command = rng.choice("fs")
        speed = min(speed + 1, 3) if command == "f" else max(speed - 1, 0)
        before, position = position, (position + speed) % 10
        prompt += f"{label}{command}"
        key += f"{command}"
        thinking += f"{label}{command}{before}+{speed}={position};"
        places += str(position)
    final = boxed(places[-2:])
    return Problem(prompt, thinking, final, answer_verifier("logic", places[-2:]), key, outline(chosen))


TAUGHT = Family("science", "atoms", atoms)
OPEN = Family("science", "motion", motion)
