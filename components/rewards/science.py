"""Science answers: a number within a tolerance, in the unit that was asked for or one that converts to it.

reference: {"answer": str, "tolerance": float?, "unit": str?, "options": {letter: str}?}. The tolerance is relative to
the reference (absolute when it is 0); without one the numbers must agree to 1e-6. A missing unit is forgiven, a wrong
one is not. References that are not numbers are compared as math answers are.

`options` belong to a multiple-choice item that was turned into an open one (FACTS 3: such items are dropped or opened):
the prompt asks for the thing itself, so `answer` is its text, and a bare letter earns nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from components.rewards.math import quick_equal
from components.rewards.units import factor, quantity, unit_name

DEFAULT_TOLERANCE = 1e-6
_LETTER = re.compile(r"^\W*(?:\\text\W*)?([A-Za-z])\W*$")


def science_equal(answer: str, reference: Mapping[str, Any]) -> bool | None:
    """True or False when it can be decided here; None when symbols have to be compared."""
    expected = str(reference["answer"])
    letter = _LETTER.match(answer)
    if letter and letter.group(1).upper() in (reference.get("options") or {}):
        return False
    wanted = quantity(expected)
    if wanted is None:
        return quick_equal(answer, expected)
    given = quantity(answer)
    if given is None:
        return quick_equal(answer, expected)
    value, unit = wanted
    unit = unit_name(str(reference.get("unit") or "")) or unit
    number, own = given
    if own and unit and own != unit:
        times = factor(own, unit)
        if times is None:
            return False
        number *= times
    elif own and not unit and own != "%":
        return False
    tolerance = Fraction(str(reference.get("tolerance") or DEFAULT_TOLERANCE))
    return abs(number - value) <= tolerance * (abs(value) or 1)
