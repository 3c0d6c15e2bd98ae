"""Logic answers: exact after a normal form, or judged by the verifier of the generator that made the puzzle.

reference: {"answer": str}, or {"entry": {...}} as reasoning-gym made it (question, answer, metadata with its
source_dataset): many puzzles have more than one right answer, and their generator's `score_answer` knows them. It may
read the answer as an expression, so it runs in a killable process; only full marks are a reward.

Blanks around punctuation and the markup of LaTeX text do not count. Case counts (answers may be strings of letters)
except for whole words of truth.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from components.failures import BadInput
from components.rewards.normalise import normal

_WORDS = frozenset({"true", "false", "yes", "no", "t", "f", "knight", "knave", "none", "unknown"})


def logic_equal(answer: str, reference: str) -> bool:
    left, right = _form(answer), _form(reference)
    if left == right:
        return True
    return right.casefold() in _WORDS and left.casefold() == right.casefold()


def _form(text: str) -> str:
    return re.sub(r"\s*([,;:=()\[\]{}|])\s*", r"\1", normal(text))


# Generators whose verifier gives full marks to anything: refused.
_CARELESS = frozenset({"game_of_life_halting"})


def gym_entry(reference: Mapping[str, Any]) -> Mapping[str, Any]:
    """The entry of a reasoning-gym generator. Raises BadInput when a part of it is missing."""
    entry = reference["entry"]
    try:
        complete = {"question", "answer"} <= set(entry) and isinstance(entry["metadata"]["source_dataset"], str)
    except (TypeError, KeyError):
        complete = False
    if not complete:
        raise BadInput(
            "not an entry of a reasoning-gym generator",
            where="verifier.reference.entry",
            remedy="It has question, answer and metadata.source_dataset",
        )
    if entry["metadata"]["source_dataset"] in _CARELESS:
        raise BadInput(
            "the reasoning-gym verifier of this generator accepts any answer",
            where="verifier.reference.entry.metadata.source_dataset",
        )
    return entry
