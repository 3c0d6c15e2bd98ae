"""Math answers: equal as text, equal as exact numbers, or equal as expressions by math-verify.

The first two decide most pairs without leaving the process. A sign of percent may stand or be missing when the number
is the one asked for, and 50% also equals 1/2. `x = 5` answers 5. Everything else is the symbolic check's to decide.
"""

from __future__ import annotations

import re
from fractions import Fraction

from components.rewards.normalise import normal, percent, rational

_ASSIGNMENT = re.compile(r"^[A-Za-z](?:_\{?\w+\}?)?\s*=\s*([^=]+)$")
_WORDS = re.compile(r"^[A-Za-z][A-Za-z ]*[A-Za-z]$")
LONGEST_ANSWER = 2000


def quick_equal(answer: str, reference: str) -> bool | None:
    """True or False when text or exact numbers decide; None when symbols have to be compared."""
    if len(answer) > LONGEST_ANSWER:
        return False
    left, right = normal(answer), normal(reference)
    if left == right:
        return True
    assigned = _ASSIGNMENT.match(left)
    if assigned and not _ASSIGNMENT.match(right):
        left = assigned.group(1).strip()
        if left == right:
            return True
    numbers = _values(left), _values(right)
    if numbers[0] and numbers[1]:
        return not numbers[0].isdisjoint(numbers[1])
    if _WORDS.match(left) and _WORDS.match(right):
        return left.casefold() == right.casefold()
    if (numbers[0] and _WORDS.match(right)) or (numbers[1] and _WORDS.match(left)):
        return False
    return None


def _values(text: str) -> frozenset[Fraction]:
    """The numbers that a text may stand for: 50% is one half, and fifty where per cent were asked for."""
    value = rational(text)
    if value is not None:
        return frozenset({value})
    share = percent(text)
    return frozenset() if share is None else frozenset({share, share / 100})
