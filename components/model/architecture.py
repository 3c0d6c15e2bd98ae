"""Whether two specs describe the same weights."""

from __future__ import annotations

from components.failures import BadInput
from components.model.spec import PRESETS, LingSpec

# A name, how weights are drawn and how far a context reaches do not change what a tensor means.
FREE = {"name", "initializer_range", "max_position_embeddings", "yarn"}


def check_architecture(found: LingSpec, wanted: LingSpec, where: str) -> None:
    """Refuses weights of another shape.

    Raises:
        BadInput: naming the fields that differ, with both values.
    """
    ours, theirs = wanted.model_dump(exclude=FREE), found.model_dump(exclude=FREE)
    different = [f"{name} {theirs[name]} (recipe: {value})" for name, value in ours.items() if theirs[name] != value]
    if different:
        raise BadInput(
            f"the model is not of the recipe's architecture {wanted.name}: {', '.join(different)}",
            where=where,
            remedy="Choose the model.preset, and model.mtp_layers, the checkpoint was made with",
        )


def preset_of(found: LingSpec, where: str) -> str:
    """The preset whose weights have this shape. Raises BadInput naming the nearest and what differs."""
    free = FREE | {"num_nextn_predict_layers"}  # model.mtp_layers says it
    theirs = found.model_dump(exclude=free)
    differing = {
        name: [f"{key} {theirs[key]} (there: {value})" for key, value in spec.model_dump(exclude=free).items()
               if theirs[key] != value]
        for name, spec in PRESETS.items()
    }  # fmt: skip
    nearest = min(differing, key=lambda name: len(differing[name]))
    if differing[nearest]:
        raise BadInput(
            f"no preset has this model's shape; {nearest} is nearest: {', '.join(differing[nearest])}",
            where=where,
            remedy=f"Presets: {', '.join(PRESETS)} (components/model/spec.py)",
        )
    return nearest
