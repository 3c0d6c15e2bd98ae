"""The layouts people's records have, how a file's layout is found, and what its rows become.

Detection looks at the first records only and asks each layout whether its required keys are there; a file that fits
none is a BadInput that shows the first record and the nearest layout with what it lacks. The parsers stand in
components.data.parsers and reply_parsers, what a split takes of a row in components.data.records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.data import parsers, reply_parsers
from components.data.messages import MESSAGE_KEYS, ROLES
from components.data.parsers import ANSWER_KEYS, PROBLEM_KEYS, PROMPT_KEYS, RESPONSE_KEYS, SOLUTION_KEYS, first
from components.data.row import LeftOut, Malformed, Row, shown
from components.failures import BadInput
from components.recipe.data import Split

__all__ = ["LAYOUTS", "MESSAGE_KEYS", "PROBLEM_KEYS", "PROMPT_KEYS", "ROLES", "Layout", "detect", "shown"]


@dataclass(frozen=True)
class Layout:
    """`needs`: for each required part, the keys that can hold it."""

    name: str
    needs: tuple[tuple[str, tuple[str, ...]], ...]
    parse: Callable[[Mapping[str, Any]], list[Row]]

    def missing(self, row: Mapping[str, Any]) -> list[str]:
        return [f"{part} ({' | '.join(keys)})" for part, keys in self.needs if first(row, keys) is None]


def _only(*keys: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple((key, (key,)) for key in keys)


_PROMPT = ("prompt", PROMPT_KEYS)
_PROBLEM = ("problem", PROBLEM_KEYS)
_ASKED = ("prompt", (*PROMPT_KEYS, *MESSAGE_KEYS, "problem", "question"))
_REPLIES = ("replies", reply_parsers.REPLIES_KEYS)

LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("preference", _only("chosen", "rejected"), reply_parsers.parse_preference),
        Layout("message-tree", _only("text", "role", "replies"), reply_parsers.parse_tree),
        Layout("ranked", (_ASKED, _REPLIES), reply_parsers.parse_ranked),
        Layout("grids", _only("train", "test"), parsers.parse_grids),
        Layout("code-tests", (_PROBLEM, ("tests", parsers.TEST_KEYS)), parsers.parse_code_tests),
        Layout("problem-answer", (_PROBLEM, ("answer", (*ANSWER_KEYS, *SOLUTION_KEYS))), parsers.parse_problem_answer),
        Layout("labelled", (("messages", MESSAGE_KEYS), ("label", ("label",))), parsers.parse_labelled),
        Layout("sharegpt", (("conversations", ("conversations", "conversation")),), parsers.parse_messages),
        Layout("messages", (("messages", ("messages",)),), parsers.parse_messages),
        Layout("alpaca", _only("instruction", "output"), parsers.parse_prompt_response),
        Layout("prompt-response", (_PROMPT, ("response", RESPONSE_KEYS)), parsers.parse_prompt_response),
        Layout("text", (("text", parsers.TEXT_KEYS),), parsers.parse_text),
    )
}

# Which layouts can become a record of a split, best first.
SPLIT_LAYOUTS: Mapping[str, tuple[str, ...]] = {
    "pretrain": ("message-tree", "text", "messages", "sharegpt", "alpaca", "prompt-response", "problem-answer"),
    "sft": (
        "message-tree",
        "labelled",
        "messages",
        "sharegpt",
        "alpaca",
        "prompt-response",
        "problem-answer",
        "ranked",
    ),
    "rl": ("code-tests", "grids", "problem-answer"),
    "preference": ("preference", "message-tree", "ranked"),
    "benchmark": ("code-tests", "grids", "problem-answer"),
}
# Of two equally near layouts the one that asks for less is the likelier intention: these are rare.
_RARE = frozenset({"code-tests", "grids", "message-tree", "labelled", "ranked"})


def detect(rows: Sequence[Mapping[str, Any]], purpose: Split | str, where: str) -> Layout:
    """The layout most of the first records fit, among those the split can use. Raises BadInput when none does."""
    allowed = [LAYOUTS[name] for name in SPLIT_LAYOUTS[purpose]]
    fitting = [(sum(_fits(layout, row) for row in rows), -rank, layout) for rank, layout in enumerate(allowed)]
    best = max(fitting, key=lambda entry: entry[:2])
    if best[0] * 2 > len(rows):
        return best[2]
    shown_first = rows[0] if rows else {}
    nearest = min(
        allowed, key=lambda layout: (len(layout.missing(shown_first)) / len(layout.needs), layout.name in _RARE)
    )
    lacking = nearest.missing(shown_first)
    reason = f"lacks {', '.join(lacking)}" if lacking else _complaint(nearest, shown_first)
    raise BadInput(
        f"the layout is unknown for split {purpose}; first record: {shown(shown_first)}; "
        f"nearest layout: {nearest.name}, which {reason}",
        where=where,
        remedy=f"Say where the parts are (`fields`), or name the layout ({', '.join(SPLIT_LAYOUTS[purpose])})",
    )


def _fits(layout: Layout, row: Mapping[str, Any]) -> bool:
    if layout.missing(row):
        return False
    try:
        layout.parse(row)
    except Malformed:
        return False
    except LeftOut:
        return True
    return True


def _complaint(layout: Layout, row: Mapping[str, Any]) -> str:
    try:
        layout.parse(row)
    except Malformed as error:
        return f"stumbles at {error.field}: {error}"
    except LeftOut as error:
        return f"leaves the first record out: {error}"
    return "fits the first record, but not most of the following ones"
