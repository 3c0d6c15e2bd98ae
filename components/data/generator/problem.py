"""What a problem family is, and the one place that says which levels have worked solutions.

A family makes verifiable problems of a level (its number of steps). Every item of a prompt carries a label (a, b, ...)
and the worked solution copies label and item before it writes the new state: models of one or two million parameters
learn that in minutes, and generalise it to more steps; unlabelled versions stay near zero.

Where reinforcement learning belongs: real instruction data mixes careful solutions with careless ones, and has worked
solutions for some problems and not for others. The SFT split does the same. Every domain has a `taught` family, shown
at all levels, and an `open` family of which SFT shows easy levels only; raw text for pre-training shows the steps of
both at all levels. A part of the SFT responses are careless: bare answers in math and logic, outlines that name the
steps and work none in code and science. A model after SFT can think but tosses a coin about it. RL prompts are the
levels of the open families that SFT does not show: only thinking is right there, and more SFT keeps tossing the coin.
Two careless styles, so that what the first RLVR phase corrects is not what the second one finds.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from components.data.schema import Verifier
from components.recipe.data import Domain

LABELS = "abcdefghijkl"

LEVELS = (1, 2, 3, 4, 5)
OPEN_SFT_LEVELS = (1, 2, 3)
RL_LEVELS = (4, 5)
BENCHMARK_LEVELS = (2, 3, 4, 5)
CARELESS_FRACTION = 0.4


@dataclass(frozen=True)
class Problem:
    """prompt: user turn. thinking: worked solution. final: what follows `</think>`, e.g. `\\boxed{7}` or a program.

    key: equal for two prompts that ask the same thing under other labels; the prompt when empty.
    outline: what a careless response writes in place of the thinking; nothing for a bare answer.
    """

    prompt: str
    thinking: str
    final: str
    verifier: Verifier
    key: str = ""
    outline: str = ""

    @property
    def identity(self) -> str:
        return self.key or self.prompt

    def worked(self) -> str:
        return f"<think>{self.thinking}</think>{self.final}"

    def careless(self) -> str:
        return f"<think>{self.outline}</think>{self.final}"


@dataclass(frozen=True)
class Family:
    """make(level, rng) -> Problem; level >= 1. `fact(rng)` is a line of raw text for pre-training."""

    domain: Domain
    name: str
    make: Callable[[int, random.Random], Problem]


def labels(count: int, rng: random.Random) -> str:
    """`count` consecutive labels from a random start: a model that never saw a first label cannot count on one.

    With labels that always begin at `a` a model stops after the longest problem it was shown; with moving labels it
    learns to go on until the prompt has no next one.
    """
    start = rng.randrange(len(LABELS) - count + 1)
    return LABELS[start : start + count]


def outline(chosen: str) -> str:
    """The steps named and none of them worked: the careless solution of code and science."""
    return "".join(f"{label};" for label in chosen)


def boxed(answer: str) -> str:
    return f"\\boxed{{{answer}}}"


def answer_verifier(kind: str, answer: str) -> Verifier:
    return Verifier(kind=kind, reference={"answer": answer})
