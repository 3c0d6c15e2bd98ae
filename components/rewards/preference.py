"""Open-ended responses by a rubric function: the generator's gold preference, or one that a project registers.

reference: {"rubric": name, ...}. A reward model is not a rubric: it is a Scorer of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from components.data.preference import RUBRICS as GOLD_RUBRICS
from components.failures import BadInput

Rubric = Callable[[Mapping[str, Any], str], float]

_registered: dict[str, Rubric] = {}


def register_rubric(name: str, rubric: Rubric) -> None:
    """Adds a rubric: a pure function of (reference, response) to a score in [0, 1].

    Raises:
        BadInput: the name is taken by another function.
    """
    if _find(name) not in (None, rubric):
        raise BadInput(f"the rubric {name!r} is registered already", where="rubric")
    _registered[name] = rubric


def preference_score(reference: Mapping[str, Any], response: str) -> float:
    """Score by the rubric that the reference names.

    Raises:
        BadInput: no such rubric.
    """
    name = str(reference.get("rubric"))
    rubric = _find(name)
    if rubric is None:
        known = ", ".join(sorted({*GOLD_RUBRICS, *_registered}))
        raise BadInput(f"unknown rubric {name!r}", where="verifier.reference.rubric", remedy=f"Known: {known}")
    return float(rubric(reference, response))


def _find(name: str) -> Rubric | None:
    return GOLD_RUBRICS.get(name) or _registered.get(name)
