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

    def identity(self, inputs: Mapping[str, ArtifactRef]) -> dict[str, Any]:
        """What is hashed into the fingerprint, given the committed inputs."""
        return identity_of(
            self.stage.type,
            self.stage.version,
            {"section": self.config.section, "model": self.config.model},
            {name: input_identity(ref.fingerprint, ref.manifest_sha256) for name, ref in inputs.items()},
            self.seed,
        )
