"""Math answers: equal as text, equal as exact numbers, or equal as expressions by math-verify.

The first two decide most pairs without leaving the process. A sign of percent may stand or be missing when the number
is the one asked for, and 50% also equals 1/2. `x = 5` answers 5. Everything else is the symbolic check's to decide.
"""

from __future__ import annotations

import re
from fractions import Fraction

from components.rewards.normalise import normal, percent, rational
from components.rewards.units import factor, known, quantity

_ASSIGNMENT = re.compile(r"^[A-Za-z](?:_\{?\w+\}?)?\s*=\s*([^=]+)$")
_RELATION = {"<": "<", "\\lt": "<", "\\le": "<=", "\\leq": "<=", "\\leqslant": "<=", "≤": "<="}
_RELATION |= {">": ">", "\\gt": ">", "\\ge": ">=", "\\geq": ">=", "\\geqslant": ">=", "≥": ">="}
_RELATIONS = re.compile(r"(\\(?:leqslant|geqslant|leq|geq|le|ge|lt|gt)(?![A-Za-z])|[<>≤≥])")
_INTERVAL = re.compile(r"^[(\[].*[)\]]$")
# No notation of mathematics has them: what stands beside one is a second answer.
_FOREIGN = frozenset("#@`?")
_WORDS = re.compile(r"^[A-Za-z][A-Za-z ]*[A-Za-z]$")
LONGEST_ANSWER = 2000


def quick_equal(answer: str, reference: str) -> bool | None:
    """True or False when text or exact numbers decide; None when symbols have to be compared."""
    if len(answer) > LONGEST_ANSWER:
        return False
    left, right = normal(answer), normal(reference)
    if left == right:
        return True
    if _FOREIGN & set(left) - set(right):
        return False
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
    units = _quantities_equal(left, right)
    if units is not None:
        return units
    if (numbers[0] and _WORDS.match(right)) or (numbers[1] and _WORDS.match(left)):
        return False
    return None


def comparable(answer: str, reference: str) -> tuple[str, str]:
    """The pair as the symbolic check should see it: an inequality beside an interval becomes one."""
    left, right = normal(answer), normal(reference)
    for one, other, turned in ((left, right, False), (right, left, True)):
        found = _as_interval(one) if _INTERVAL.match(other.split("\\cup")[0]) else None
        if found:
            return (answer, found) if turned else (found, reference)
    return answer, reference


def _as_interval(text: str) -> str | None:
    """`1<x\\le3` -> `(1,3]`, `x>2` -> `(2,\\infty)`; None for anything else."""
    parts = [part.strip() for part in _RELATIONS.split(text)]
    signs, terms = [_RELATION[sign] for sign in parts[1::2]], parts[::2]
    if len(terms) == 3 and signs[0][0] == signs[1][0] and re.fullmatch(r"[a-z]", terms[1]):
        low, first, second, high = terms[0], signs[0], signs[1], terms[2]
        if first[0] == ">":
            low, first, second, high = high, second, first, low
    elif len(terms) == 2 and re.fullmatch(r"[a-z]", terms[0]):
        above = signs[0][0] == ">"
        low, high = (terms[1], "\\infty") if above else ("-\\infty", terms[1])
        first, second = (signs[0], "<") if above else ("<", signs[0])
    else:
        return None
    return f"{'[' if '=' in first else '('}{low},{high}{']' if '=' in second else ')'}"


def _quantities_equal(left: str, right: str) -> bool | None:
    """For two numbers with units that the table knows: equal after conversion. None for everything else."""
    one, other = quantity(left), quantity(right)
    if one is None or other is None or not (one[1] and other[1]):
        return None
    if (one[1] == "%") != (other[1] == "%"):
        return False
    if one[1] == other[1]:
        return one[0] == other[0]
    if not (known(one[1]) and known(other[1])):
        return None
    times = factor(one[1], other[1])
    return times is not None and one[0] * times == other[0]


def _values(text: str) -> frozenset[Fraction]:
    """The numbers that a text may stand for: 50% is one half, and fifty where per cent were asked for."""
    value = rational(text)
    if value is not None:
        return frozenset({value})
    share = percent(text)
    return frozenset() if share is None else frozenset({share, share / 100})
