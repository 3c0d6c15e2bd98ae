"""The base of every recipe model: unknown keys are errors, values are immutable, floats are finite."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

LATER = "later"  # known to components.artifacts.fingerprint


class StrictModel(BaseModel):
    """Identity configuration: every field is part of the stage fingerprint (see components.artifacts.fingerprint)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


def Later(**options: Any) -> Any:
    """A field, None by default, that came when results existed already: it enters a fingerprint where it is set, so
    that recipes which do not know it find what they made."""
    return Field(default=None, json_schema_extra={LATER: True}, **options)
