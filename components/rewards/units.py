"""Quantities: a number with the unit behind it, and what one unit is in another.

A table of SI units with their prefixes, and the others that school problems use. What is not in it is compared as text.
"""

from __future__ import annotations

import re
from fractions import Fraction

from components.rewards.normalise import normal, percent, rational

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


def quantity(text: str) -> tuple[Fraction, str] | None:
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
    return value, unit_name(rest)


def unit_name(text: str) -> str:
    """One spelling of a unit: names become symbols, markup goes, `per` is a slash."""
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


def factor(own: str, wanted: str) -> Fraction | None:
    """What a number in `own` is multiplied by to be in `wanted`; None when they measure different things."""
    for left in _bases(own):
        for right in _bases(wanted):
            if left[0] == right[0]:
                return left[1] / right[1]
    top, _, below = own.partition("/")
    wanted_top, _, wanted_below = wanted.partition("/")
    if below and below == wanted_below:
        return factor(top, wanted_top)
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


def known(unit: str) -> bool:
    """Whether the table knows a unit, alone or over another."""
    return all(len(_bases(part)) > 1 or part in _SI.values() for part in unit.split("/"))
