"""Chat messages as people store them: role/content or from/value, parts, reasoning, tool calls, tool descriptions.

ringflow's own messages have three roles and text. What else occurs is written into the text: reasoning as
`<think>...</think>`, a call as `<tool_call>...</tool_call>`, its result as a user turn `<tool_response>...`, and the
descriptions of the tools at the end of the system prompt, the way Qwen's and Hermes' templates show them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from components.data.row import Malformed
from components.data.schema import Message

MESSAGE_KEYS = ("messages", "conversations", "conversation")
ROLES: Mapping[str, str] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "function_call": "assistant",
    "tool": "user",
    "observation": "user",
    "function": "user",
}
TOOL_RESULTS = frozenset({"tool", "observation", "function"})
REASONING = ("reasoning_content", "reasoning", "thinking")


def decoded(value: Any) -> Any:
    """Some exports store lists as JSON strings."""
    if isinstance(value, str) and value[:1] in "[{":
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def messages(value: Any, key: str) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """(the turns, what was changed besides names). Raises Malformed naming the turn."""
    value = decoded(value)
    if not isinstance(value, list) or not value:
        raise Malformed(key, "is not a list of messages")
    found, changes = [], dict[str, None]()
    for position, turn in enumerate(value):
        where = f"{key}[{position}]"
        if not isinstance(turn, dict):
            raise Malformed(where, "is not a message")
        role = turn.get("role", turn.get("from"))
        if role not in ROLES:
            raise Malformed(f"{where}.role", f"unknown role {role!r}; known: {', '.join(ROLES)}")
        content = _content(turn.get("content", turn.get("value")), where, changes)
        reasoning = next((turn[name] for name in REASONING if isinstance(turn.get(name), str) and turn[name]), "")
        if reasoning:
            content = f"<think>{reasoning}</think>{content}"
            changes["reasoning joined to the turn"] = None
        for call in turn.get("tool_calls") or []:
            content += _call(call.get("function", call) if isinstance(call, dict) else call)
            changes["tool calls written as text"] = None
        if role in TOOL_RESULTS:
            content = f"<tool_response>\n{content}\n</tool_response>"
            changes["tool results written as user turns"] = None
        elif role == "function_call":
            content = _call(content)
            changes["tool calls written as text"] = None
        found.append(Message(role=ROLES[role], content=content))
    return tuple(found), tuple(changes)


def with_tools(turns: tuple[Message, ...], tools: Any) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """The turns with the tools' descriptions at the end of the system prompt."""
    if not tools:
        return turns, ()
    described = tools if isinstance(tools, str) else json.dumps(tools, ensure_ascii=False)
    block = f"<tools>\n{described}\n</tools>"
    if turns[0].role == "system":
        turns = (Message(role="system", content=f"{turns[0].content}\n\n{block}"), *turns[1:])
    else:
        turns = (Message(role="system", content=block), *turns)
    return turns, ("tool descriptions put into the system prompt",)


def _content(value: Any, where: str, changes: dict[str, None]) -> str:
    if isinstance(value, str):
        return value
    if value is None:  # an assistant that only calls tools
        return ""
    if isinstance(value, list):
        text = ""
        for position, part in enumerate(value):
            later = bool(text) and not text.endswith("</think>")
            text += _part(part, f"{where}.content[{position}]", later, changes)
        return text
    raise Malformed(where, f"content is {type(value).__name__}, not text")


def _part(part: Any, where: str, later: bool, changes: dict[str, None]) -> str:
    if isinstance(part, str):
        return f"\n{part}" if later else part
    if not isinstance(part, dict):
        raise Malformed(where, f"is {type(part).__name__}, not a part of a message")
    kind = part.get("type", "text")
    text = part.get("text", part.get("value", part.get(kind)))
    if kind in ("reasoning", "thinking"):
        changes["reasoning joined to the turn"] = None
        return f"<think>{text}</think>"
    if kind == "tool_call":
        changes["tool calls written as text"] = None
        return _call(text)
    if kind != "text" or not isinstance(text, str):
        raise Malformed(where, f"is of type {kind!r}; text, reasoning and tool_call are understood")
    return f"\n{text}" if later else text


def _call(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"<tool_call>\n{text}\n</tool_call>"
