"""Words, tokens, sentences and the language of a text, as verifiable instructions count them.

The reference implementations of IFEval and IFBench count with NLTK (punkt sentences, Penn Treebank tokens) and
langdetect. Their models are not part of this project's environment; what stands here follows the same rules without
trained parameters, and docs/rewards.md says how often the two agree on real answers.
"""

from __future__ import annotations

import re
from functools import cache

import regex


def word_set(text: str) -> frozenset[str]:
    """The words of a list that is written as text."""
    return frozenset(text.split())


# What ends in a full stop inside a sentence. Titles are followed by names; the others by anything.
_TITLES = word_set(
    """
    mr mrs ms dr prof st rev hon gen col lt sgt capt jr sr messrs gov sen rep adm maj
    """
)
_ABBREVIATIONS = word_set(
    """
    e.g i.e etc vs cf al approx inc ltd co corp dept est fig figs no vol pp p ch sec ed eds ph.d m.d b.a m.a
    a.m p.m u.s u.k u.n d.c jan feb mar apr jun jul aug sep sept oct nov dec mt ft ave blvd
    """
)
_STARTERS = word_set(
    """
    the a an i he she it we they you this that these those there here in on at for from with by but and so as
    if when while after before however although because what why how who where each our my his her its their
    your then
    """
)
_END = re.compile(r"([.!?]+)([\"'”’)\]]*)(\s+)(?=(\S+))")

_CONTRACTION = re.compile(r"(?i)(n't|'(?:s|m|d|ll|re|ve))$")
_LONGEST_WORD = 40
_EDGE = "\"'“”‘’`*_~#<>()[]{}.,;:!?%$&@|…—"

EMOJI = regex.compile(r"[\p{Emoji_Presentation}\p{Extended_Pictographic}\p{Regional_Indicator}]")


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores."""
    return re.findall(r"\w+", text)


def tokens(text: str) -> list[str]:
    """Words and marks apart, contractions split (`don't` -> `do`, `n't`), hyphenated words whole."""
    found: list[str] = []
    for piece in text.replace("--", " -- ").split():
        first, last = 0, len(piece)
        while first < last and piece[first] in _EDGE and not (first == 0 and _CONTRACTION.fullmatch(piece)):
            first += 1
        while first < last and piece[last - 1] in _EDGE and not _is_abbreviation(piece[first:last][-_LONGEST_WORD:]):
            last -= 1
        found += [*piece[:first], *_inner_tokens(piece[first:last]), *piece[last:]]
    return found


def _inner_tokens(piece: str) -> list[str]:
    """Of a piece without marks at its ends: a number is one token, marks inside divide, a contraction is split off."""
    if not piece or re.fullmatch(r"[\d.,:]+", piece):
        return [piece] if piece else []
    found = []
    for part in re.split(r"([,;:?!()\[\]{}<>\"&@#$%]+)", piece):
        match = _CONTRACTION.search(part[-4:])
        if match and len(part) > len(match.group()):
            found += [part[: -len(match.group())], match.group()]
        elif part:
            found.append(part)
    return found


def _is_abbreviation(piece: str) -> bool:
    """`U.S.`, `e.g.`, `J.`: the full stop belongs to the word."""
    if not piece.endswith(".") or piece.endswith(".."):
        return False
    body = piece[:-1].casefold()
    return body in _TITLES or re.fullmatch(r"(?:[a-z]\.)+[a-z]", body) is not None


def sentences(text: str) -> list[str]:
    """The sentences of a text, stripped.

    One ends at `.`, `!` or `?` (with closing quotes and brackets) before white space, unless the full stop closes an
    abbreviation or an initial, or the next word goes on in lower case. As in punkt the number of a list item (`1.`)
    ends what stands before it.
    """
    found, start = [], 0
    for match in _END.finditer(text):
        if _ends_sentence(text, start, match):
            found.append(text[start : match.end(2)].strip())
            start = match.end()
    found.append(text[start:].strip())
    return [sentence for sentence in found if sentence]


def _ends_sentence(text: str, start: int, match: re.Match[str]) -> bool:
    marks, following = match.group(1), match.group(4)
    first = following.lstrip("\"'“‘([{*_")[:1]
    if "!" in marks or "?" in marks:
        return True
    before = text[max(start, match.start() - _LONGEST_WORD) : match.start()].split()
    written = before[-1].lstrip("\"'“‘([{*_") if before else ""
    word = written.casefold()
    if len(marks) > 1:
        return first.isupper()
    if first.islower():
        return False
    if word in _TITLES or re.fullmatch(r"[A-Z]", written):
        return False
    if word in _ABBREVIATIONS or re.fullmatch(r"(?:[a-z]\.)+[a-z]", word):
        return re.sub(r"\W", "", following).casefold() in _STARTERS
    return True


@cache
def _identifier():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def language(text: str) -> str | None:
    """The ISO 639-1 code of a text's language; None for one without letters."""
    if not any(character.isalpha() for character in text):
        return None
    return _identifier().classify(text.casefold())[0]


def count_stop_words(text: str) -> int:
    return sum(word.casefold() in STOP_WORDS for word in words(text))


# The function words of English, in the forms that a split at non-word characters leaves (`don't` -> don, t).
STOP_WORDS = word_set(
    """
    i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her hers
    herself it its itself they them their theirs themselves what which who whom this that these those am is
    are was were be been being have has had having do does did doing a an the and but if or because as until
    while of at by for with about against between into through during before after above below to from up down
    in out on off over under again further then once here there when where why how all any both each few more
    most other some such no nor not only own same so than too very s t can will just don should now d ll m o
    re ve y ain aren couldn didn doesn hadn hasn haven isn ma mightn mustn needn shan shouldn wasn weren won
    wouldn
    """
)
