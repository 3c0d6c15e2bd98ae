"""What a problem family is, and the one place that says which levels have worked solutions.

A family makes verifiable problems of a level (its number of steps). Every item of a prompt carries a label (a, b, ...)
and the worked solution copies label and item before it writes the new state: models of one or two million parameters
learn that in minutes, and generalise it to more steps; unlabelled versions stay near zero.

Where reinforcement learning belongs: people write worked solutions for easy problems and give bare answers for hard
ones. The SFT split does the same (WORKED_LEVELS, ANSWER_LEVELS), so a model after SFT knows how to think but mostly
does not on hard prompts. RL prompts are the hard levels; more SFT on the same data cannot help there.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from components.data.schema import Verifier
from components.recipe.data import Domain

LABELS = "abcdefghijkl"

WORKED_LEVELS = (1, 2, 3)
ANSWER_LEVELS = (3, 4, 5, 6)
RL_LEVELS = (3, 4, 5, 6)
BENCHMARK_LEVELS = (2, 3, 4, 5, 6)
ANSWER_ONLY_FRACTION = 0.25


@dataclass(frozen=True)
class Problem:
    """prompt: user turn. thinking: worked solution. final: what follows `</think>`, e.g. `\\boxed{7}` or a program.

    key: equal for two prompts that ask the same thing (steps shown in another order); the prompt when empty.
    """

    prompt: str
    thinking: str
    final: str
    verifier: Verifier
    key: str = ""

    @property
    def identity(self) -> str:
        return self.key or self.prompt

    def worked(self) -> str:
        return f"<think>{self.thinking}</think>{self.final}"

    def answer_only(self) -> str:
        return f"<think></think>{self.final}"


@dataclass(frozen=True)
class Family:
    """make(level, rng) -> Problem; level >= 1. `fact(rng)` is a line of raw text for pre-training."""

    domain: Domain
    name: str
    make: Callable[[int, random.Random], Problem]


def boxed(answer: str) -> str:
    return f"\\boxed{{{answer}}}"


def answer_verifier(kind: str, answer: str) -> Verifier:
    return Verifier(kind=kind, reference={"answer": answer})
