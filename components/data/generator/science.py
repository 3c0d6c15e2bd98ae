"""Science families: counting the atoms of a formula, and motion on a ring."""

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
    """`t:7af3bb1` on a ring of ten places: f goes forward, b back -> `a7+3=0;b0-1=9;` -> 09: the last two places."""
    position = rng.randrange(10)
    prompt, thinking, places, key = f"t:{position}", "", "", f"t:{position}"
    chosen = labels(level + 1, rng)
    for label in chosen:
        command, distance = rng.choice("fb"), rng.randrange(1, 4)
        operator = "+" if command == "f" else "-"
        before, position = position, (position + distance if command == "f" else position - distance) % 10
        prompt += f"{label}{command}{distance}"
        key += f"{command}{distance}"
        thinking += f"{label}{before}{operator}{distance}={position};"
        places += str(position)
    final = boxed(places[-2:])
    return Problem(prompt, thinking, final, answer_verifier("logic", places[-2:]), key, outline(chosen))


TAUGHT = Family("science", "atoms", atoms)
OPEN = Family("science", "motion", motion)
