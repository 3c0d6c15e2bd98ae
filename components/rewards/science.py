"""Science answers: a number within a tolerance, in the unit that was asked for or one that converts to it.

reference: {"answer": str, "tolerance": float?, "unit": str?}. The tolerance is relative to the reference (absolute
when it is 0); without one the numbers must agree to 1e-6. A missing unit is forgiven, a wrong one is not. References
that are not numbers are compared as math answers are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from components.rewards.math import quick_equal
from components.rewards.normalise import normal, percent, rational

DEFAULT_TOLERANCE = 1e-6
_NUMBER = re.compile(
    r"^((?:[A-Za-z]\w*=)?)([+-]?(?:\\frac\{[^{}]+\}\{[^{}]+\}|\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+)"
    r"(?:[eE][+-]?\d+|(?:\\times|\\cdot|\*)10\^\{?[+-]?\d+\}?|/\d+(?:\.\d+)?)?)(.*)$"
)
_PREFIXES = {"n": -9, "μ": -6, "u": -6, "m": -3, "c": -2, "d": -1, "": 0, "k": 3, "M": 6, "G": 9}
_SI = {"m": "m", "s": "s", "g": "g", "J": "J", "W": "W", "V": "V", "A": "A", "N": "N", "Pa": "Pa", "Hz": "Hz", "C": "C",
       "L": "L", "mol": "mol", "eV": "eV", "T": "T", "F": "F", "Ω": "Ω", "ohm": "Ω", "K": "K"}  # fmt: skip
_OTHERS = {
    "min": ("s", Fraction(60)), "h": ("s", Fraction(3600)), "hr": ("s", Fraction(3600)), "day": ("s", Fraction(86400)),
    "t": ("g", Fraction(10**6)), "bar": ("Pa", Fraction(10**5)), "atm": ("Pa", Fraction(101325)),
    "cal": ("J", Fraction("4.184")), "kcal": ("J", Fraction(4184)), "kWh": ("J", Fraction(3_600_000)),
    "Å": ("m", Fraction(1, 10**10)), "km/h": ("m/s", Fraction(1000, 3600)), "kmh": ("m/s", Fraction(1000, 3600)),
    "cm^2": ("m^2", Fraction(1, 10**4)), "mm^2": ("m^2", Fraction(1, 10**6)), "km^2": ("m^2", Fraction(10**6)),
    "cm^3": ("m^3", Fraction(1, 10**6)), "mL": ("m^3", Fraction(1, 10**6)), "L": ("m^3", Fraction(1, 1000)),
    "dm^3": ("m^3", Fraction(1, 1000)),
}  # fmt: skip
_NAMES = {
    "meter": "m", "metre": "m", "second": "s", "sec": "s", "gram": "g", "kilogram": "kg", "joule": "J", "watt": "W",
    "volt": "V", "ampere": "A", "amp": "A", "newton": "N", "pascal": "Pa", "hertz": "Hz", "coulomb": "C", "liter": "L",
    "litre": "L", "mole": "mol", "kelvin": "K", "minute": "min", "hour": "h", "kilometer": "km", "kilometre": "km",
    "centimeter": "cm", "centimetre": "cm", "millimeter": "mm", "degree": "", "degrees": "",
}  # fmt: skip


def science_equal(answer: str, reference: Mapping[str, Any]) -> bool | None:
    """True or False when it can be decided here; None when symbols have to be compared."""
    expected = str(reference["answer"])
    wanted = _quantity(expected)
    if wanted is None:
        return quick_equal(answer, expected)
    given = _quantity(answer)
    if given is None:
        return quick_equal(answer, expected)
    value, unit = wanted
    unit = _unit(str(reference.get("unit") or "")) or unit
    number, own = given
    if own and unit and own != unit:
        factor = _factor(own, unit)
        if factor is None:
            return False
        number *= factor
    elif own and not unit and own != "%":
        return False
    tolerance = Fraction(str(reference.get("tolerance") or DEFAULT_TOLERANCE))
    return abs(number - value) <= tolerance * (abs(value) or 1)


def _quantity(text: str) -> tuple[Fraction, str] | None:
    """The number and the unit of a text such as `3.0\\times10^8 \\text{m/s}`."""
    text = normal(text)
    share = percent(text)
    if share is not None:
        return share, "%"
    match = _NUMBER.match(re.sub(r"(?<=\d) (?=\d{3}\b)", "", text.replace(" \\", "\\").replace("\\ ", " ")))
    if match is None:
        return None
    value = rational(match.group(2))
    rest = match.group(3).strip()
    if value is None or re.match(r"^[\d(+\-\\^=<>,]", rest.replace("\\Omega", "Ω").replace("\\mu", "μ")):
        return None
    return value, _unit(rest)


def _unit(text: str) -> str:
    text = normal(text).replace("\\Omega", "Ω").replace("\\mu", "μ").replace("\\cdot", "*").replace("µ", "μ")
    text = re.sub(r"\^\{([^{}]*)\}", r"^\1", text).replace("{", "").replace("}", "").replace("\\", "")
    text = text.replace("²", "^2").replace("³", "^3")
    word = text.casefold()
    for name in (word, word.removesuffix("s")):
        if name in _NAMES:
            return _NAMES[name]
    text = re.sub(r"\s*per\s*", "/", text)
    text = re.sub(r"[\s*]s\^-1$", "/s", text)
    text = re.sub(r"[\s*]s\^-2$", "/s^2", text)
    return re.sub(r"\s+", "*", text.strip())


def _factor(own: str, wanted: str) -> Fraction | None:
    """What a number in `own` is multiplied by to be in `wanted`; None when they measure different things."""
    for left in _bases(own):
        for right in _bases(wanted):
            if left[0] == right[0]:
                return left[1] / right[1]
    top, _, below = own.partition("/")
    wanted_top, _, wanted_below = wanted.partition("/")
    if below and below == wanted_below:
        return _factor(top, wanted_top)
    return None


def _bases(unit: str) -> list[tuple[str, Fraction]]:
    """Readings of a unit as (base unit, factor), the table's first, then SI prefixes."""
    found = [(unit, Fraction(1))]
    if unit in _OTHERS:
        found.append(_OTHERS[unit])
    for prefix, power in _PREFIXES.items():
        base = unit[len(prefix) :]
        if unit.startswith(prefix) and base in _SI:
            found.append((_SI[base], Fraction(10) ** power))
    return found
