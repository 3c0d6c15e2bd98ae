"""Parsers of records that hold several replies to one prompt, of which one is better: chosen and rejected, scored or
ranked lists, message trees. Otherwise as components.data.parsers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from components.data.messages import MESSAGE_KEYS, decoded, messages
from components.data.parsers import PROMPT_KEYS, conversation, first, string, user
from components.data.row import LeftOut, Malformed, Row
from components.data.schema import Message

REPLIES_KEYS = ("replies", "responses", "completions", "candidates", "generations")
REPLY_TEXT_KEYS = ("text", "content", "response", "reply", "completion", "output")
SCORE_KEYS = ("score", "overall_score", "rating", "reward")

_HH_TURN = re.compile(r"\n\n(Human|Assistant): ?")


def parse_preference(row: Mapping[str, Any]) -> list[Row]:
    replies, changes = {}, []
    shared: tuple[Message, ...] | None = None
    for side in ("chosen", "rejected"):
        value = decoded(row.get(side))
        if isinstance(value, dict):
            replies[side] = messages([value], side)[0][-1].content
        elif isinstance(value, list):
            turns, more = messages(value, side)
            replies[side], changes = turns[-1].content, [*changes, *more]
            shared = shared or turns[:-1]
        elif isinstance(value, str) and "\n\nHuman:" in value and "\n\nAssistant:" in value:  # HH-RLHF transcripts
            turns = _transcript(value, side)
            replies[side] = turns[-1].content
            shared = shared or turns[:-1]
            changes.append(f"{side} transcript split into turns")
        else:
            replies[side] = string(row, (side,), f"the {side} reply")
    key = first(row, (*MESSAGE_KEYS, *PROMPT_KEYS, "problem", "question"))
    if key is not None:
        listed = isinstance(decoded(row[key]), list)
        shared = messages(row[key], key)[0] if listed else user(string(row, (key,), "the prompt"), row.get("system"))
    if not shared:
        raise Malformed("prompt", "is missing")
    return [Row(prompt=shared, chosen=replies["chosen"], rejected=replies["rejected"], changes=tuple(changes))]


def _transcript(text: str, side: str) -> tuple[Message, ...]:
    parts = _HH_TURN.split(text)[1:]
    turns = tuple(
        Message(role="user" if who == "Human" else "assistant", content=said.strip())
        for who, said in zip(parts[::2], parts[1::2], strict=True)
    )
    if len(turns) < 2 or turns[-1].role != "assistant":
        raise Malformed(side, "the transcript does not end with an assistant turn")
    return turns


def parse_ranked(row: Mapping[str, Any]) -> list[Row]:
    """Several replies with scores (higher is better) or ranks (lower is better): the best against the worst."""
    key = first(row, REPLIES_KEYS)
    values = decoded(row[key]) if key else None
    if not isinstance(values, list) or len(values) < 2:
        raise Malformed(key or "replies", "is not a list of two or more replies")
    texts = []
    for position, value in enumerate(values):
        holder = value if isinstance(value, Mapping) else {"text": value}
        texts.append(string(holder, REPLY_TEXT_KEYS, f"reply {position}"))
    order = _order(row, values, key or "replies")
    best, worst = max(range(len(order)), key=order.__getitem__), min(range(len(order)), key=order.__getitem__)
    if order[best] == order[worst]:
        raise LeftOut("replies ranked alike")
    asked = first(row, (*MESSAGE_KEYS, *PROMPT_KEYS, "problem", "question"))
    if asked is None:
        raise Malformed("prompt", "is missing")
    listed = isinstance(decoded(row[asked]), list)
    prompt = messages(row[asked], asked)[0] if listed else user(string(row, (asked,), "the prompt"), row.get("system"))
    change = f"best and worst of {len(texts)} replies"
    return [
        Row(prompt=prompt, response=texts[best], chosen=texts[best], rejected=texts[worst], changes=(change,)),
    ]


def _order(row: Mapping[str, Any], values: list, key: str) -> list[float]:
    """One number a reply, higher is better."""
    for name, sign, inner in (("scores", 1, SCORE_KEYS), ("ranks", -1, ("rank", "ranking"))):
        listed = decoded(row.get(name))
        if isinstance(listed, list):
            found = listed
        else:
            found = [value.get(first(value, inner) or "") if isinstance(value, Mapping) else None for value in values]
        if all(isinstance(number, int | float) for number in found) and len(found) == len(values):
            return [sign * float(number) for number in found]
    raise Malformed(key, "has neither a score nor a rank for every reply")


def parse_tree(row: Mapping[str, Any]) -> list[Row]:
    """Open-Assistant trees. The first row is the best-ranked path down to an assistant's message, which SFT takes; for
    preference every prompt with two differently ranked replies gives a pair."""
    path, rows = [], []
    node: Mapping[str, Any] | None = row
    while node is not None:
        path.append(Message(role=_tree_role(node), content=string(node, ("text",), "the message")))
        node = min(_replies(node), key=_rank, default=None)
    while path and path[-1].role != "assistant":
        path.pop()
    if len(path) >= 2:
        best = conversation(tuple(path), "replies", ("best-ranked path of the tree",))
        rows.append(best)
    rows += _tree_pairs(row, ())
    if not rows:
        raise LeftOut("tree without an assistant's reply")
    return rows


def _tree_pairs(node: Mapping[str, Any], before: tuple[Message, ...]) -> list[Row]:
    here = (*before, Message(role=_tree_role(node), content=string(node, ("text",), "the message")))
    replies, rows = _replies(node), []
    ranked = [reply for reply in replies if reply.get("rank") is not None]
    if here[-1].role == "user" and len(ranked) >= 2:
        best, worst = min(ranked, key=_rank), max(ranked, key=_rank)
        if _rank(best) != _rank(worst):
            sides = {"chosen": string(best, ("text",), "a reply"), "rejected": string(worst, ("text",), "a reply")}
            rows.append(Row(prompt=here, **sides, changes=(f"best and worst of {len(ranked)} ranked replies",)))
    for reply in replies:
        rows += _tree_pairs(reply, here)
    return rows


def _replies(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = node.get("replies") or []
    if not isinstance(found, list):
        raise Malformed("replies", f"is {type(found).__name__}, not a list")
    return [reply for reply in found if isinstance(reply, Mapping) and not reply.get("deleted")]


def _rank(node: Mapping[str, Any]) -> float:
    rank = node.get("rank")
    return float(rank) if isinstance(rank, int | float) else float("inf")


def _tree_role(node: Mapping[str, Any]) -> str:
    role = {"prompter": "user", "user": "user", "assistant": "assistant"}.get(node.get("role"))
    if role is None:
        raise Malformed("role", f"unknown role {node.get('role')!r} in a tree")
    return role
