"""The records that pass between stages, as JSON lines. One class per split; unknown fields are errors.

Files inside the artifacts `corpus` and `decontaminate`:
    data/pretrain.jsonl  data/sft.jsonl  data/rl.jsonl  data/preference.jsonl  data/preference_heldout.jsonl
    benchmarks/<name>.jsonl (BenchmarkItem)
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from components.recipe.data import Domain

VerifierKind = Literal["math", "code", "logic", "science", "instruction", "preference"]


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(description="sha256 of the content, first 16 hex digits")
    source: str
    licence: str = ""


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
    logic:         {"answer": str}
    code:          {"language": "python", "tests": [{"stdin": str, "stdout": str}] or [{"call": str, "result": str}],
                    "entry_point": str?}
    instruction:   {"constraints": [{"id": str, "arguments": {...}}]}
    preference:    {"rubric": str, ...} gold preference of the generator; never shown to a policy or a reward model
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


class PreferenceRecord(Record):
    domain: Domain = "general"
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str


class BenchmarkItem(RlRecord):
    benchmark: str
