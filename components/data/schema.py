"""The records that pass between stages, as JSON lines. One class per split; unknown fields are errors.

Files inside the artifacts `corpus` and `decontaminate`:
    data/pretrain.jsonl  data/sft.jsonl  data/rl.jsonl  data/preference.jsonl  data/preference_heldout.jsonl
    benchmarks/<name>.jsonl (BenchmarkItem)
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from components.recipe.data import Domain

VerifierKind = Literal[
    "math", "code", "logic", "science", "instruction", "preference", "choice", "grid", "table", "judged"
]


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(description="sha256 of the content, first 16 hex digits")
    source: str = Field(description="URI of the file and, after `#`, its line or row")
    licence: str = ""
    row: int = Field(default=0, description="Line or row in its file, from 1; 0 for generated records")
    transformations: tuple[str, ...] = Field(default=(), description="What was done to the original, in order")


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "user", "assistant"]
    content: str


class PretrainRecord(Record):
    text: str


class SftRecord(Record):
    """`response` is the whole assistant turn: `<think>...</think>` and the answer."""

    domain: Domain
    family: str
    level: int = 0
    prompt: tuple[Message, ...]
    response: str


class Verifier(BaseModel):
    """How a response is checked. `reference` depends on `kind`:

    math, science: {"answer": str, "tolerance": float?, "unit": str?}
                   science also {"options": {letter: str}} of a multiple-choice item that was opened
    logic:         {"answer": str} or {"entry": {"question", "answer", "metadata"}} of a reasoning-gym generator
    code:          {"language": "python", "tests": [{"stdin": str, "stdout": str}] or [{"call": str, "result": str}],
                    "entry_point": str?}
    instruction:   {"constraints": [{"id": str, "arguments": {...}}], "mode": "strict" or "loose"?}
    preference:    {"rubric": str, ...} gold preference of the generator; never shown to a policy or a reward model
                   or {"rubric_items": [{"text": str, "points": float}]} for rubric judges
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: VerifierKind
    reference: dict[str, Any]


class RlRecord(Record):
    domain: Domain
    family: str
    level: int = 0
    prompt: tuple[Message, ...]
    verifier: Verifier
    solution: str | None = Field(default=None, description="A solution that came with the problem; no policy sees it")


class PreferenceRecord(Record):
    domain: Domain = "general"
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str


class BenchmarkItem(RlRecord):
    benchmark: str
