"""What a split takes of a parsed row: the record classes of schema.py, with identity, origin and transformations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.data.jsonl import record_id
from components.data.row import Malformed, Row
from components.data.schema import (
    BenchmarkItem,
    PreferenceRecord,
    PretrainRecord,
    Record,
    RlRecord,
    SftRecord,
    Verifier,
)
from components.recipe.data import Domain, Split

DOMAINS = ("math", "code", "logic", "science", "general")


@dataclass(frozen=True)
class Origin:
    """Where rows come from and what the recipe says of them. purpose: a split, or `benchmark` with its `name`."""

    uri: str
    purpose: Split | str
    layout: str
    licence: str = ""
    domain: Domain | None = None
    name: str = ""
    mapped: bool = False


def to_records(rows: Sequence[Row], raw: Mapping[str, Any], origin: Origin, line: int) -> list[Record]:
    """The records of one original. Raises Malformed naming the part that the split needs and the row lacks.

    A message tree holds a conversation and pairs: each split takes its own, and a tree without it is malformed for it.
    """
    if origin.purpose == "preference":
        usable = [row for row in rows if row.chosen is not None] or list(rows[:1])
    else:
        usable = [row for row in rows if row.chosen is None or row.response is not None] or list(rows)
    return [to_record(row, raw, origin, line) for row in usable]


def to_record(row: Row, raw: Mapping[str, Any], origin: Origin, line: int) -> Record:
    """The record of one row, as `to_records`."""
    changes = [*(["fields mapped"] if origin.mapped else []), f"layout {origin.layout}", *row.changes]
    common: dict[str, Any] = {
        "source": f"{origin.uri}#{line}",
        "licence": str(raw.get("licence") or raw.get("license") or origin.licence),
        "row": line,
    }
    purpose = origin.purpose
    if purpose == "pretrain":
        payload: dict[str, Any] = {"text": _document(row)}
        return PretrainRecord(id=record_id(payload), **common, transformations=tuple(changes), **payload)
    prompt = [message.model_dump() for message in row.prompt]
    if not any(message.role == "user" and message.content.strip() for message in row.prompt):
        raise Malformed("prompt", "holds no user message with text")
    tags = _tags(row, raw, origin)
    if purpose == "sft":
        payload = {**tags, "prompt": prompt, "response": _assistant_turn(row, changes)}
        return SftRecord(id=record_id(payload), **common, transformations=tuple(changes), **payload)
    if purpose == "preference":
        if row.chosen is None or row.rejected is None:
            raise Malformed("chosen", "is missing")
        payload = {"domain": tags["domain"], "prompt": prompt, "chosen": row.chosen, "rejected": row.rejected}
        return PreferenceRecord(id=record_id(payload), **common, transformations=tuple(changes), **payload)
    payload = {**tags, "prompt": prompt, "verifier": _verifier(row, tags["domain"]).model_dump()}
    if purpose != "rl":
        payload["benchmark"] = origin.name
    kind = RlRecord if purpose == "rl" else BenchmarkItem
    return kind(
        id=record_id(payload), **common, transformations=tuple(changes), **payload, solution=row.solution or None
    )


def _tags(row: Row, raw: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
    known = raw.get("domain")
    by_kind = row.kind or "general"
    level = raw.get("level")
    return {
        "domain": known if known in DOMAINS else origin.domain or by_kind,
        "family": str(raw.get("family") or raw.get("subject") or raw.get("type") or origin.name or "files"),
        "level": level if isinstance(level, int) and not isinstance(level, bool) else 0,
    }


def _verifier(row: Row, domain: str) -> Verifier:
    if row.tests is not None:
        return Verifier(kind="code", reference=row.tests)
    if row.answer is None:
        raise Malformed("answer", "a verifiable problem needs a reference answer or tests")
    kind = domain if domain in ("math", "science", "logic") else "math"
    return Verifier(kind=kind, reference={"answer": row.answer})


def _assistant_turn(row: Row, changes: list[str]) -> str:
    """The response as it is, or a worked solution as thinking followed by the boxed answer."""
    if row.response is not None:
        return row.response
    if row.answer is None:
        if row.solution is not None:
            return row.solution
        raise Malformed("response", "is missing: SFT needs an assistant turn, or a solution with its answer")
    boxed = f"\\boxed{{{row.answer}}}"
    changes.append("solution written as thinking, answer boxed" if row.solution else "answer boxed")
    return f"<think>{row.solution}</think>{boxed}" if row.solution else boxed


def _document(row: Row) -> str:
    if row.text is not None:
        return row.text
    parts = [message.content for message in row.prompt]
    parts += [part for part in (row.response, row.solution, row.answer) if part]
    return "\n".join(parts)
