"""The part of a response that is judged: the answer in the last box, or the program in the last code block.

Only what follows the end of the reasoning counts, so that a guess inside it earns nothing. The reward of the paper is
the boxed answer alone; the usual fallbacks (a last line "answer: ...", the last number) are there for benchmarks whose
prompts do not ask for a box, and are off unless named.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Literal

Fallback = Literal["answer-line", "last-number"]

_END = "</think>"
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_FENCE = re.compile(r"^[ \t]*(```+|~~~+)[ \t]*([^\n`]*)\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
_ANSWER_LINE = re.compile(r"(?:final\s+)?answer\s*(?:is\s*:|is|:|=)\s*(.+?)\s*$", re.IGNORECASE | re.MULTILINE)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?")


def final_text(response: str) -> str | None:
    """What follows the last `</think>`; the whole response when it has no reasoning; None when reasoning never ends."""
    if _END in response:
        return response.rpartition(_END)[2]
    return None if "<think>" in response else response


def last_boxed(text: str) -> str | None:
    """Content of the last `\\boxed{...}`, braces balanced; None without a box, or when the last is empty or unclosed.

    Of nested boxes the innermost of the last counts.
    """
    starts = [match.end() for match in _BOX.finditer(text)]
    if not starts:
        return None
    depth, position, start = 1, starts[-1], starts[-1]
    while position < len(text):
        character = text[position]
        if character == "\\":
            position += 2
            continue
        if character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return text[start:position].strip() or None
        position += 1
    return None


def answer(response: str, fallbacks: Collection[Fallback] = ()) -> str | None:
    """The answer of a response, or None."""
    text = final_text(response)
    if text is None:
        return None
    found = last_boxed(text)
    if found is None and "answer-line" in fallbacks:
        lines = _ANSWER_LINE.findall(text)
        found = lines[-1].strip().rstrip(".") if lines else None
    if found is None and "last-number" in fallbacks:
        numbers = _NUMBER.findall(text)
        found = numbers[-1] if numbers else None
    return found or None


def program(response: str) -> str | None:
    """The last code block after the reasoning; the whole text there when it has no fence; None without text."""
    text = final_text(response)
    if text is None:
        return None
    blocks = _FENCE.findall(text)
    source = blocks[-1][2] if blocks else text
    return source.strip("\n") + "\n" if source.strip() else None
