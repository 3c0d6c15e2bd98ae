"""What a person asks for: the parameters of a run, as shallow models that Prefect renders as forms.

`position` keeps the fields in this order (Prefect sorts by name otherwise); text that may be absent is empty rather
than null, because a union renders as two controls.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from components.recipe.load import LoadedRecipe, read_recipe, recipe_names
from flows.graph import Graph, build

RECIPES = Path(__file__).resolve().parent / "recipes"

# Read from the folder, so that a new recipe appears in the form without code.
RecipeName = Literal[tuple(recipe_names(RECIPES))]  # type: ignore[valid-type]


class RunRequest(BaseModel):
    """Which recipe to run, and how much of it. Finished stages are reused; a failed one resumes."""

    model_config = ConfigDict(extra="forbid", title="Run a recipe")

    recipe: RecipeName = Field(  # type: ignore[valid-type]
        default="nano", title="Recipe", description="A recipe of the project", json_schema_extra={"position": 0}
    )
    recipe_file: str = Field(
        default="",
        title="Recipe file",
        description="Path of a YAML file on the worker, instead of a recipe of the project",
        json_schema_extra={"position": 1},
    )
    seed: int | None = Field(
        default=None, ge=0, title="Seed", description="The recipe's when empty", json_schema_extra={"position": 2}
    )
    start_at: str = Field(
        default="",
        title="Start at stage",
        description="Such as sft or rlvr-2; earlier stages must be finished",
        json_schema_extra={"position": 3},
    )
    only: list[str] = Field(
        default=[],
        title="Only these stages",
        description="Their inputs must be finished",
        json_schema_extra={"position": 4},
    )
    force: list[str] = Field(
        default=[],
        title="Run again although finished",
        description="Stages to compute anew, for this run and its retries",
        json_schema_extra={"position": 5},
    )
    overrides: list[str] = Field(
        default=[],
        title="Overrides",
        description="Such as sft.steps=100 or rlvr.0.loss.beta=4",
        json_schema_extra={"position": 6},
    )
    repeat_of: str = Field(
        default="",
        title="Rerun of",
        description="Run id whose forced stages are reused (set by `ringflow rerun`)",
        json_schema_extra={"position": 7},
    )

    def load(self) -> tuple[Graph, LoadedRecipe]:
        """Reads and checks everything that needs no server. Raises BadInput."""
        graph, loaded = load_graph(self.recipe_file or self.recipe, self.overrides, self.seed)
        graph.selection(self.start_at, self.only)
        graph.require(self.force, "--force")
        return graph, loaded


class EvaluateRequest(BaseModel):
    """Parameters of an evaluation on its own."""

    model_config = ConfigDict(extra="forbid", title="Evaluate a model")

    model: str = Field(
        title="Model",
        description="models:/name@alias, models:/name/version, an MLflow run id, or the URI of an artifact",
        json_schema_extra={"position": 0},
    )
    recipe: RecipeName = Field(  # type: ignore[valid-type]
        default="nano",
        title="Recipe",
        description="Its benchmarks and evaluation settings are used",
        json_schema_extra={"position": 1},
    )
    recipe_file: str = Field(
        default="",
        title="Recipe file",
        description="Path of a YAML file on the worker, instead of a recipe of the project",
        json_schema_extra={"position": 2},
    )
    overrides: list[str] = Field(
        default=[],
        title="Overrides",
        description="Such as evaluate.samples=16",
        json_schema_extra={"position": 3},
    )

    def load(self) -> tuple[Graph, LoadedRecipe]:
        """The recipe's corpus (for its benchmarks) and one evaluation. Raises BadInput."""
        graph, loaded = load_graph(self.recipe_file or self.recipe, self.overrides, read_base=False)
        return graph.evaluation(), loaded


def named(recipe: str) -> dict[str, str]:
    """The fields of a request for what a person typed: a path of a YAML file, else a recipe's name."""
    is_path = recipe.endswith((".yaml", ".yml")) or "/" in recipe
    return {"recipe_file": recipe} if is_path else {"recipe": recipe}


def load_graph(
    name: str, overrides: Iterable[str] = (), seed: int | None = None, read_base: bool = True, servers: bool = True
) -> tuple[Graph, LoadedRecipe]:
    """The recipe and its DAG, types and contracts checked (flows.contracts for `read_base`).

    servers: whether S3 can be asked yet; without it only local files are looked at, and the DAG can only be shown.
    """
    from flows.contracts import check_contracts
    from flows.outside import look_at_local_files, with_outside

    overrides = list(overrides)
    if seed is not None:
        overrides.append(f"seed={seed}")
    loaded = read_recipe(name, overrides, RECIPES)
    graph = build(loaded.recipe)
    check_contracts(loaded.recipe, read_base)
    if servers:
        return with_outside(graph, read_base), loaded
    look_at_local_files(loaded.recipe)
    return graph, loaded
