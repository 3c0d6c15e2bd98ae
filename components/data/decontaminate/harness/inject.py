"""Known copies: every way in which a benchmark item is known to enter training data, and siblings that must stay."""

from __future__ import annotations

import builtins
import io
import keyword
import random
import re
import textwrap
import tokenize
from collections.abc import Callable

from components.data.decontaminate.harness.paraphrase import paraphrase
from components.data.text.vocabulary import spelled

_NUMBER = re.compile(r"(?<![\w.,\\{^_$])\d+(?:,\d{3})*(?![\w%]|[.,]\d|\s*[$}^])")
_AROUND = (
    "I found this in an old exercise book and could not solve it.",
    "Here is what our teacher asked us last week.",
    "The following comes up every year, so read it slowly.",
    "Can you help me? I am stuck on the next part of my homework.",
    "Below is one of the questions of the quiz, and after it my attempt at an answer.",
)
_AFTER = (
    "Thanks a lot for any hint, I have been at it all evening.",
    "My first idea was to draw a picture, but that led nowhere.",
    "Please think step by step and put your final answer within \\boxed{}.",
    "I would also like to know where such things are used in real life.",
)


def exact(text: str, draw: random.Random) -> str:
    return text


def rewrapped(text: str, draw: random.Random) -> str:
    return "\n".join(textwrap.wrap(text, draw.choice((24, 40, 60)), break_long_words=False)) or text


def recased(text: str, draw: random.Random) -> str:
    # Upper-casing would change the names of LaTeX commands, which no copy does.
    return re.sub(r"(?<!\\)\b[A-Za-z]{2,}\b", lambda found: draw.choice((str.upper, str.title))(found.group()), text)


def latex(text: str, draw: random.Random) -> str:
    """Other LaTeX and Markdown for the same text."""
    if "\\" in text or "$" in text:
        changes = (
            (r"\\frac", r"\\dfrac"), (r"\\left(?![a-z])|\\right(?![a-z])", ""), (r"\\le(?![a-z])", r"\\leq"),
            (r"\\ge(?![a-z])", r"\\geq"), (r"\\cdot", r"\\times"), (r"\$\$(.+?)\$\$", r"\\[\1\\]"),
            (r"\$([^$]+)\$", r"\\(\1\\)"), (r"\\,|\\!", ""), (r"\\text\{([^{}]*)\}", r"\\mathrm{\1}"),
            (r"\^(\d)(?!\d)", r"^{\1}"),
        )  # fmt: skip
        for pattern, other in changes:
            text = re.sub(pattern, other, text, flags=re.DOTALL)
        return text
    text = re.sub(r"(?<![\w$.,])\d+(?:[.,]\d+)*(?![\w.,]\d)", r"$\g<0>$", text)
    words = text.split(" ")
    place = draw.randrange(len(words))
    words[place] = f"**{words[place]}**" if words[place].isalpha() else words[place]
    return " ".join(words)


def embedded(text: str, draw: random.Random) -> str:
    before, after = draw.sample(_AROUND, 2), draw.sample(_AFTER, 2)
    return f"{' '.join(before)}\n\n{text}\n\n{' '.join(after)}"


def number_words(text: str, draw: random.Random) -> str | None:
    changed = _NUMBER.sub(lambda found: _spell(found.group()), text)
    return changed if changed != text else None


def _spell(number: str) -> str:
    value = int(number.replace(",", ""))
    return spelled(value) if value < 1_000_000 else number


def edited(text: str, draw: random.Random) -> str | None:
    """A word in ten replaced by another: no 13-gram survives."""
    words = text.split(" ")
    places = [place for place, word in enumerate(words) if word.isalpha() and word.islower() and len(word) > 3]
    if len(places) < 3:
        return None
    for place in places[:: max(1, len(places) * 10 // len(words))]:
        words[place] = draw.choice(("indeed", "really", "certain", "usual", "plain"))
    return " ".join(words)


def reordered(text: str, draw: random.Random) -> str | None:
    sentences = re.split(r"(?<=[.?!])\s+", text.strip())
    if len(sentences) < 3:
        return None
    return " ".join(sentences[-1:] + sentences[:-1])


def paraphrased(text: str, draw: random.Random) -> str | None:
    changed = paraphrase(text, draw)
    return changed if changed != text else None


def renamed(text: str, draw: random.Random) -> str | None:
    """A Python program with every name it chooses replaced, docstrings and comments gone; None for other texts."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
        compile(text, "program", "exec")
    except (tokenize.TokenError, SyntaxError, ValueError, IndentationError):
        return None
    kept = {*keyword.kwlist, *dir(builtins), "self", "List", "Dict", "Tuple", "Optional", "Any", "Set", "Union"}
    imported = set(re.findall(r"\bimport\s+(\w+)|\bfrom\s+(\w+)|\bas\s+(\w+)", text))
    kept |= {name for names in imported for name in names if name}
    names: dict[str, str] = {}
    out: list[tuple[int, str]] = []
    previous = None
    for token in tokens:
        value = token.string
        if token.type == tokenize.COMMENT:
            continue
        docstring = previous in (None, tokenize.INDENT, tokenize.NEWLINE, tokenize.NL)
        if token.type == tokenize.STRING and docstring and value.startswith(('"""', "'''")):
            value = '""""""'
        if token.type == tokenize.NAME and value not in kept and (not out or out[-1][1] != "."):
            value = names.setdefault(value, f"{draw.choice(('item', 'node', 'field', 'aux'))}_{len(names)}")
        out.append((token.type, value))
        if token.type != tokenize.NL:
            previous = token.type
    return tokenize.untokenize(out)


def sibling(text: str, draw: random.Random) -> str | None:
    """The same template with other numbers: another problem."""
    changed = re.sub(r"(?<![\w.,])\d+(?![\w.,]*\d)", lambda found: str(int(found.group()) + draw.randint(3, 17)), text)
    return changed if changed != text else None


Change = Callable[[str, random.Random], str | None]
POSITIVES: dict[str, Change] = {
    "exact": exact, "re-wrapped": rewrapped, "re-cased": recased, "latex": latex, "embedded": embedded,
    "number words": number_words, "edited": edited, "reordered": reordered, "paraphrased": paraphrased,
    "renamed code": renamed,
}  # fmt: skip
NEGATIVES: dict[str, Change] = {"sibling": sibling}
