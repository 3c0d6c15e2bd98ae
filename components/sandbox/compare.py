"""Outside the sandbox: what a program printed or returned against what was expected."""

from __future__ import annotations

import ast
import math
from decimal import Decimal, InvalidOperation
from typing import Any

_LARGEST_LITERAL = 1 << 20


def same_output(printed: str, expected: str, tolerance: float | None = None) -> bool:
    """Line by line, trailing blanks and trailing empty lines aside; token by token with a tolerance.

    A tolerance of 0 compares lines too, blanks around them aside: equal as text, or number by number as decimals.
    """
    left, right = _lines(printed), _lines(expected)
    if left == right:
        return True
    if tolerance is None:
        return False
    if tolerance == 0:
        left, right = ([line.strip() for line in text.strip().split("\n")] for text in (printed, expected))
        return len(left) == len(right) and all(map(_same_numbers, left, right))
    left_words, right_words = printed.split(), expected.split()
    return len(left_words) == len(right_words) and all(
        a == b or _close_text(a, b, tolerance) for a, b in zip(left_words, right_words, strict=True)
    )


def same_value(value: str, expected: str, tolerance: float | None = None) -> bool:
    """Two reprs: equal as literals (1 == 1.0, but "1" != 1 and (1,) != [1]), else equal as text."""
    if value.strip() == expected.strip():
        return True
    try:
        return _same(_literal(value), _literal(expected), tolerance)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError, OverflowError):
        return False


def _literal(text: str) -> Any:
    if len(text) > _LARGEST_LITERAL:
        raise ValueError("too long")
    return ast.literal_eval(text.strip())


def _same(a: Any, b: Any, tolerance: float | None) -> bool:
    if tolerance is None:
        return bool(a == b)
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return a == b or math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)
    if isinstance(a, (list, tuple)) and type(a) is type(b) and len(a) == len(b):
        return all(_same(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return all(_same(a[key], b[key], tolerance) for key in a)
    return bool(a == b)


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _same_numbers(a: str, b: str) -> bool:
    """Equal as text, or as decimals, however many digits: 1.50 is 1.5, and no two large integers are the same."""
    if a == b:
        return True
    try:
        return [Decimal(word) for word in a.split()] == [Decimal(word) for word in b.split()]
    except InvalidOperation:
        return False


def _close_text(a: str, b: str, tolerance: float) -> bool:
    try:
        return math.isclose(float(a), float(b), rel_tol=tolerance, abs_tol=tolerance)
    except ValueError:
        return False
