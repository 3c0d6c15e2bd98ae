"""Gold preferences of generated data: the hidden judge that labels preference pairs and scores held-out answers.

No policy and no reward model ever sees these functions: the reward model learns from pairs they labelled, RLHF follows
the reward model, and evaluation asks the gold judge whether people would have liked the result better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def reply(reference: Mapping[str, Any], response: str) -> float:
    """Gold score in [0, 1] of a reply to `reference["name"]`: polite, by name, closed with thanks, no shouting.

    `response` is the whole assistant turn; the reply is what follows `</think>`.
    """
    text = response.rpartition("</think>")[2].strip()
    words = text.replace(",", " ").replace(".", " ").replace("!", " ").split()
    score = 0.0
    score += 0.3 * (words[:1] == ["hello"])
    score += 0.3 * (words.count(reference["name"]) == 1)
    score += 0.2 * (words[-1:] == ["thanks"])
    score += 0.1 * ("!" not in text and bool(words))
    score += 0.1 * (2 <= len(words) <= 6)
    return round(score, 6)


RUBRICS: Mapping[str, Callable[[Mapping[str, Any], str], float]] = {"reply": reply}


def gold(reference: Mapping[str, Any], response: str) -> float:
    """Score in [0, 1] by the rubric that `reference["rubric"]` names. Raises KeyError for an unknown rubric."""
    return RUBRICS[reference["rubric"]](reference, response)
