"""Recipe sections for `evaluate`, `select` and `release`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from components.recipe.base import StrictModel
from components.recipe.data import Domain


class BenchmarkSettings(StrictModel):
    """Values of one benchmark that differ from its own; every change makes another score."""

    benchmark: str
    samples: int | None = Field(default=None, ge=1)
    items: int | None = Field(default=None, ge=1, description="Only the first items")
    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_new_tokens: int | None = Field(default=None, ge=1)


class AgenticConfig(StrictModel):
    """Bounds of the solver-grader loop, for benchmarks solved with several agents (components.evaluation.agentic)."""

    solvers: int = Field(default=2, ge=1, description="Solutions written side by side in each round")
    graders: int = Field(default=2, ge=1, description="Graders of every solution")
    rounds: int = Field(default=3, ge=0, description="Times that solutions are mended")
    token_budget: int = Field(default=2_000_000, ge=1, description="Tokens of one attempt, graders' included")


class EvaluationConfig(StrictModel):
    """The same held-out benchmarks after base, SFT, every RLVR phase and RLHF."""

    samples: int = Field(default=8, ge=1, description="k of avg@k and pass@k")
    base_samples: int | None = Field(
        default=None, ge=1, description="k for the base model alone, which seldom stops before the limit"
    )
    items: int | None = Field(default=None, ge=1, description="First items of each benchmark; all when absent")
    max_new_tokens: int | None = Field(default=None, ge=1, description="Longest answer; half the context when absent")
    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    confidence: float = Field(default=0.95, gt=0, lt=1)
    engine_dtype: Literal["float32", "bfloat16"] = "float32"
    settings: tuple[BenchmarkSettings, ...] = Field(
        default=(), description="Of single benchmarks; standard ones have their own, the recipe's sets those above"
    )
    judge: str = Field(
        default="", description="Model that decides judged benchmarks; execution.judges says where it is"
    )
    agentic: AgenticConfig = AgenticConfig()
    yarn_factor: float | None = Field(
        default=None, gt=1, description="YaRN context extension of the engines (Ring releases: 2, from 64K to 128K)"
    )

    def for_base(self) -> EvaluationConfig:
        """The settings the base model is evaluated with."""
        return self if self.base_samples is None else self.model_copy(update={"samples": self.base_samples})


class SelectConfig(StrictModel):
    """The optional stage that chooses among SFT's candidates by their answers to RL prompts, not by their entropy.

    Each look asks every candidate that is still in for `batch` more prompts; whoever is surely behind leaves.
    """

    items: int = Field(default=256, ge=1, description="RL prompts at most")
    batch: int = Field(default=32, ge=1, description="Prompts between two looks")
    samples: int = Field(default=4, ge=1, description="Answers per prompt")
    domains: tuple[Domain, ...] = Field(default=("math", "code", "logic", "science"), min_length=1)
    alpha: float = Field(default=0.05, gt=0, lt=1, description="Chance of throwing out the best one, over all looks")
    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_new_tokens: int = Field(ge=1)
    engine_dtype: Literal["float32", "bfloat16"] = "float32"
    reward_timeout_s: float = Field(default=10.0, gt=0)


class StandardBenchmark(StrictModel):
    """A registered benchmark (components.evaluation.benchmark). Its records come from the hub when `uri` is empty."""

    name: str = Field(description="Such as aime25 or livecodebench:2410-2504")
    uri: str = Field(default="", description="File, s3:// object, Hugging Face data set directory or hf:// id")


class BenchmarkFile(StrictModel):
    """A further file of a benchmark: the baseline's answers, the standings of contests, judging criteria."""

    benchmark: str
    file: str
    uri: str


class BenchmarksConfig(StrictModel):
    """Stage `benchmarks`: standard benchmarks read into an artifact, so that a score names the records it rests on."""

    benchmarks: tuple[StandardBenchmark, ...] = Field(min_length=1)
    files: tuple[BenchmarkFile, ...] = ()


class ServedModel(StrictModel):
    """A model that is asked over HTTP: an endpoint that exists, or a Hugging Face directory that vLLM serves meanwhile.

    An endpoint's weights cannot be hashed: `revision` is what its owner calls them, and a new one is another score.
    """

    base_url: str = Field(default="", description="Ends in /v1")
    model: str = Field(default="", description="Name at the endpoint")
    revision: str = ""
    directory: str = Field(default="", description="Hugging Face directory to serve here")
    api_key_env: str = Field(default="", description="Environment variable that holds the key")

    @model_validator(mode="after")
    def _one_place(self) -> ServedModel:
        if bool(self.base_url and self.model) == bool(self.directory):
            raise ValueError("either base_url and model, or directory")
        return self


class ServedEvaluationConfig(StrictModel):
    """Stage `evaluate-served`."""

    served: ServedModel
    evaluation: EvaluationConfig


class ReleaseConfig(StrictModel):
    model_name: str = Field(
        default="", pattern=r"^[A-Za-z0-9._-]*$", description="Registered model in MLflow; the recipe's name when empty"
    )
    dtype: Literal["bfloat16", "float32", "fp8", "int4", "int4-dense"] = Field(
        default="float32",
        description="Of the released weights; fp8, int4: of projections, the rest bfloat16; int4-dense: routed experts "
        "bfloat16 too",
    )
    parity_tolerance: float = Field(
        default=1e-5, gt=0, description="|log-prob difference|, trainer to vLLM, of 99 % of tokens"
    )
    licence: str = "apache-2.0"
    alias: str = "released"
