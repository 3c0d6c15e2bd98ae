"""Per-record statistics as columns: what the gates look at instead of the text itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from components.data.decontaminate.engine import fields, user_text
from components.data.dedup import prompt_key, record_key
from components.data.schema import BenchmarkItem, PreferenceRecord, PretrainRecord, Record, RlRecord, SftRecord

TokenLength = Callable[[str], int]

REFERENCE_KEYS = {
    "math": "answer",
    "science": "answer",
    "logic": "answer",
    "code": "tests",
    "instruction": "constraints",
    "preference": "rubric",
}
_THINK = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)
REPETITION_WORDS = 4


def has_think(response: str) -> bool:
    """Exactly one thinking part, at the beginning and closed."""
    return response.count("<think>") == 1 == response.count("</think>") and _THINK.match(response) is not None


def boxed(text: str) -> str | None:
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


def has_answer(response: str) -> bool:
    """Something stands after the thinking part, and a \\boxed{} that is opened is closed and not empty."""
    answer = response.rpartition("</think>")[2].strip()
    if "\\boxed{" in answer:
        return bool((boxed(answer) or "").strip())
    return bool(answer)


def repetition(text: str) -> float:
    """Share of word 4-grams that occurred before in the text; 0 for short texts."""
    words = text.split()
    count = len(words) - REPETITION_WORDS + 1
    if count < 2 * REPETITION_WORDS:
        return 0.0
    return 1 - len({tuple(words[start : start + REPETITION_WORDS]) for start in range(count)}) / count


def has_reference(record: RlRecord) -> bool:
    """The verifier has what its kind needs (components.data.schema.Verifier)."""
    value = record.verifier.reference.get(REFERENCE_KEYS[record.verifier.kind])
    return value not in (None, "", [], {})


def columns(
    records: Sequence[Record], token_length: TokenLength, elsewhere: Collection[str] = ()
) -> dict[str, list[Any]]:
    """Columns of one split, one value per record.

    Args:
        token_length: tokens of a text, by the recipe's tokenizer.
        elsewhere: ids of records whose question also stands in another split.
    """
    rows: list[Mapping[str, Any]] = []
    seen: set[str] = set()
    for record in records:
        # A question asked twice is a duplicate even when its two references differ.
        key = prompt_key(record) if isinstance(record, RlRecord) else record_key(record)
        texts = fields(record)
        row: dict[str, Any] = {
            "id": record.id,
            "source": record.source,
            "characters": sum(len(text) for _, text in texts),
            "duplicate": key in seen,
            "in_other_split": record.id in elsewhere,
            "has_licence": bool(record.licence),
        }
        seen.add(key)
        lengths = {name: token_length(text) for name, text in texts}
        if isinstance(record, PretrainRecord):
            row |= {"tokens": lengths["text"], "prompt_nonempty": bool(record.text.strip())}
            row["repetition"] = repetition(record.text)
        else:
            row["prompt_nonempty"] = bool(user_text(record.prompt).strip())
        if isinstance(record, SftRecord):
            row |= {
                "tokens": lengths["question"] + lengths["answer"],
                "response_nonempty": bool(record.response.strip()),
                "has_think": has_think(record.response),
                "has_answer": has_answer(record.response),
                "repetition": repetition(record.response),
                "domain": record.domain,
            }
        elif isinstance(record, PreferenceRecord):
            row |= {
                "tokens": lengths["prompt"] + max(lengths["chosen"], lengths["rejected"]),
                "replies_differ": record.chosen.strip() != record.rejected.strip(),
                "response_nonempty": bool(record.chosen.strip()),
            }
        elif isinstance(record, RlRecord | BenchmarkItem):
            row |= {"tokens": lengths["prompt"], "has_reference": has_reference(record), "domain": record.domain}
        rows.append(row)
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
