"""A node of the DAG: one stage with its inputs, its part of the recipe and its seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.artifacts.fingerprint import identity_of, input_identity
from components.artifacts.ref import ArtifactRef
from tasks.stage import Stage, StageConfig


@dataclass(frozen=True)
class Node:
    """inputs: the stage's input name -> the node that makes it. seed: the recipe's seed folded with the stage."""

    name: str
    stage: Stage
    inputs: Mapping[str, str]
    config: StageConfig
    seed: int

    def identity(self, inputs: Mapping[str, ArtifactRef], repeat: str | None = None) -> dict[str, Any]:
        """What is hashed into the fingerprint, given the committed inputs.

        repeat: tells a forced repetition from the first result of the same work; it belongs to one run and its retries.
        """
        config: dict[str, Any] = {"section": self.config.section, "model": self.config.model}
        if repeat is not None:
            config["repeat"] = repeat
        digests = {name: input_identity(ref.fingerprint, ref.manifest_sha256) for name, ref in inputs.items()}
        return identity_of(self.stage.type, self.stage.version, config, digests, self.seed)
