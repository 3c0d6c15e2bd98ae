"""The base of every recipe model: unknown keys are errors, values are immutable, floats are finite."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """Identity configuration: every field is part of the stage fingerprint (see components.artifacts.fingerprint)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())
