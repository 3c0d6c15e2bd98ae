"""ArtifactRef: the small JSON that stands for a committed artifact everywhere outside the store."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

ArtifactKind = Literal["corpus", "clean-corpus", "checkpoint", "reward-model", "evaluation", "release"]


class ModelContract(BaseModel):
    """What two stages must agree on before one may start from the other's model; compared when the DAG is built."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokenizer_sha256: str
    chat_template_sha256: str
    eos_token_id: int
    vocabulary: int
    context_length: int
    dtype: str


class ArtifactRef(BaseModel):
    """One stage's one artifact: a committed directory in the store. Passed between stages and kept by Prefect.

    uri: directory of the winning attempt, `<store>/<project>/<stage>/<fingerprint>/attempts/<id>`.
    manifest_sha256: digest of its manifest.json, which lists every file with size and sha256.
    contract: present for artifacts that hold a model.
    summary: small scalars people look at (counts, scores), never the truth itself.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: ArtifactKind
    stage: str = Field(description="Node of the DAG that made it, e.g. rlvr-1")
    fingerprint: str
    uri: str
    manifest_sha256: str
    contract: ModelContract | None = None
    summary: dict[str, float | int | str] = {}
