"""Recipe section for the model: a Ling 2.0 preset and the tokenizer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.recipe.base import Later, StrictModel


class ModelConfig(StrictModel):
    """Which architecture is trained. Presets are defined, with sources, in components.model.spec."""

    preset: Literal["base", "nano", "smoke", "small", "ring-mini-2.0", "ring-flash-2.0", "ring-1t"] = Field(
        default="base", description="`base`: the one that an imported base was made with"
    )
    tokenizer: str = Field(
        default="nano",
        description="`nano` (built in, characters and special tokens) or a directory of a HF tokenizer; an imported "
        "base's own when absent",
    )
    mtp_layers: int | None = Later(
        ge=0, le=1, description="Layers that predict the token after the next; those of the imported base when absent"
    )
    max_position: int | None = Field(
        default=None, ge=16, description="Context length; the imported base's, else the preset's when absent"
    )
