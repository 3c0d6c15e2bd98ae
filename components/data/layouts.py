"""The shapes people's records have, and what they become: one small parser per layout.

A parser turns a raw row (a dict) into `Row`, the common denominator; `to_record` turns a Row into the record class of
the split. Detection looks at the first records only and asks each layout whether its required keys are there; a file
that fits none is a BadInput that shows the first record and the nearest layout with what it lacks.

Layouts: text; messages (chat messages, ShareGPT); prompt-response (also Alpaca); problem-answer (problem, answer and
possibly a worked solution); preference (chosen/rejected); code-tests (a program task with test cases).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.data.code_tests import parse_tests
from components.data.jsonl import record_id
from components.data.schema import (
    BenchmarkItem,
    Message,
    PreferenceRecord,
    PretrainRecord,
    Record,
    RlRecord,
    SftRecord,
    Verifier,
)
from components.failures import BadInput
from components.recipe.data import Domain, Split

SHOWN_CHARACTERS = 400

PROMPT_KEYS = ("prompt", "instruction", "query", "input_text", "writing_prompt", "puzzle")
RESPONSE_KEYS = ("response", "completion", "output", "answer", "target")
PROBLEM_KEYS = ("problem", "question", "prompt", "puzzle")
ANSWER_KEYS = ("answer", "ground_truth", "final_answer", "gold_answer", "expected_answer", "label")
SOLUTION_KEYS = ("solution", "solutions", "rationale", "cot", "canonical_solution", "code")
TEST_KEYS = ("tests", "test_cases", "test_list", "test", "private_tests")
MESSAGE_KEYS = ("messages", "conversations", "conversation")

ROLES: Mapping[str, str] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
}
_GSM_ANSWER = re.compile(r"\n?####\s*(.+?)\s*$")
_GSM_CALCULATOR = re.compile(r"<<[^<>]*>>")
_HH_TURN = re.compile(r"\n\n(Human|Assistant): ?")


class Malformed(ValueError):
    """One record does not fit: `field` names where, the message says why. The record is quarantined."""

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        super().__init__(reason)


@dataclass(frozen=True)
class Row:
    """What any layout can say about one record; absent parts are None."""

    prompt: tuple[Message, ...] = ()
    response: str | None = None
    answer: str | None = None
    solution: str | None = None
    text: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    tests: dict[str, Any] | None = None


def _first(row: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """The first of `keys` that is present and not None."""
    return next((key for key in keys if row.get(key) not in (None, "")), None)


def _string(row: Mapping[str, Any], keys: Sequence[str], what: str) -> str:
    key = _first(row, keys)
    if key is None:
        present = next((key for key in keys if key in row), keys[0])
        raise Malformed(present, f"{what} is missing or empty")
    value = row[key]
    if isinstance(value, list) and value and (len(value) == 1 or keys == SOLUTION_KEYS):
        value = value[0]  # several worked solutions: the first teaches as well as any
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Malformed(key, f"{what} is {type(value).__name__}, not text")
    text = str(value)
    if not text.strip():
        raise Malformed(key, f"{what} is empty")
    return text


def _decoded(value: Any) -> Any:
    """Some exports store lists as JSON strings."""
    if isinstance(value, str) and value[:1] in "[{":
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _content(value: Any, where: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):  # parts: [{"type": "text", "text"|"value": ...}]
        parts = [part.get("text", part.get("value")) if isinstance(part, dict) else part for part in value]
        if all(isinstance(part, str) for part in parts):
            return "\n".join(parts)
    raise Malformed(where, f"content is {type(value).__name__}, not text")


def _messages(value: Any, key: str) -> tuple[Message, ...]:
    value = _decoded(value)
    if not isinstance(value, list) or not value:
        raise Malformed(key, "is not a list of messages")
    found = []
    for position, turn in enumerate(value):
        where = f"{key}[{position}]"
        if not isinstance(turn, dict):
            raise Malformed(where, "is not a message")
        role = turn.get("role", turn.get("from"))
        if role not in ROLES:
            raise Malformed(f"{where}.role", f"unknown role {role!r}; known: {', '.join(ROLES)}")
        found.append(Message(role=ROLES[role], content=_content(turn.get("content", turn.get("value")), where)))
    return tuple(found)


def _user(text: str, system: Any = None) -> tuple[Message, ...]:
    head = (Message(role="system", content=system),) if isinstance(system, str) and system else ()
    return (*head, Message(role="user", content=text))


def _parse_text(row: Mapping[str, Any]) -> Row:
    return Row(text=_string(row, ("text", "content", "document"), "text"))


def _parse_messages(row: Mapping[str, Any]) -> Row:
    key = _first(row, MESSAGE_KEYS)
    if key is None:
        raise Malformed("messages", "is missing")
    turns = _messages(row[key], key)
    if turns[-1].role == "assistant":
        if len(turns) == 1:
            raise Malformed(key, "holds no user message before the assistant's")
        return Row(prompt=turns[:-1], response=turns[-1].content)
    return Row(prompt=turns)


def _parse_prompt_response(row: Mapping[str, Any]) -> Row:
    key = _first(row, PROMPT_KEYS)
    if key and isinstance(_decoded(row[key]), list):
        prompt = _messages(row[key], key)
    else:
        text = _string(row, PROMPT_KEYS, "the prompt")
        if "instruction" in row and row.get("input"):  # Alpaca
            text = f"{text}\n\n{_string(row, ('input',), 'the input')}"
        prompt = _user(text, row.get("system"))
    return Row(prompt=prompt, response=_string(row, RESPONSE_KEYS, "the response"))


def _parse_problem_answer(row: Mapping[str, Any]) -> Row:
    problem = _string(row, PROBLEM_KEYS, "the problem")
    answer = _string(row, ANSWER_KEYS, "the answer")
    key = _first(row, SOLUTION_KEYS)
    solution = _string(row, SOLUTION_KEYS, "the solution") if key else None
    final = _GSM_ANSWER.search(answer)
    if solution is None and final:  # GSM8K keeps the worked solution in the answer
        solution = _GSM_CALCULATOR.sub("", answer[: final.start()]).strip()
        answer = final.group(1).replace(",", "")
    prompt = _user(problem)
    chat = _first(row, MESSAGE_KEYS)
    if chat is not None:  # RLVR exports: `prompt` may hold only the instructions, the chat holds the question
        turns = _messages(row[chat], chat)
        asked = tuple(turn for turn in turns if turn.role != "assistant")
        prompt = asked if any(turn.role == "user" for turn in asked) else prompt
    return Row(prompt=prompt, answer=answer, solution=solution)


def _parse_preference(row: Mapping[str, Any]) -> Row:
    replies = {}
    shared: tuple[Message, ...] | None = None
    for side in ("chosen", "rejected"):
        value = _decoded(row.get(side))
        if isinstance(value, dict):
            replies[side] = _messages([value], side)[0].content
        elif isinstance(value, list):
            turns = _messages(value, side)
            replies[side] = turns[-1].content
            shared = shared or turns[:-1]
        elif isinstance(value, str) and "\n\nHuman:" in value and "\n\nAssistant:" in value:  # HH-RLHF transcripts
            turns = _transcript(value, side)
            replies[side] = turns[-1].content
            shared = shared or turns[:-1]
        else:
            replies[side] = _string(row, (side,), f"the {side} reply")
    key = _first(row, (*MESSAGE_KEYS, *PROMPT_KEYS, "question"))
    if key is not None:
        value = _decoded(row[key])
        shared = _messages(value, key) if isinstance(value, list) else _user(_string(row, (key,), "the prompt"))
    if not shared:
        raise Malformed("prompt", "is missing")
    return Row(prompt=shared, chosen=replies["chosen"], rejected=replies["rejected"])


def _transcript(text: str, side: str) -> tuple[Message, ...]:
    parts = _HH_TURN.split(text)[1:]
    turns = tuple(
        Message(role="user" if who == "Human" else "assistant", content=said.strip())
        for who, said in zip(parts[::2], parts[1::2], strict=True)
    )
    if len(turns) < 2 or turns[-1].role != "assistant":
        raise Malformed(side, "the transcript does not end with an assistant turn")
    return turns


def _parse_code_tests(row: Mapping[str, Any]) -> Row:
    problem = _string(row, PROBLEM_KEYS, "the problem")
    key = _first(row, TEST_KEYS)
    if key is None:
        raise Malformed("tests", "is missing or empty")
    solution_key = _first(row, SOLUTION_KEYS)
    solution = row[solution_key] if solution_key and isinstance(row[solution_key], str) else None
    try:
        tests = parse_tests(_decoded(row[key]), row.get("entry_point"), solution or problem)
    except ValueError as error:
        raise Malformed(key, str(error)) from None
    return Row(prompt=_user(problem), tests=tests, solution=solution)


@dataclass(frozen=True)
class Layout:
    """`needs`: for each required part, the keys that can hold it."""

    name: str
    needs: tuple[tuple[str, tuple[str, ...]], ...]
    parse: Callable[[Mapping[str, Any]], Row]

    def missing(self, row: Mapping[str, Any]) -> list[str]:
        return [f"{part} ({' | '.join(keys)})" for part, keys in self.needs if _first(row, keys) is None]


LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("preference", (("chosen", ("chosen",)), ("rejected", ("rejected",))), _parse_preference),
        Layout("code-tests", (("problem", PROBLEM_KEYS), ("tests", TEST_KEYS)), _parse_code_tests),
        Layout("problem-answer", (("problem", PROBLEM_KEYS), ("answer", ANSWER_KEYS)), _parse_problem_answer),
        Layout("messages", (("messages", MESSAGE_KEYS),), _parse_messages),
        Layout("prompt-response", (("prompt", PROMPT_KEYS), ("response", RESPONSE_KEYS)), _parse_prompt_response),
        Layout("text", (("text", ("text", "content", "document")),), _parse_text),
    )
}

# Which layouts can become a record of a split, best first.
SPLIT_LAYOUTS: Mapping[str, tuple[str, ...]] = {
    "pretrain": ("text", "messages", "prompt-response", "problem-answer"),
    "sft": ("messages", "prompt-response", "problem-answer"),
    "rl": ("code-tests", "problem-answer"),
    "preference": ("preference",),
    "benchmark": ("code-tests", "problem-answer"),
}


def shown(row: Any) -> str:
    """A record, shortened for a message."""
    text = json.dumps(row, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}... ({len(text)} characters)"


def detect(rows: Sequence[Mapping[str, Any]], purpose: Split | str, where: str) -> Layout:
    """The layout most of the first records fit, among those the split can use. Raises BadInput when none does."""
    allowed = [LAYOUTS[name] for name in SPLIT_LAYOUTS[purpose]]
    fitting = [(sum(_fits(layout, row) for row in rows), -rank, layout) for rank, layout in enumerate(allowed)]
    best = max(fitting, key=lambda entry: entry[:2])
    if best[0] * 2 > len(rows):
        return best[2]
    first = rows[0] if rows else {}
    # Of two equally near layouts the one that asks for less is the likelier intention: tests are rare.
    nearest = min(
        allowed, key=lambda layout: (len(layout.missing(first)) / len(layout.needs), layout.name == "code-tests")
    )
    lacking = nearest.missing(first)
    reason = f"lacks {', '.join(lacking)}" if lacking else f"{_complaint(nearest, first)}"
    raise BadInput(
        f"the layout is unknown for split {purpose}; first record: {shown(first)}; "
        f"nearest layout: {nearest.name}, which {reason}",
        where=where,
        remedy=f"Rename the fields, or name the layout ({', '.join(SPLIT_LAYOUTS[purpose])})",
    )


def _fits(layout: Layout, row: Mapping[str, Any]) -> bool:
    if layout.missing(row):
        return False
    try:
        layout.parse(row)
    except Malformed:
        return False
    return True


def _complaint(layout: Layout, row: Mapping[str, Any]) -> str:
    try:
        layout.parse(row)
    except Malformed as error:
        return f"stumbles at {error.field}: {error}"
    return "fits the first record, but not most of the following ones"


def to_record(
    row: Row,
    raw: Mapping[str, Any],
    purpose: Split | str,
    source: str,
    licence: str,
    domain: Domain | None,
    name: str = "",
) -> Record:
    """The record of a split. Raises Malformed naming the part that the split needs and the row lacks.

    `purpose` is a split, or `benchmark` with its `name`.
    """
    common = {"source": source, "licence": str(raw.get("licence") or raw.get("license") or licence)}
    known = raw.get("domain")
    own_domain = known if known in ("math", "code", "logic", "science", "general") else None
    tags = {
        "domain": own_domain or domain or ("code" if row.tests else "general" if purpose == "preference" else "math"),
        "family": str(raw.get("family") or raw.get("subject") or raw.get("type") or (name or "files")),
        "level": raw["level"] if isinstance(raw.get("level"), int) and not isinstance(raw.get("level"), bool) else 0,
    }
    if purpose == "pretrain":
        payload: dict[str, Any] = {"text": _document(row)}
        return PretrainRecord(id=record_id(payload), **common, **payload)
    prompt = [message.model_dump() for message in row.prompt]
    if not any(message.role == "user" and message.content.strip() for message in row.prompt):
        raise Malformed("prompt", "holds no user message with text")
    if purpose == "sft":
        payload = {**tags, "prompt": prompt, "response": _assistant_turn(row)}
        return SftRecord(id=record_id(payload), **common, **payload)
    if purpose == "preference":
        if row.chosen is None or row.rejected is None:
            raise Malformed("chosen", "is missing")
        payload = {"domain": tags["domain"], "prompt": prompt, "chosen": row.chosen, "rejected": row.rejected}
        return PreferenceRecord(id=record_id(payload), **common, **payload)
    verifier = _verifier(row, tags["domain"])
    payload = {**tags, "prompt": prompt, "verifier": verifier.model_dump()}
    if purpose == "rl":
        return RlRecord(id=record_id(payload), **common, **payload)
    payload["benchmark"] = name
    return BenchmarkItem(id=record_id(payload), **common, **payload)


def _verifier(row: Row, domain: str) -> Verifier:
    if row.tests is not None:
        return Verifier(kind="code", reference=row.tests)
    if row.answer is None:
        raise Malformed("answer", "a verifiable problem needs a reference answer or tests")
    kind = domain if domain in ("math", "science", "logic") else "math"
    return Verifier(kind=kind, reference={"answer": row.answer})


def _assistant_turn(row: Row) -> str:
    """The response as it is, or a worked solution as thinking followed by the boxed answer."""
    if row.response is not None:
        return row.response
    if row.answer is None:
        raise Malformed("response", "is missing: SFT needs an assistant turn, or a solution with its answer")
    boxed = f"\\boxed{{{row.answer}}}"
    return f"<think>{row.solution}</think>{boxed}" if row.solution else boxed


def _document(row: Row) -> str:
    if row.text is not None:
        return row.text
    parts = [message.content for message in row.prompt]
    parts += [part for part in (row.response, row.solution, row.answer) if part]
    return "\n".join(parts)
