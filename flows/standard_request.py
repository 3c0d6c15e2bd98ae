"""What a person asks for when models go through standard benchmarks; imports no server, so it is checked at once."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import ConfigDict, Field

from components.artifacts.outside import files_of, outside_digests
from components.data.sources import expand
from components.evaluation.benchmark import find, is_standard
from components.evaluation.benchmark_data import is_hub_id
from components.failures import BadInput
from components.recipe.evaluation import BenchmarkFile, BenchmarksConfig, ServedModel, StandardBenchmark
from components.recipe.load import LoadedRecipe, read_recipe
from components.recipe.secrets import refuse_in_address
from flows import forms
from flows.forms import RECIPES
from flows.graph import Graph
from flows.outside import tokenizer_files
from flows.request import RecipeRequest

# Values of every benchmark that a request may set in one place.
SHORTHANDS = ("samples", "items", "max_new_tokens")


class BenchmarksRequest(RecipeRequest):
    """The fields of every form that asks for standard benchmarks."""

    model_config = ConfigDict(extra="forbid")

    benchmarks: list[str] = Field(
        default=[],
        title="Benchmarks",
        description="One item each: aime25, or aime25=s3://bucket/aime25.jsonl; the hub's data where no file is named",
        json_schema_extra=forms.position(4),
    )
    files: list[str] = Field(
        default=[],
        title="Further files",
        description="One item each, such as arena-hard-v2.baseline=answers.jsonl",
        json_schema_extra=forms.position(5),
    )
    judge: str = Field(
        default="",
        title="Judge",
        description="MODEL@URL of an OpenAI-compatible endpoint, for judged benchmarks",
        json_schema_extra=forms.position(6),
    )
    samples: int | None = Field(
        default=None,
        ge=1,
        title="Answers per item",
        description="Each benchmark's own number when empty",
        json_schema_extra=forms.number(30, least=1),
    )
    items: int | None = Field(
        default=None,
        ge=1,
        title="Items per benchmark",
        description="The first ones; all when empty",
        json_schema_extra=forms.number(32, least=1),
    )
    max_new_tokens: int | None = Field(
        default=None,
        ge=1,
        title="Longest answer, tokens",
        description="Each benchmark's own limit when empty; cut to what the model's context leaves in any case",
        json_schema_extra=forms.number(34, least=1),
    )
    api_key_env: str = Field(
        default="",
        title="Variable with the API key",
        description="Of endpoints and of the judge, on the worker; the key itself is never stored",
        json_schema_extra=forms.position(95),
    )

    def check(self) -> None:
        """Everything that needs no server. Raises BadInput."""
        section = self.section()
        graph, _ = self.read(read_base=False, servers=False)
        graph.standard_evaluations(section, {})

    def values(self) -> list[str]:
        found = []
        if self.judge:
            model, url = _at(self.judge, "--judge")
            judge = {"model": model, "base_url": url} | ({"api_key_env": self.api_key_env} if self.api_key_env else {})
            found += [f"evaluate.judge={json.dumps(model)}", f"execution.judges=[{json.dumps(judge)}]"]
        short = {name: value for name in SHORTHANDS if (value := getattr(self, name)) is not None}
        if short:
            given = read_recipe(self.recipe_file or self.recipe, self.overrides, RECIPES).recipe.evaluate.settings
            every = {setting.benchmark: setting.model_dump(exclude_none=True) for setting in given}
            for name, _, _ in self._named():
                every[name] = {**every.get(name, {"benchmark": name}), **short}
            found.append(f"evaluate.settings={json.dumps(list(every.values()))}")
        return found

    def section(self) -> BenchmarksConfig:
        """The benchmarks with their files. Raises BadInput."""
        named = self._named()
        if not named:
            raise BadInput("no benchmark is named", where="--benchmark", remedy="ringflow benchmarks lists them")
        for name, _, uri in named:
            find(name)
            refuse_in_address(uri, f"--benchmark {name}")
            if uri and "://" not in uri and not Path(uri).exists():
                raise BadInput("there is no such file", where=f"--benchmark {name}={uri}")
        files = []
        for text in self.files:
            key, _, uri = text.partition("=")
            benchmark, dot, file = key.rpartition(".")
            if not dot or not uri:
                raise BadInput(
                    f"{text!r} is not BENCHMARK.FILE=PATH", where="--file", remedy="Such as codeforces.standings=PATH"
                )
            refuse_in_address(uri, f"--file {key}")
            if "://" not in uri and not Path(uri).is_file():
                raise BadInput("there is no such file", where=f"--file {text}")
            if benchmark not in {name for name, _, _ in named}:
                raise BadInput(f"{benchmark} is not among the benchmarks", where=f"--file {text}")
            files.append(BenchmarkFile(benchmark=benchmark, file=file, uri=_absolute(uri)))
        listed = tuple(StandardBenchmark(name=name, uri=_absolute(uri)) for name, _, uri in named)
        return BenchmarksConfig(benchmarks=listed, files=tuple(files))

    def served(self, model: str, revision: str = "") -> ServedModel | None:
        """None for a model that our engines hold."""
        if "@http" in model:
            name, url = _at(model, "model")
            return ServedModel(base_url=url, model=name, revision=revision, api_key_env=self.api_key_env)
        return ServedModel(directory=str(Path(model).absolute())) if is_served(model) else None

    def standard(self, models: Mapping[str, str | ServedModel]) -> tuple[Graph, LoadedRecipe]:
        """The DAG of these evaluations (node -> model), with the content of every outside file in its identities.

        Raises BadInput.
        """
        graph, loaded = self.read(read_base=False, servers=False)
        section = self.section()
        for model in models.values():
            if isinstance(model, ServedModel) and model.base_url and loaded.recipe.evaluate.yarn_factor:
                raise BadInput(
                    "an endpoint decides on its context itself",
                    where="evaluate.yarn_factor",
                    remedy="Start it with YaRN, and ask with --set evaluate.yarn_factor=null",
                )
        graph = graph.standard_evaluations(section, models)
        uris = [place for wanted in section.benchmarks if wanted.uri for place in _places(wanted.uri)]
        files = {"benchmarks": [*uris, *(file.uri for file in section.files)]}
        for name, model in models.items():
            if isinstance(model, ServedModel):
                files[name] = files_of(model.directory) if model.directory else []
            else:
                files[name] = tokenizer_files(loaded.recipe)
        memory = Path(os.environ.get("RINGFLOW_HOME", ".ringflow")) / "cache"
        outside = {name: outside_digests(found, memory) for name, found in files.items() if found}
        nodes = {name: replace(node, outside=outside.get(name, {})) for name, node in graph.nodes.items()}
        return replace(graph, nodes=nodes), loaded

    def _named(self) -> list[tuple[str, str, str]]:
        return [text.partition("=") for text in self.benchmarks if text]


class StandardRequest(BenchmarksRequest):
    """A model on standard benchmarks."""

    model_config = ConfigDict(extra="forbid", title="Evaluate a model on standard benchmarks")

    model: str = Field(
        title="Model",
        description="models:/ring-nano@released, an artifact's URI, a Hugging Face directory, or MODEL@URL",
        json_schema_extra=forms.position(0),
    )
    revision: str = Field(
        default="",
        title="Revision of the endpoint's model",
        description="A new one is evaluated anew; the same one is reused",
        json_schema_extra=forms.position(8),
    )

    def load(self) -> tuple[Graph, LoadedRecipe]:
        """The benchmarks and one evaluation. Raises BadInput."""
        return self.standard({"evaluate": self.served(self.model, self.revision) or "model"})


def is_standard_name(text: str) -> bool:
    return is_standard(text.partition("=")[0])


def is_served(model: str) -> bool:
    """Whether a model is asked over HTTP: MODEL@URL, or a Hugging Face directory."""
    return "@http" in model or (Path(model) / "config.json").is_file()


def _at(text: str, where: str) -> tuple[str, str]:
    refuse_in_address(text, where)
    model, _, url = text.rpartition("@")
    if not model or not url.startswith(("http://", "https://")):
        raise BadInput(f"{text!r} is not MODEL@URL", where=where, remedy="Such as qwen3@http://127.0.0.1:8000/v1")
    return model, url


def _absolute(uri: str) -> str:
    return uri if not uri or "://" in uri else str(Path(uri).absolute())


def _places(uri: str) -> list[str]:
    if is_hub_id(uri):
        return []  # named by its revision, not by content that is here
    return files_of(uri) if "://" not in uri and Path(uri).is_dir() else expand(uri)
