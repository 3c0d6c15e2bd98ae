"""Text to comparable tokens: what must not matter is removed, what makes a different problem is kept.

Removed: Unicode compatibility forms (NFKC), case, white space and line wrapping, Markdown and LaTeX dress, punctuation
of prose. Kept: words, numbers, and the operators of a formula (`6a+4` and `6a-4` are different problems). CJK text
has no word breaks, so each character is a token. The level names and their order follow the decontamination practice
of the GPT-3 (arXiv 2005.14165, app. C) and Qwen reports; keeping operators is ours, for short formula-like items.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_DIGITS = r"\d+(?:\.\d+)?"
_TOKEN = re.compile(rf"[{CJK}]|{_DIGITS}|[^\W\d_{CJK}]+|[+\-*/=<>^%&|!~()\[\]≤≥≠±√∑∫→]")
_FAST_TOKEN = re.compile(rf"{_DIGITS}|[a-z]+|[+\-*/=<>^%&|!~()\[\]]")
# 1,234 is one number with a separator; 3,4,5 is a list.
_PUNCTUATED_NUMBER = re.compile(r"\d[.,]\d")
_MARKED_NUMBER = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?|(?<![\d.])\d+\.\d+(?![\d.]*\.\d)")
_OPERATOR = re.compile(r"[+\-*/=<>^%&|!~()\[\]≤≥≠±√∑∫→]")
_OPERATORS = frozenset("+-*/=<>^%&|!~()[]≤≥≠±√∑∫→")

_LATEX_FRACTION = re.compile(r"\\[dtc]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_LATEX_SHORT_FRACTION = re.compile(r"\\[dtc]?frac\s*(\d)\s*(\d)")
_LATEX_OPERATOR = {
    "cdot": "*",
    "times": "*",
    "ast": "*",
    "div": "/",
    "le": "≤",
    "leq": "≤",
    "leqslant": "≤",
    "ge": "≥",
    "geq": "≥",
    "geqslant": "≥",
    "ne": "≠",
    "neq": "≠",
    "pm": "±",
    "to": "→",
    "rightarrow": "→",
    "land": "&",
    "wedge": "&",
    "lor": "|",
    "vee": "|",
    "neg": "~",
    "lnot": "~",
    "sqrt": "√",
    "sum": "∑",
    "int": "∫",
}
_LATEX_DRESS_NAMES = """
left right big bigl bigr Big Bigl Bigr bigg biggl biggr text textbf textit textrm texttt emph mathrm mathbf mathit
mathsf mathcal operatorname displaystyle textstyle quad qquad hspace vspace limits nolimits boxed mbox hbox begin
end item label tag
"""
_LATEX_DRESS = frozenset(_LATEX_DRESS_NAMES.split())
_LATEX_COMMAND = re.compile(r"\\([a-zA-Z]+)\*?")
_LATEX_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{[^{}]*\}")
_LATEX_SPACING = re.compile(r"\\[,;:! ]|\\\\|~")
_MARKDOWN_LINK = re.compile(r"!?\[([^\]]*)\]\([^)\s]*\)")
_MARKDOWN_FENCE = re.compile(r"^\s*(?:```|~~~)\w*\s*$", re.MULTILINE)
_MARKDOWN_LINE = re.compile(r"^\s*(?:#{1,6}\s+|>\s+|[-*+]\s+(?=\S))", re.MULTILINE)
_MARKDOWN_EMPHASIS = re.compile(
    r"\*{2,3}(\S(?:[^*\n]*\S)?)\*{2,3}|__(\S(?:[^_\n]*\S)?)__|(?<![\w*])\*(\w[^*\n]*\w)\*(?![\w*])"
)
_HYPHENATION = re.compile(r"(?<=[a-z]{2})-\s*\n\s*(?=[a-z]{2})")


def _command(match: re.Match[str]) -> str:
    name = match.group(1)
    return f" {_LATEX_OPERATOR[name]} " if name in _LATEX_OPERATOR else " " if name in _LATEX_DRESS else f" {name} "


def plain(text: str) -> str:
    """NFKC and lower case, with Markdown and LaTeX dress stripped; `\\frac{a}{b}` becomes `a/b`."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    if "\\" in text:
        text = _LATEX_ENVIRONMENT.sub(" ", text)
        for _ in range(3):  # nested fractions, inner first
            text, changed = _LATEX_FRACTION.subn(r" \1/\2 ", text)
            if not changed:
                break
        text = _LATEX_SHORT_FRACTION.sub(r" \1/\2 ", text)
        text = _LATEX_SPACING.sub(" ", text)
        text = _LATEX_COMMAND.sub(_command, text)
    if "](" in text:
        text = _MARKDOWN_LINK.sub(r"\1", text)
    if "```" in text or "~~~" in text:
        text = _MARKDOWN_FENCE.sub(" ", text)
    if "*" in text or "__" in text:
        text = _MARKDOWN_EMPHASIS.sub(lambda found: found.group(1) or found.group(2) or found.group(3), text)
    if "\n" in text:
        text = _MARKDOWN_LINE.sub("", text)
        if "-" in text:
            text = _HYPHENATION.sub("", text)
    return text.casefold()


def _canonical_number(match: re.Match[str]) -> str:
    number = match.group().replace(",", "")
    return number.rstrip("0").rstrip(".") if "." in number else number


def tokens(text: str) -> list[str]:
    """Comparable tokens of a text: words, numbers (thousands separators removed), formula operators, CJK characters.

    An operator counts only beside a number, a single letter or another operator, so hyphens and exclamation marks of
    prose do not.
    """
    text = plain(text)
    if _PUNCTUATED_NUMBER.search(text):
        text = _MARKED_NUMBER.sub(_canonical_number, text)
    found = (_FAST_TOKEN if text.isascii() else _TOKEN).findall(text)
    if not _OPERATOR.search(text):
        return found
    last = len(found) - 1
    kept = []
    for position, token in enumerate(found):
        if token in _OPERATORS:
            before = found[position - 1] if position else ""
            after = found[position + 1] if position < last else ""
            if not (_formula(before) or _formula(after)):
                continue
        kept.append(token)
    return kept


def _formula(token: str) -> bool:
    return len(token) == 1 or (token[:1].isdigit())


def is_number(token: str) -> bool:
    return token[:1].isdigit()


def is_formula_token(token: str) -> bool:
    """A number, an operator or a one-letter name (not the articles of English prose)."""
    return is_number(token) or (len(token) == 1 and token.isascii() and token not in "ai") or token in _OPERATORS


def is_operator(token: str) -> bool:
    return token in _OPERATORS


def formula_like(found: Sequence[str]) -> bool:
    """Mostly numbers, operators and one-letter names: there every symbol counts and synonyms do not exist."""
    return 2 * sum(map(is_formula_token, found)) >= len(found)


def masked(found: list[str]) -> tuple[str, ...]:
    """The template of a token list: numbers replaced by `#`."""
    return tuple("#" if is_number(token) else token for token in found)


PROSE_WORDS = 5


def is_prose(found: Sequence[str]) -> bool:
    """Enough real words for a paraphrase to exist; symbols and codes have no synonyms."""
    words = sum(len(token) >= 3 and token.isalpha() for token in found)
    cjk = sum(not token.isascii() and len(token) == 1 for token in found)
    return (words >= PROSE_WORDS or cjk >= 2 * PROSE_WORDS) and not formula_like(found)


_UNITS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen twenty
"""
_NUMBER_WORDS = {word: str(value) for value, word in enumerate(_UNITS.split())} | {
    "thirty": "30",
    "forty": "40",
    "fifty": "50",
    "sixty": "60",
    "seventy": "70",
    "eighty": "80",
    "ninety": "90",
    "hundred": "100",
    "thousand": "1000",
    "dozen": "12",
    "twice": "2",
    "thrice": "3",
    "half": "0.5",
}


def numbers(found: list[str]) -> frozenset[str]:
    """The numbers of a text, number words included; `one` is left out because it is mostly a pronoun."""
    values = {token for token in found if is_number(token)}
    values.update(_NUMBER_WORDS[token] for token in found if token in _NUMBER_WORDS)
    values.discard("1")
    return frozenset(values)
