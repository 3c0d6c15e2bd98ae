"""Recipe sections for the stages `corpus` and `decontaminate`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from components.recipe.base import StrictModel

Domain = Literal["math", "code", "logic", "science", "general"]
CodeLanguage = Literal["python", "c", "cpp", "javascript", "perl", "bash"]
Split = Literal["pretrain", "sft", "rl", "preference"]
LayoutName = Literal[
    "auto",
    "text",
    "messages",
    "sharegpt",
    "labelled",
    "message-tree",
    "alpaca",
    "prompt-response",
    "problem-answer",
    "code-tests",
    "grids",
    "preference",
    "ranked",
]
Severity = Literal["critical", "warning"]
Suite = Literal[
    "pretrain", "sft", "rl", "preference", "preference_heldout", "benchmark", "ingestion", "mix", "rollouts", "drift"
]


class FieldMap(StrictModel):
    """Where the parts of a record are: a dotted path (`meta.question`, `turns[0].text`), or a template with paths in
    braces (`{instruction}\\n{input}`). A path that ends in `?` may be absent. Parts without a path are not taken."""

    text: str | None = None
    messages: str | None = None
    system: str | None = None
    prompt: str | None = None
    response: str | None = None
    thinking: str | None = Field(default=None, description="Put before the response as <think>...</think>")
    problem: str | None = None
    answer: str | None = None
    solution: str | None = None
    tests: str | None = None
    entry_point: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    replies: str | None = Field(default=None, description="List of replies, ranked by `scores` or `ranks`")
    scores: str | None = Field(default=None, description="One number a reply, higher is better")
    ranks: str | None = Field(default=None, description="One number a reply, lower is better")
    label: str | None = Field(default=None, description="true: a wanted reply, false: an unwanted one")
    domain: str | None = None
    family: str | None = None
    level: str | None = None
    licence: str | None = None

    def named(self) -> dict[str, str]:
        return {name: path for name in type(self).model_fields if (path := getattr(self, name)) is not None}


class FileSource(StrictModel):
    """Records read from files. The layout is detected from the first records unless `layout` or `fields` say more."""

    kind: Literal["files"] = "files"
    uri: str = Field(
        description="A plain path, file://, s3:// (also globs and folders), or hf://OWNER/NAME[@REVISION]; "
        ".jsonl, .csv (also .gz, .zst), .parquet, .arrow"
    )
    split: Split
    domain: Domain | None = Field(default=None, description="Domain given to records that name none")
    layout: LayoutName = "auto"
    fields: FieldMap | None = Field(default=None, description="Where the parts of a record are, when detection fails")
    where: dict[str, str | int | float | bool] = Field(
        default={}, description="Only records with these values, by path; the others are counted as left out"
    )
    subset: str | None = Field(default=None, description="Configuration of a Hugging Face data set")
    part: str = Field(default="train", description="Split of a Hugging Face data set")
    licence: str = ""
    limit: int | None = Field(default=None, ge=1, description="Take at most this many records")
    max_tokens: int | None = Field(
        default=None, ge=1, description="Longer records are left out and counted; question and answer, without template"
    )


class GeneratorSource(StrictModel):
    """ringflow's own generator of verifiable problems with worked solutions (components.data.generator)."""

    kind: Literal["generator"] = "generator"
    pretrain: int = Field(ge=0, description="Raw text documents for the base model")
    sft: int = Field(ge=0, description="SFT records over all domains")
    rl: int = Field(ge=0, description="RL prompts over all domains")
    preference: int = Field(ge=0, description="Preference pairs")
    benchmark: int = Field(ge=8, description="Held-out items per benchmark")
    code_languages: tuple[CodeLanguage, ...] = Field(
        default=(), description="Open code problems ask for whole programs in these; Python functions when empty"
    )
    max_level: int = Field(default=5, ge=1, le=5, description="Hardest problems of every split, in steps")


class Expectation(StrictModel):
    """One of Great Expectations' own expectations, added to a suite without code."""

    suite: Suite
    name: str = Field(description="In snake case, such as expect_column_values_to_be_between")
    column: str = Field(default="", description="Empty for expectations about the whole table")
    kwargs: dict[str, Any] = Field(default={}, description="Its other arguments")
    severity: Severity = "warning"
    meaning: str = Field(default="", description="What its failure says, for people")


class GateConfig(StrictModel):
    """Great Expectations gates: a critical expectation stops the stage, a warning is shown."""

    min_records: int = Field(default=1, ge=0)
    max_malformed_fraction: float = Field(default=0.01, ge=0, le=1)
    max_duplicate_fraction: float = Field(default=0.2, ge=0, le=1)
    languages: tuple[str, ...] = Field(default=("en", "zh"), description="ISO 639-1 codes that prose may be in")
    max_drift: float = Field(
        default=0.3, ge=0, le=1, description="Largest total variation distance to the previous version of the corpus"
    )
    sample: int = Field(default=20_000, ge=100, description="Records of a split whose properties are validated")
    programs: int = Field(default=32, ge=0, description="Accepted solutions of code problems run for a suite")
    expectations: tuple[Expectation, ...] = ()


class PromptFilterConfig(StrictModel):
    """RL prompts that Ring-lite (arXiv 2506.14731) leaves out: what a rule cannot verify or a guess solves. By default
    everything is kept; the preset `ring-lite` turns all four rules on, single ones are turned on by name."""

    preset: Literal["none", "ring-lite"] = "none"
    domains: tuple[Domain, ...] = Field(default=("math", "science"), description="Where the rules apply")
    multi_part: bool = False
    multiple_choice: bool = False
    yes_no: bool = False
    image: bool = False
    code_solutions: Literal["ignore", "run", "require"] = Field(
        default="ignore",
        description="run: leave out a code prompt whose solution fails its tests; require: also one without a solution",
    )

    @property
    def reasons(self) -> tuple[str, ...]:
        """The rules that are on, in the order in which they are asked."""
        rules = ("multi_part", "multiple_choice", "yes_no", "image")
        return tuple(name for name in rules if self.preset == "ring-lite" or getattr(self, name))


class BenchmarkSource(StrictModel):
    """A benchmark read from files, beside the generator's own held-out sets."""

    name: str
    uri: str
    domain: Domain = "math"
    layout: LayoutName = "auto"
    fields: FieldMap | None = None
    subset: str | None = None
    part: str = "test"
    max_tokens: int | None = Field(
        default=None, ge=1, description="Items with a longer question are left out and counted; without template"
    )


class DedupConfig(StrictModel):
    """Duplicates inside a split, over all its sources. The first record survives; duplicates.parquet has the rest."""

    exact: bool = Field(default=True, description="Equal after normalisation")
    drop: bool = Field(default=True, description="false: the clusters are reported and nothing is dropped")
    near: bool = Field(default=True, description="Nearly the same words, and the same numbers and symbols")
    threshold: float = Field(default=0.8, gt=0.5, le=1, description="Jaccard similarity of word triples")


class CorpusConfig(StrictModel):
    sources: tuple[FileSource | GeneratorSource, ...] = Field(min_length=1)
    benchmarks: tuple[BenchmarkSource, ...] = ()
    filters: PromptFilterConfig = PromptFilterConfig()
    gates: GateConfig = GateConfig()
    dedup: DedupConfig = DedupConfig()


class DecontaminateConfig(StrictModel):
    """String level and semantic level against every benchmark of the recipe (thresholds are ours: none published)."""

    ngram: int = Field(default=13, ge=3, description="Words per n-gram; shorter items use the whole string")
    min_coverage: float = Field(default=0.5, gt=0, le=1, description="Share of a benchmark item's n-grams found")
    semantic: bool = True
    semantic_threshold: float = Field(default=0.92, gt=0, le=1, description="Cosine at or above: removed")
    semantic_review: float = Field(default=0.85, gt=0, le=1, description="Cosine at or above: kept, listed for review")
