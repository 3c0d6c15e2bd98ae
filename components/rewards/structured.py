"""Answers with a structure: a letter of a choice, grids of digits (ARC), a table of cells (logic grid puzzles).

choice: {"answer": "B", "options": 4}. grid: {"grids": [[[0, 1], ...], ...]}, the value is the share of grids that are
right in every cell. table: {"table": {row: {column: cell}}}, the value is 1 when every cell is right; evidence has the
share of right cells. What cannot be read is `no-answer`, never an error: the response is to blame.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from components.failures import BadInput
from components.rewards import extract
from components.rewards.types import Reward, RewardRequest

STRUCTURED = frozenset({"choice", "grid", "table"})
_FENCED = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)
_LETTER = re.compile(r"^\(?([A-Z])\)?(?![A-Za-z])")
_SAID = re.compile(r"answer\s*(?:is)?\s*[:\s]\s*\**\s*[($]?([A-Z])[)$]?(?![A-Za-z])", re.IGNORECASE)


def structured_reward(request: RewardRequest) -> Reward:
    """The reward for a verifier of kind choice, grid or table. Raises BadInput for a malformed reference."""
    text = extract.final_text(request.response)
    if text is None or not text.strip():
        return _no_answer(request)
    kind, reference = request.verifier.kind, request.verifier.reference
    return {"choice": _choice, "grid": _grid, "table": _table}[kind](text, reference, request)


def _choice(text: str, reference: Mapping[str, Any], request: RewardRequest) -> Reward:
    expected = str(_needed(reference, "answer")).strip().upper()
    boxed = extract.last_boxed(text)
    found = (
        _LETTER.match(re.sub(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}", r"\1", boxed).strip())
        if boxed
        else None
    )
    if found is None:
        said = _SAID.findall(text)
        letter = said[-1].upper() if said else None
    else:
        letter = found.group(1)
    if letter is None or ord(letter) - ord("A") >= int(reference.get("options", 26)):
        return _no_answer(request)
    return Reward(float(letter == expected), "correct" if letter == expected else "wrong", {"answer": letter})


def _grid(text: str, reference: Mapping[str, Any], request: RewardRequest) -> Reward:
    expected = _needed(reference, "grids")
    answer = _last_json(text, list)
    grids = [answer] if len(expected) == 1 and _is_grid(answer) else answer
    if not isinstance(grids, list) or not grids or not all(_is_grid(grid) for grid in grids):
        return _no_answer(request)
    right = [given == wanted for given, wanted in zip(grids, expected, strict=False)][: len(expected)]
    value = sum(right) / len(expected)
    verdict = "correct" if value == 1 else "scored" if value else "wrong"
    return Reward(value, verdict, {"right": right, "shapes": [[len(g), len(g[0])] for g in grids]})


def _table(text: str, reference: Mapping[str, Any], request: RewardRequest) -> Reward:
    expected = _needed(reference, "table")
    answer = _last_json(text, dict)
    if isinstance(answer, dict) and isinstance(answer.get("solution"), dict):
        answer = answer["solution"]
    if not isinstance(answer, dict):
        return _no_answer(request)
    rows = {_plain(name): row for name, row in answer.items() if isinstance(row, dict)}
    cells = [(name, column, cell) for name, row in expected.items() for column, cell in row.items()]
    right = 0
    for name, column, cell in cells:
        row = {_plain(key): value for key, value in rows.get(_plain(name), {}).items()}
        given = row.get(_plain(column))
        given = given[0] if isinstance(given, list) and len(given) == 1 else given
        right += given is not None and _plain(given) == _plain(cell)
    solved = right == len(cells)
    return Reward(float(solved), "correct" if solved else "wrong", {"cells": right / len(cells)})


def _last_json(text: str, kind: type) -> Any:
    """The last value of this kind in a code block, else the last that starts anywhere in the text; None without one."""
    for block in reversed(_FENCED.findall(text)):
        try:
            value = json.loads(block)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, kind):
            return value
    decoder, opening, found, position = json.JSONDecoder(), "[" if kind is list else "{", None, 0
    while (position := text.find(opening, position)) >= 0:
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            position += 1
            continue
        if isinstance(value, kind):
            found = value
    return found


def _is_grid(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(row, list) and row and all(type(cell) is int for cell in row) for row in value)
    )


def _plain(value: Any) -> str:
    return " ".join(str(value).casefold().replace("_", " ").split())


def _needed(reference: Mapping[str, Any], field: str) -> Any:
    if not reference.get(field):
        raise BadInput(f"no {field}", where=f"verifier.reference.{field}")
    return reference[field]


def _no_answer(request: RewardRequest) -> Reward:
    return Reward(0.0, "no-answer", {"truncated": request.truncated})
