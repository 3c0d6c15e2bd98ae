"""Logic answers: exact after a normal form, without symbols or evaluation.

Blanks around punctuation and the markup of LaTeX text do not count. Case counts (answers may be strings of letters)
except for whole words of truth.
"""

from __future__ import annotations

import re

from components.rewards.normalise import normal

_WORDS = frozenset({"true", "false", "yes", "no", "t", "f", "knight", "knave", "none", "unknown"})


def logic_equal(answer: str, reference: str) -> bool:
    left, right = _form(answer), _form(reference)
    if left == right:
        return True
    return right.casefold() in _WORDS and left.casefold() == right.casefold()


def _form(text: str) -> str:
    return re.sub(r"\s*([,;:=()\[\]{}|])\s*", r"\1", normal(text))
