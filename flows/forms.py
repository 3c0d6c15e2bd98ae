"""How the fields of a request look in Prefect's form: their order, and the lists they offer.

Each function returns what a pydantic Field takes as `json_schema_extra`. Stage names are offered in the form alone: a
recipe of one's own may have others, and is checked against its own DAG.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from components.failures import BadInput
from components.recipe.load import read_recipe, recipe_names
from flows.graph import build

RECIPES = Path(__file__).resolve().parent / "recipes"


@cache
def stage_names() -> tuple[str, ...]:
    """The stages of the project's recipes, in the order of the one with the most; one that cannot be read has none."""
    orders = []
    for name in recipe_names(RECIPES):
        try:
            orders.append(list(build(read_recipe(name, (), RECIPES).recipe).nodes))
        except BadInput:
            continue  # told when somebody runs it
    return tuple(dict.fromkeys(name for order in sorted(orders, key=len, reverse=True) for name in order))


def position(place: int) -> dict[str, Any]:
    return {"position": place}


def number(place: int, least: int = 0):
    """A whole number that may be left out: a union with null would be two controls."""

    def offer(schema: dict[str, Any]) -> None:
        del schema["anyOf"], schema["default"]
        schema |= {"position": place, "type": "integer", "minimum": least}

    return offer


def stage(place: int, *, may_be_empty: bool):
    def offer(schema: dict[str, Any]) -> None:
        schema |= {"position": place, "enum": [*([""] if may_be_empty else []), *stage_names()]}

    return offer


def stages(place: int):
    """A list of stages; `rlvr` and `evaluate` stand for all of their kind."""

    def offer(schema: dict[str, Any]) -> None:
        schema |= {"position": place, "items": {"type": "string", "enum": [*stage_names(), "rlvr", "evaluate"]}}

    return offer
