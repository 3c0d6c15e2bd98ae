"""Cheap comparison of short answers: a normal form of the text, and exact rational numbers.

Decides most pairs in microseconds. `rational` reads plain numbers only and never evaluates anything; what it does not
understand goes to the symbolic check. Digits and exponents are bounded, so no answer can make it work for long.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

_LONGEST_NUMBER = 400
_LARGEST_EXPONENT = 400
_WRAPPERS = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|operatorname|mbox)\s*\{([^{}]*)\}")
_SPACING = re.compile(r"\\[,;:!> ]|\\(?:quad|qquad|displaystyle|limits)(?![A-Za-z])|~")
_SIZES = re.compile(r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])\.?")
_CHARACTERS = str.maketrans(
    {
        "−": "-",
        "–": "-",
        "—": "-",
        "×": "*",
        "·": "*",
        "⋅": "*",
        "÷": "/",
        "⁄": "/",
        "’": "'",
        "，": ",",
        "（": "(",
        "）": ")",
    }
)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_SUPERSCRIPT_RUN = re.compile(r"[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_THOUSANDS = re.compile(r"^([+-]?\d{1,3})((?:(?:,|\{,\})\d{3})+)(\.\d+)?$")
_DECIMAL = re.compile(r"^[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,4})?$")
_SCIENTIFIC = re.compile(r"^([+-]?(?:\d+(?:\.\d*)?|\.\d+)?)(?:\\times|\\cdot|\*)?10\^\{?([+-]?\d{1,4})\}?$")
_REPEATING = re.compile(r"^([+-]?)(\d*)\.(\d*)\\overline\{?(\d{1,40})\}?$")
_FRAC = re.compile(r"^([+-]?)(\d+)?\\[dtc]?frac(?:\{([^{}]+)\}|(\d))(?:\{([^{}]+)\}|(\d))$")
_SLASH = re.compile(r"^([+-]?[^/]+)/([^/]+)$")


def normal(text: str) -> str:
    """Text without markup that does not change its meaning; case is kept."""
    text = _SUPERSCRIPT_RUN.sub(lambda run: "^{" + run.group().translate(_SUPERSCRIPTS) + "}", text)
    text = unicodedata.normalize("NFKC", text.translate(_CHARACTERS)).translate(_CHARACTERS)
    text = text.strip()
    for mark in ("$$", "$", "\\(", "\\)", "\\[", "\\]"):
        text = text.removeprefix(mark).removesuffix(mark) if mark.startswith("$") else text.replace(mark, "")
    text = _SIZES.sub("", _SPACING.sub(" ", text))
    for _ in range(4):
        text, count = _WRAPPERS.subn(r"\1", text)
        if not count:
            break
    text = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", text)
    text = re.sub(r"\\varnothing(?![A-Za-z])|∅|\\\{\s*\\\}", r"\\emptyset", text)
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z])|°", "", text)
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"\s*([^\w\s\\])\s*", r"\1", text)
    text = re.sub(r"\s*\\(times|cdot)\s*(?=\d)", r"\\\1", text)
    if text.endswith(".") and not text.endswith(".."):
        text = text[:-1]
    return text


def rational(text: str) -> Fraction | None:
    """The exact value of a plain number in normal form (integer, decimal, thousands, fraction, mixed number,
    scientific, repeating; optionally a dollar sign), or None for anything else.
    """
    text = text.replace(" ", "").replace("\\$", "").lstrip("$")
    if not text or len(text) > _LONGEST_NUMBER:
        return None
    grouped = _THOUSANDS.match(text)
    if grouped:
        text = re.sub(r"[,{}]", "", text)
    if _DECIMAL.match(text) and text.isascii():
        exponent = re.search(r"[eE]([+-]?\d+)$", text)
        if exponent and abs(int(exponent.group(1))) > _LARGEST_EXPONENT:
            return None
        return Fraction(text)
    repeating = _REPEATING.match(text)
    if repeating:
        sign, whole, fixed, period = repeating.groups()
        shown = Fraction(int(whole + fixed or 0), 10 ** len(fixed))
        tail = Fraction(int(period), 10 ** len(fixed) * (10 ** len(period) - 1))
        return (-1 if sign == "-" else 1) * (shown + tail)
    scientific = _SCIENTIFIC.match(text)
    if scientific and text.isascii():
        exponent = int(scientific.group(2))
        if abs(exponent) > _LARGEST_EXPONENT:
            return None
        lead = scientific.group(1)
        return (Fraction(lead + "1") if lead in ("", "+", "-") else Fraction(lead)) * Fraction(10) ** exponent
    fraction = _FRAC.match(text)
    if fraction:
        sign, whole, *parts = fraction.groups()
        top, bottom = rational(parts[0] or parts[1]), rational(parts[2] or parts[3])
        if top is None or not bottom:
            return None
        return (-1 if sign == "-" else 1) * (Fraction(int(whole or 0)) + top / bottom)
    slash = _SLASH.match(text)
    if slash:
        top, bottom = rational(slash.group(1)), rational(slash.group(2))
        return None if top is None or not bottom else top / bottom
    if len(text) > 2 and text[0] in "({" and text[-1] == {"(": ")", "{": "}"}[text[0]]:
        return rational(text[1:-1])
    return None


def percent(text: str) -> Fraction | None:
    """The number before a percent sign, as written (50 for 50%), or None."""
    for sign in ("\\%", "%", " percent", "percent"):
        if text.endswith(sign):
            return rational(text[: -len(sign)])
    return None
