"""What the gates look at instead of the text itself: facts of every record, columns of a sample, totals of all.

`measure` turns one record into Facts, anywhere; components.data.corpus gathers them in bounded memory.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from components.data.decontaminate.engine import fields, user_text
from components.data.dedup import prompt_key, record_key
from components.data.parsers import last_boxed as boxed
from components.data.schema import BenchmarkItem, PreferenceRecord, PretrainRecord, Record, RlRecord, SftRecord

__all__ = ["Facts", "boxed", "columns", "measure"]

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
_FENCE = re.compile(r"^[ \t]*```(?:python|py)?[ \t]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)
_WORD = re.compile(r"[^\W\d_]{3,}")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
REPETITION_WORDS = 4
EXCERPT = 400
# Enough words for a language to be told; formulas and program text have none.
PROSE_WORDS = 12


@dataclass(frozen=True)
class Facts:
    """row: the columns of the record. key, prompt_key: 16-byte identities of the whole and of the question alone.

    prose: the beginning of its text when that is prose, for the language.
    """

    row: dict[str, Any]
    key: bytes
    prompt_key: bytes
    prose: str


def has_think(response: str) -> bool:
    """Exactly one thinking part, at the beginning and closed."""
    return response.count("<think>") == 1 == response.count("</think>") and _THINK.match(response) is not None


def has_answer(response: str) -> bool:
    """Something stands after the thinking part, and a \\boxed{} that is opened is closed and not empty."""
    answer = response.rpartition("</think>")[2].strip()
    if "\\boxed{" in answer:
        return bool((boxed(answer) or "").strip())
    return bool(answer)


def program_parses(response: str) -> bool | None:
    """Whether the last Python block after the thinking compiles; None when there is no block or plain program."""
    answer = response.rpartition("</think>")[2]
    blocks = _FENCE.findall(answer)
    if not blocks and not re.search(r"^\s*(?:def|class|import|from|print)\b", answer, re.MULTILINE):
        return None
    try:
        ast.parse(blocks[-1] if blocks else answer)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


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


def prose_of(text: str) -> str:
    start = text[:EXCERPT]
    words = _WORD.findall(start)
    enough = len(words) >= PROSE_WORDS and 2 * sum(map(len, words)) >= len(start)
    return start if enough or len(_CJK.findall(start)) >= PROSE_WORDS else ""


def measure(record: Record, token_length: TokenLength) -> Facts:
    """Facts of one record. token_length: tokens of a text, by the recipe's tokenizer."""
    texts = fields(record)
    lengths = {name: token_length(text) for name, text in texts}
    row: dict[str, Any] = {
        "id": record.id,
        "source": record.source,
        "characters": sum(len(text) for _, text in texts),
        "has_licence": bool(record.licence),
    }
    longest = max((text for _, text in texts), key=len)
    question = prompt_key(record)
    # A question asked twice is a duplicate even when its two references differ.
    whole = question if isinstance(record, RlRecord) else record_key(record)
    if isinstance(record, PretrainRecord):
        row |= {"tokens": lengths["text"], "prompt_nonempty": bool(record.text.strip())}
        row["repetition"] = repetition(record.text)
    else:
        row |= {"prompt_nonempty": bool(user_text(record.prompt).strip()), "domain": record.domain}
    if isinstance(record, SftRecord):
        row |= {
            "tokens": lengths["question"] + lengths["answer"],
            "response_nonempty": bool(record.response.strip()),
            "has_think": has_think(record.response),
            "has_answer": has_answer(record.response),
            "repetition": repetition(record.response),
            "boxed": boxed(record.response.rpartition("</think>")[2]),
            "program_parses": program_parses(record.response) if record.domain == "code" else None,
        }
    elif isinstance(record, PreferenceRecord):
        row |= {
            "tokens": lengths["prompt"] + max(lengths["chosen"], lengths["rejected"]),
            "replies_differ": record.chosen.strip() != record.rejected.strip(),
            "response_nonempty": bool(record.chosen.strip()),
            "length_ratio": lengths["chosen"] / max(1, lengths["chosen"] + lengths["rejected"]),
        }
    elif isinstance(record, RlRecord | BenchmarkItem):
        row |= {
            "tokens": lengths["prompt"],
            "has_reference": has_reference(record),
            "boxed": str(record.verifier.reference.get("answer", "")) if record.verifier.kind == "math" else None,
            "has_solution": record.solution is not None and record.verifier.kind == "code",
        }
    return Facts(row, bytes.fromhex(whole)[:16], bytes.fromhex(question)[:16], prose_of(longest))


def columns(
    records: Sequence[Record], token_length: TokenLength, elsewhere: Collection[str] = ()
) -> dict[str, list[Any]]:
    """The columns of a split that is in memory, one value per record.

    Args:
        elsewhere: ids of records whose question also stands in another split.
    """
    seen: set[bytes] = set()
    rows = []
    for record in records:
        facts = measure(record, token_length)
        rows.append({**facts.row, "duplicate": facts.key in seen, "in_other_split": record.id in elsewhere})
        seen.add(facts.key)
    return table(rows)


def table(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Rows of one split as columns."""
    if not rows:
        return {}
    found = {name: [row[name] for row in rows] for name in rows[0]}
    found["duplicate_fraction"] = [sum(found["duplicate"]) / len(rows)] * len(rows)
    return found
