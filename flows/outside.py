"""What a recipe reads from outside the store, as part of the identity of the stages that read it.

A recipe names data, benchmarks, a base model and a tokenizer by place. Were only the place hashed, an edited file would
be reused as if nothing had happened. Looking also finds a missing file or an unknown layout before anything starts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from components.artifacts.outside import files_of, outside_digests
from components.data.sources import look
from components.recipe.data import BenchmarkSource, FileSource
from components.recipe.recipe import Recipe
from components.recipe.training import ImportConfig
from flows.completed import is_registered
from flows.graph import Graph

BUILT_IN = "nano"  # the tokenizer that is code


def with_outside(graph: Graph, read_base: bool = True) -> Graph:
    """The graph with the content of outside files in its nodes.

    read_base: also the directory of an imported base.
    Raises what reading the files would: BadInput (missing, unknown layout), InfrastructureError (S3 out of reach).
    """
    recipe = graph.recipe
    files = {"corpus": _corpus(recipe)}
    if read_base and isinstance(recipe.base, ImportConfig) and not is_registered(recipe.base):
        files["base"] = files_of(recipe.base.uri)
    tokenizer = tokenizer_files(recipe)
    every = [*(uri for uris in files.values() for uri in uris), *tokenizer]
    if not every:
        return graph
    memory = Path(os.environ.get("RINGFLOW_HOME", ".ringflow")) / "cache"
    digests = outside_digests(every, memory)
    nodes = {
        name: replace(node, outside=_of([*files.get(name, ()), *(tokenizer if node.stage.uses_model else ())], digests))
        for name, node in graph.nodes.items()
    }
    return replace(graph, nodes=nodes)


def tokenizer_files(recipe: Recipe) -> list[str]:
    """Of the recipe's tokenizer; none of the built-in one."""
    return [] if recipe.model.tokenizer == BUILT_IN else files_of(recipe.model.tokenizer)


def look_at_local_files(recipe: Recipe) -> None:
    """Raises BadInput for a missing local file of the corpus, or one of an unknown layout."""
    for source in _sources(recipe):
        if not source.uri.startswith(("s3://", "hf://")):
            look(source)


def _of(uris: list[str], digests: Mapping[str, str]) -> dict[str, str]:
    return {uri: digests[uri] for uri in uris}


def _corpus(recipe: Recipe) -> list[str]:
    return [uri for source in _sources(recipe) for uri in look(source)]


def _sources(recipe: Recipe) -> list[FileSource | BenchmarkSource]:
    files = [source for source in recipe.corpus.sources if isinstance(source, FileSource)]
    return [*files, *recipe.corpus.benchmarks]
