"""A node of the DAG: one stage with its inputs, its part of the recipe and its seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from components.artifacts.fingerprint import identity_of, input_identity
from components.artifacts.provenance import ConfigValue
from components.artifacts.ref import ArtifactRef
from components.recipe.load import LoadedRecipe
from tasks.stage import Stage, StageConfig


@dataclass(frozen=True)
class Node:
    """inputs: the stage's input name -> the node that makes it. seed: the recipe's seed folded with the stage.

    key: where its section stands in the recipe, such as `rlvr.0`. instead: keys of the section whose value another key
    of the section gave (the base model is evaluated with `base_samples`). outside: digests of files from outside the
    store that the stage reads, by URI.
    """

    name: str
    stage: Stage
    inputs: Mapping[str, str]
    config: StageConfig
    seed: int
    key: str = ""
    instead: Mapping[str, str] = field(default_factory=dict)
    outside: Mapping[str, str] = field(default_factory=dict)

    def identity(self, inputs: Mapping[str, ArtifactRef], repeat: str | None = None) -> dict[str, Any]:
        """What is hashed into the fingerprint, given the committed inputs.

        repeat: tells a forced repetition from the first result of the same work; it belongs to one run and its retries.
        """
        config: dict[str, Any] = {"section": self.config.section, "model": self.config.model}
        if repeat is not None:
            config["repeat"] = repeat
        if self.outside:
            config["outside"] = dict(self.outside)
        digests = {name: input_identity(ref.fingerprint, ref.manifest_sha256) for name, ref in inputs.items()}
        return identity_of(self.stage.type, self.stage.version, config, digests, self.seed)

    def values(self, loaded: LoadedRecipe) -> dict[str, ConfigValue]:
        """Every value this node gets from the recipe, with its origin: seed, model, its section, execution."""
        found: dict[str, dict[str, Any]] = {}
        for prefix in ("seed", *(["model"] if self.config.model is not None else []), self.key, "execution"):
            found |= loaded.below(prefix) if prefix else {}
        for name, source in self.instead.items():
            given = loaded.below(f"{self.key}.{source}")[f"{self.key}.{source}"]
            found[f"{self.key}.{name}"] = {**given, "origin": f"{self.key}.{source}, {given['origin']}"}
        return {key: ConfigValue(**entry) for key, entry in found.items()}
