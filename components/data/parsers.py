"""Parsers of single records: for each layout, from the original fields to `Row`s (components.data.row).

Most records give one row; a message tree or a list of ranked replies may give several. Every change that goes beyond
picking a field is noted in `Row.changes`, which the record keeps as its transformations. Records of several replies to
one prompt are in components.data.reply_parsers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from components.data.code_tests import parse_tests
from components.data.messages import MESSAGE_KEYS, decoded, messages, with_tools
from components.data.row import LeftOut, Malformed, Row
from components.data.schema import Message

TEXT_KEYS = ("text", "content", "document")
PROMPT_KEYS = ("prompt", "instruction", "query", "input_text", "writing_prompt", "puzzle")
RESPONSE_KEYS = ("response", "completion", "output", "answer", "target")
THINKING_KEYS = ("thinking", "reasoning", "reasoning_content")
PROBLEM_KEYS = ("problem", "question", "prompt", "puzzle")
ANSWER_KEYS = ("answer", "ground_truth", "final_answer", "gold_answer", "expected_answer", "label")
SOLUTION_KEYS = ("solution", "solutions", "rationale", "cot", "canonical_solution", "code")
TEST_KEYS = (
    "tests",
    "test_cases",
    "test_list",
    "test",
    "private_tests",
    "public_tests",
    "private_test_cases",
    "public_test_cases",
    "input_output",
)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_JOINED = "solution joined to the start that the prompt gives"
_GSM_ANSWER = re.compile(r"\n?####\s*(.+?)\s*$")
_GSM_CALCULATOR = re.compile(r"<<[^<>]*>>")


def first(row: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """The first of `keys` that is present and neither None nor empty."""
    return next((key for key in keys if row.get(key) not in (None, "", [], {})), None)


def string(row: Mapping[str, Any], keys: Sequence[str], what: str) -> str:
    """The text under the first of `keys` that has one. Raises Malformed naming `what`."""
    key = first(row, keys)
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


def user(text: str, system: Any = None) -> tuple[Message, ...]:
    head = (Message(role="system", content=system),) if isinstance(system, str) and system else ()
    return (*head, Message(role="user", content=text))


def last_boxed(text: str) -> str | None:
    """The content of the last \\boxed{...}, with balanced braces; None when there is none."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for position in range(start + 6, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start + 7 : position]
    return None


def parse_text(row: Mapping[str, Any]) -> list[Row]:
    return [Row(text=string(row, TEXT_KEYS, "text"))]


def parse_messages(row: Mapping[str, Any]) -> list[Row]:
    key = first(row, MESSAGE_KEYS)
    if key is None:
        raise Malformed("messages", "is missing")
    turns, changes = messages(row[key], key)
    turns, tools = with_tools(turns, row.get("tools"))
    return [conversation(turns, key, (*changes, *tools))]


def conversation(turns: tuple[Message, ...], key: str, changes: tuple[str, ...]) -> Row:
    """An assistant's last turn is the response, what stands before it the prompt."""
    if turns[-1].role != "assistant":
        return Row(prompt=turns, changes=changes)
    if len(turns) == 1:
        raise Malformed(key, "holds no user message before the assistant's")
    return Row(prompt=turns[:-1], response=turns[-1].content, changes=changes)


def parse_labelled(row: Mapping[str, Any]) -> list[Row]:
    """A reply with a verdict (KTO): the wanted ones teach, the unwanted ones have no partner to be compared with."""
    label = row.get("label")
    if not isinstance(label, bool):
        raise Malformed("label", f"is {type(label).__name__}, not true or false")
    parsed = parse_messages(row) if first(row, MESSAGE_KEYS) else parse_prompt_response(row)
    if not label:
        raise LeftOut("unwanted reply (label is false)")
    return parsed


def parse_prompt_response(row: Mapping[str, Any]) -> list[Row]:
    key = first(row, PROMPT_KEYS)
    changes: tuple[str, ...] = ()
    if key and isinstance(decoded(row[key]), list):
        prompt, changes = messages(row[key], key)
    else:
        text = string(row, PROMPT_KEYS, "the prompt")
        if "instruction" in row and row.get("input"):  # Alpaca
            text = f"{text}\n\n{string(row, ('input',), 'the input')}"
            changes = ("input joined to instruction",)
        prompt = user(text, row.get("system"))
    value = row.get(first(row, RESPONSE_KEYS) or "")
    if isinstance(decoded(value), list):  # a completion in messages
        turns, more = messages(value, "completion")
        response, changes = turns[-1].content, (*changes, *more)
    else:
        response = string(row, RESPONSE_KEYS, "the response")
    if first(row, THINKING_KEYS) and "<think>" not in response:
        response = f"<think>{string(row, THINKING_KEYS, 'the thinking')}</think>{response}"
        changes = (*changes, "thinking joined to response")
    return [Row(prompt=prompt, response=response, changes=changes)]


def parse_problem_answer(row: Mapping[str, Any]) -> list[Row]:
    problem, changes = string(row, PROBLEM_KEYS, "the problem"), []
    solution = string(row, SOLUTION_KEYS, "the solution") if first(row, SOLUTION_KEYS) else None
    answer: str | None = None
    if first(row, ANSWER_KEYS):
        answer = string(row, ANSWER_KEYS, "the answer")
        final = _GSM_ANSWER.search(answer)
        if solution is None and final:  # GSM8K keeps the worked solution in the answer
            solution = _GSM_CALCULATOR.sub("", answer[: final.start()]).strip()
            answer = final.group(1).replace(",", "")
            changes.append("solution and answer taken apart at ####")
    elif solution is not None:
        answer = last_boxed(solution)
        if answer is not None:
            changes.append("answer taken from the last box of the solution")
    else:
        raise Malformed("answer", "the answer is missing or empty")
    if isinstance(choices := decoded(row.get("choices", row.get("options"))), list) and choices:
        problem, answer = _lettered(problem, choices, answer)
        changes.append("choices lettered")
    prompt = user(problem, row.get("system"))
    chat = first(row, MESSAGE_KEYS)
    if chat is not None:  # RLVR exports: `prompt` may hold only the instructions, the chat holds the question
        turns, more = messages(row[chat], chat)
        asked = tuple(turn for turn in turns if turn.role != "assistant")
        if any(turn.role == "user" for turn in asked):
            prompt, changes = asked, [*changes, *more, f"question taken from {chat}"]
    return [Row(prompt=prompt, answer=answer, solution=solution, kind="math", changes=tuple(changes))]


def _lettered(problem: str, choices: list, answer: str | None) -> tuple[str, str | None]:
    """The choices as lines A., B., ...; an answer given as an index or as a choice's text becomes its letter."""
    texts = [str(choice.get("text", choice)) if isinstance(choice, dict) else str(choice) for choice in choices]
    letters = LETTERS[: len(texts)]
    if answer is not None and answer.strip() not in letters:
        if answer.strip() in texts:
            answer = letters[texts.index(answer.strip())]
        elif answer.strip().isdigit() and int(answer) < len(texts):
            answer = letters[int(answer)]
    return "\n".join([problem, *(f"{letter}. {text}" for letter, text in zip(letters, texts, strict=False))]), answer


def parse_code_tests(row: Mapping[str, Any]) -> list[Row]:
    problem = string(row, PROBLEM_KEYS, "the problem")
    key = first(row, TEST_KEYS)
    if key is None:
        raise Malformed("tests", "is missing or empty")
    solution = string(row, SOLUTION_KEYS, "the solution") if first(row, SOLUTION_KEYS) else None
    try:
        tests = parse_tests(decoded(row[key]), row.get("entry_point"), solution or problem)
    except ValueError as error:
        raise Malformed(key, str(error)) from None
    start = f"def {row.get('entry_point')}("
    if solution is not None and start in problem and start not in solution:  # HumanEval stores the body alone
        return [Row(user(problem), tests=tests, solution=problem + solution, kind="code", changes=(_JOINED,))]
    return [Row(prompt=user(problem), tests=tests, solution=solution, kind="code")]


def parse_grids(row: Mapping[str, Any]) -> list[Row]:
    """ARC tasks: example pairs of grids, and test grids whose output is asked; one row for every test grid."""
    pairs = {}
    for part in ("train", "test"):
        pairs[part] = decoded(row.get(part))
        if not isinstance(pairs[part], list) or not pairs[part]:
            raise Malformed(part, "is not a list of grid pairs")
    examples = [
        f"Input {number}:\n{_grid(pair, f'train[{number - 1}]', 'input')}\n"
        f"Output {number}:\n{_grid(pair, f'train[{number - 1}]', 'output')}"
        for number, pair in enumerate(pairs["train"], 1)
    ]
    task = "Each output grid follows from its input grid by one rule. Give the output grid of the last input."
    rows = []
    for position, pair in enumerate(pairs["test"]):
        asked = f"Input:\n{_grid(pair, f'test[{position}]', 'input')}\nOutput:"
        prompt = user("\n\n".join([task, *examples, asked]))
        answer = _grid(pair, f"test[{position}]", "output")
        rows.append(Row(prompt=prompt, answer=answer, kind="logic", changes=("grids written as rows of digits",)))
    return rows


def _grid(pair: Any, where: str, side: str) -> str:
    cells = pair.get(side) if isinstance(pair, Mapping) else None
    if not isinstance(cells, list) or not cells or not all(isinstance(line, list) for line in cells):
        raise Malformed(f"{where}.{side}", "is not a grid (a list of rows)")
    return "\n".join(" ".join(map(str, line)) for line in cells)
