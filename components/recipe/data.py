"""Recipe sections for the stages `corpus` and `decontaminate`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.recipe.base import StrictModel

Domain = Literal["math", "code", "logic", "science", "general"]
Split = Literal["pretrain", "sft", "rl", "preference"]


class FileSource(StrictModel):
    """Records read from files. The layout is detected from the first record unless `layout` names it."""

    kind: Literal["files"] = "files"
    uri: str = Field(description="file://, s3:// or a plain path; may end in a glob; .jsonl, .jsonl.gz or .parquet")
    split: Split
    domain: Domain | None = Field(default=None, description="Domain given to records that name none")
    layout: Literal["auto", "text", "messages", "prompt-response", "problem-answer", "preference", "code-tests"] = (
        "auto"
    )
    licence: str = ""
    limit: int | None = Field(default=None, ge=1, description="Take at most this many records")


class GeneratorSource(StrictModel):
    """ringflow's own generator of verifiable problems with worked solutions (components.data.generator)."""

    kind: Literal["generator"] = "generator"
    pretrain: int = Field(ge=0, description="Raw text documents for the base model")
    sft: int = Field(ge=0, description="SFT records over all domains")
    rl: int = Field(ge=0, description="RL prompts over all domains")
    preference: int = Field(ge=0, description="Preference pairs")
    benchmark: int = Field(ge=8, description="Held-out items per benchmark")
    max_level: int = Field(default=5, ge=1, le=5, description="Hardest problems of every split, in steps")


class GateConfig(StrictModel):
    """Great Expectations gates: a critical expectation stops the stage, a warning is shown."""

    min_records: int = Field(default=1, ge=0)
    max_malformed_fraction: float = Field(default=0.01, ge=0, le=1)
    max_duplicate_fraction: float = Field(default=0.2, ge=0, le=1)


class BenchmarkSource(StrictModel):
    """A benchmark read from files, beside the generator's own held-out sets."""

    name: str
    uri: str
    domain: Domain = "math"
    layout: Literal["auto", "problem-answer", "code-tests"] = "auto"


class CorpusConfig(StrictModel):
    sources: tuple[FileSource | GeneratorSource, ...] = Field(min_length=1)
    benchmarks: tuple[BenchmarkSource, ...] = ()
    gates: GateConfig = GateConfig()


class DecontaminateConfig(StrictModel):
    """String level and semantic level against every benchmark of the recipe (thresholds are ours: none published)."""

    ngram: int = Field(default=13, ge=3, description="Words per n-gram; shorter items use the whole string")
    min_coverage: float = Field(default=0.5, gt=0, le=1, description="Share of a benchmark item's n-grams found")
    semantic: bool = True
    semantic_threshold: float = Field(default=0.92, gt=0, le=1, description="Cosine at or above: removed")
    semantic_review: float = Field(default=0.85, gt=0, le=1, description="Cosine at or above: kept, listed for review")
