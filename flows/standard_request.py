"""What a person asks for when a model goes through standard benchmarks; imports no server, so it is checked at once."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from components.artifacts.outside import files_of, outside_digests
from components.data.sources import expand
from components.evaluation.benchmark import find, is_standard
from components.failures import BadInput
from components.recipe.evaluation import BenchmarkFile, BenchmarksConfig, ServedModel, StandardBenchmark
from components.recipe.load import LoadedRecipe
from flows.graph import Graph, build
from flows.request import RecipeName, load_graph


class StandardRequest(BaseModel):
    """A model on standard benchmarks."""

    model_config = ConfigDict(extra="forbid", title="Evaluate a model on standard benchmarks")

    model: str = Field(
        title="Model",
        description="models:/ring-nano@released, an artifact's URI, a Hugging Face directory, or MODEL@URL",
        json_schema_extra={"position": 0},
    )
    benchmarks: list[str] = Field(
        title="Benchmarks",
        description="Such as aime25, or aime25=s3://bucket/aime25.jsonl; the hub's data where no file is named",
        json_schema_extra={"position": 10},
    )
    files: list[str] = Field(
        default=[],
        title="Further files",
        description="Such as arena-hard-v2.baseline=answers.jsonl",
        json_schema_extra={"position": 20},
    )
    judge: str = Field(
        default="", title="Judge", description="MODEL@URL, for judged benchmarks", json_schema_extra={"position": 30}
    )
    revision: str = Field(
        default="",
        title="Revision of the endpoint's model",
        description="A new one is evaluated anew; the same one is reused",
        json_schema_extra={"position": 40},
    )
    recipe: RecipeName = Field(  # type: ignore[valid-type]
        default="nano",
        title="Recipe",
        description="Its model shape, evaluation and execution settings are used",
        json_schema_extra={"position": 50},
    )
    recipe_file: str = Field(default="", title="Recipe file", json_schema_extra={"position": 60})
    overrides: list[str] = Field(
        default=[],
        title="Overrides",
        description="Such as evaluate.settings=[{benchmark: aime25, samples: 8}]",
        json_schema_extra={"position": 70},
    )
    api_key_env: str = Field(
        default="",
        title="Variable with the API key",
        description="Of the endpoint and of the judge; the key itself is never stored",
        json_schema_extra={"position": 80},
    )

    def check(self) -> None:
        """Everything that needs no server. Raises BadInput."""
        self.section()
        self.read(servers=False)

    def section(self) -> BenchmarksConfig:
        """The benchmarks with their files."""
        named = [text.partition("=") for text in self.benchmarks if text]
        if not named:
            raise BadInput("no benchmark is named", where="--benchmark", remedy="ringflow benchmarks lists them")
        for name, _, uri in named:
            find(name)
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
            if "://" not in uri and not Path(uri).is_file():
                raise BadInput("there is no such file", where=f"--file {text}")
            files.append(BenchmarkFile(benchmark=benchmark, file=file, uri=_absolute(uri)))
        listed = tuple(StandardBenchmark(name=name, uri=_absolute(uri)) for name, _, uri in named)
        return BenchmarksConfig(benchmarks=listed, files=tuple(files))

    def read(self, servers: bool = True) -> tuple[Graph, LoadedRecipe]:
        """The recipe with the judge of this request."""
        overrides = list(self.overrides)
        if self.judge:
            model, url = _at(self.judge, "--judge")
            key = f", api_key_env: {self.api_key_env}" if self.api_key_env else ""
            overrides += [f"evaluate.judge={model}", f"execution.judges=[{{model: {model}, base_url: '{url}'{key}}}]"]
        return load_graph(self.recipe_file or self.recipe, overrides, read_base=False, servers=servers)

    def served(self) -> ServedModel | None:
        """None for a model that our engines hold."""
        if "@http" in self.model:
            model, url = _at(self.model, "model")
            return ServedModel(base_url=url, model=model, revision=self.revision, api_key_env=self.api_key_env)
        if is_served(self.model):
            return ServedModel(directory=str(Path(self.model).absolute()))
        return None

    def load(self) -> tuple[Graph, LoadedRecipe]:
        """The DAG with the content of every outside file in its identities. Raises BadInput."""
        _, loaded = self.read()
        section, served = self.section(), self.served()
        graph = build(loaded.recipe).standard_evaluation(section, served)
        memory = Path(os.environ.get("RINGFLOW_HOME", ".ringflow")) / "cache"
        uris = [place for wanted in section.benchmarks if wanted.uri for place in _places(wanted.uri)]
        uris += [file.uri for file in section.files]
        outside = {"benchmarks": outside_digests(uris, memory)}
        if served is not None and served.directory:
            outside["evaluate"] = outside_digests(files_of(served.directory), memory)
        nodes = {name: replace(node, outside=outside.get(name, {})) for name, node in graph.nodes.items()}
        return replace(graph, nodes=nodes), loaded


def is_standard_name(text: str) -> bool:
    return is_standard(text.partition("=")[0])


def is_served(model: str) -> bool:
    """Whether a model is asked over HTTP: MODEL@URL, or a Hugging Face directory."""
    return "@http" in model or (Path(model) / "config.json").is_file()


def _at(text: str, where: str) -> tuple[str, str]:
    model, _, url = text.rpartition("@")
    if not model or not url.startswith(("http://", "https://")):
        raise BadInput(f"{text!r} is not MODEL@URL", where=where, remedy="Such as qwen3@http://127.0.0.1:8000/v1")
    return model, url


def _absolute(uri: str) -> str:
    return uri if not uri or "://" in uri else str(Path(uri).absolute())


def _places(uri: str) -> list[str]:
    return files_of(uri) if "://" not in uri and Path(uri).is_dir() else expand(uri)
