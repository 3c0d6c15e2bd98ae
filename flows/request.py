"""What a person asks for: the parameters of a run, as shallow models that Prefect renders as forms.

`position` keeps the fields in this order (Prefect sorts by name otherwise); text that may be absent is empty rather
than null, because a union renders as two controls (flows.forms).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from components.artifacts.provenance import recipe_version
from components.failures import BadInput
from components.recipe.load import LoadedRecipe, read_recipe, recipe_names
from components.recipe.training import ImportConfig
from flows import forms
from flows.forms import RECIPES
from flows.graph import Graph, build

# Read from the folder, so that a new recipe appears in the form without code.
RecipeName = Literal[tuple(recipe_names(RECIPES))]  # type: ignore[valid-type]


class RecipeRequest(BaseModel):
    """What every run of a recipe is asked with. Positions leave room for the fields of each form."""

    model_config = ConfigDict(extra="forbid")

    recipe: RecipeName = Field(  # type: ignore[valid-type]
        default="nano", title="Recipe", description="A recipe of the project", json_schema_extra=forms.position(10)
    )
    version: str = Field(
        default="",
        title="Recipe version",
        description="Refuse to start if the recipe is no longer this version (12 digits: MLflow tag "
        "ringflow.recipe_version); the recipe as it is now when empty",
        json_schema_extra=forms.position(20),
    )
    overrides: list[str] = Field(
        default=[],
        title="Overrides",
        description="One item each, such as sft.steps=100 or rlvr.0.loss.beta=4",
        json_schema_extra=forms.position(70),
    )
    seed: int | None = Field(
        default=None, ge=0, title="Seed", description="The recipe's when empty", json_schema_extra=forms.number(80)
    )
    recipe_file: str = Field(
        default="",
        title="Recipe file",
        description="A YAML file on the worker, instead of a recipe of the project",
        json_schema_extra=forms.position(90),
    )

    def values(self) -> list[str]:
        """Overrides that other fields of the form stand for."""
        return []

    def read(self, read_base: bool = True, servers: bool = True) -> tuple[Graph, LoadedRecipe]:
        """The recipe and its DAG, checked (as `load_graph`); BadInput when it is another version than asked for."""
        overrides = [*self.overrides, *self.values()]
        graph, loaded = load_graph(self.recipe_file or self.recipe, overrides, self.seed, read_base, servers)
        now = recipe_version(loaded.recipe)
        if self.version and not now.startswith(self.version):
            raise BadInput(
                f"{loaded.recipe.name} with these overrides is version {now}, not {self.version}",
                where="version",
                remedy="Leave the version empty to run it as it is now; `ringflow diff` shows what changed",
            )
        return graph, loaded


class RunRequest(RecipeRequest):
    """Which recipe to run, and how much of it. Finished stages are reused; a failed one resumes."""

    model_config = ConfigDict(extra="forbid", title="Run a recipe")

    model_name: str = Field(
        default="",
        title="Model name",
        description="Name in the model registry; the recipe's release.model_name when empty",
        json_schema_extra=forms.position(30),
    )
    start_at: str = Field(
        default="",
        title="Start at stage",
        description="This stage and all later ones; earlier ones must be finished. Everything when empty",
        json_schema_extra=forms.stage(40, may_be_empty=True),
    )
    only: list[str] = Field(
        default=[],
        title="Only these stages",
        description="Nothing else runs; what they read must be finished. Everything when empty",
        json_schema_extra=forms.stages(50),
    )
    force: list[str] = Field(
        default=[],
        title="Run again although finished",
        description="Stages to compute anew, for this run and its reruns",
        json_schema_extra=forms.stages(60),
    )
    repeat_of: str = Field(
        default="",
        title="Rerun of",
        description="A run id, whose forced stages are reused; `ringflow rerun` sets it",
        json_schema_extra=forms.position(100),
    )

    def values(self) -> list[str]:
        return [f"release.model_name={self.model_name}"] if self.model_name else []

    def load(self) -> tuple[Graph, LoadedRecipe]:
        """Reads and checks everything that needs no server. Raises BadInput."""
        graph, loaded = self.read()
        self.choice(graph)
        return graph, loaded

    def choice(self, graph: Graph) -> tuple[frozenset[str], frozenset[str]]:
        """(stages that may be computed, stages computed although finished)."""
        return chosen(graph, self.start_at, self.only, self.force)


class StageRequest(RecipeRequest):
    """One stage on its own."""

    model_config = ConfigDict(extra="forbid", title="Run one stage")

    stage: str = Field(
        title="Stage", description="The one to run", json_schema_extra=forms.stage(15, may_be_empty=False)
    )
    with_inputs: bool = Field(
        default=False,
        title="Also compute what it reads",
        description="Earlier stages that are not finished run first; without this they must be finished",
        json_schema_extra=forms.position(40),
    )
    force: bool = Field(
        default=False,
        title="Run again although finished",
        description="Compute the stage anew, for this run and its reruns",
        json_schema_extra=forms.position(60),
    )
    repeat_of: str = Field(
        default="",
        title="Rerun of",
        description="A run id, whose forced stage is reused; `ringflow rerun` sets it",
        json_schema_extra=forms.position(100),
    )

    def load(self) -> tuple[Graph, LoadedRecipe]:
        """The DAG of the stage and what it reads. Raises BadInput."""
        graph, loaded = self.read()
        return graph.part(graph.require([self.stage], "stage")), loaded

    def choice(self, graph: Graph) -> tuple[frozenset[str], frozenset[str]]:
        """(stages that may be computed, stages computed although finished)."""
        names = frozenset(graph.require([self.stage], "stage"))
        return frozenset(graph.nodes) if self.with_inputs else names, names if self.force else frozenset()


class EvaluateRequest(RecipeRequest):
    """Parameters of an evaluation on its own."""

    model_config = ConfigDict(extra="forbid", title="Evaluate a model")

    model: str = Field(
        title="Model",
        description="Such as models:/ring-nano@released or models:/ring-nano/3; an MLflow run id or an artifact's URI",
        json_schema_extra=forms.position(0),
    )
    recipe: RecipeName = Field(  # type: ignore[valid-type]
        default="nano",
        title="Recipe",
        description="Its benchmarks and evaluation settings are used",
        json_schema_extra=forms.position(10),
    )

    def load(self) -> tuple[Graph, LoadedRecipe]:
        """The recipe's corpus (for its benchmarks) and one evaluation. Raises BadInput."""
        graph, loaded = self.read(read_base=False)
        return graph.evaluations({"evaluate": "model"}), loaded


class RefreshRequest(RecipeRequest):
    """The data of a recipe: read the sources again, gate, decontaminate, and tell what changed."""

    model_config = ConfigDict(extra="forbid", title="Refresh the data of a recipe")

    def load(self) -> tuple[Graph, LoadedRecipe]:
        """The data stages alone. Raises BadInput."""
        graph, loaded = self.read(read_base=False)
        return graph.part(["decontaminate"]), loaded


class HousekeepingRequest(BaseModel):
    """What housekeeping removes, besides leases, attempts and runs of processes that are gone."""

    model_config = ConfigDict(extra="forbid", title="Tidy up")

    dry_run: bool = Field(
        default=False,
        title="Only show",
        description="List what would be removed, and remove nothing",
        json_schema_extra=forms.position(0),
    )
    resume_days: int = Field(
        default=0,
        ge=0,
        title="Days to keep resume points",
        description="Of stages that never finished, counted from their newest point; 0 keeps them for ever",
        json_schema_extra=forms.position(10),
    )
    cache_days: int = Field(
        default=30,
        ge=0,
        title="Days to keep local copies",
        description="Copies of stored files that were not used for so long; they come back from the store when "
        "needed. 0 keeps them for ever",
        json_schema_extra=forms.position(20),
    )
    upload_hours: int = Field(
        default=24,
        ge=1,
        title="Hours before an upload is given up",
        description="Longer than the largest file takes to upload",
        json_schema_extra=forms.position(30),
    )


def chosen(
    graph: Graph, start_at: str | None, only: Iterable[str], force: Iterable[str]
) -> tuple[frozenset[str], frozenset[str]]:
    """(stages that may be computed, stages computed although finished). Raises BadInput for a contradiction."""
    allowed = frozenset(graph.selection(start_at or None, only))
    forced = frozenset(graph.require(force, "--force"))
    if left_out := [name for name in graph.nodes if name in forced - allowed]:
        raise BadInput(
            f"{', '.join(left_out)} cannot run again: start_at or only leave it out",
            where="--force",
            remedy="Choose it there too, or do not force it",
        )
    return allowed, forced


def named(recipe: str) -> dict[str, str]:
    """The fields of a request for what a person typed: a path of a YAML file, else a recipe's name."""
    is_path = recipe.endswith((".yaml", ".yml")) or "/" in recipe
    return {"recipe_file": recipe} if is_path else {"recipe": recipe}


def load_graph(
    name: str, overrides: Iterable[str] = (), seed: int | None = None, read_base: bool = True, servers: bool = True
) -> tuple[Graph, LoadedRecipe]:
    """The completed recipe (flows.completed) and its DAG, types and contracts checked.

    read_base: whether an imported base is opened though the recipe says all about it (flows.contracts).
    servers: whether S3 and MLflow can be asked yet; without them only local files are looked at, and the DAG can only
        be shown.
    """
    from flows.completed import REGISTERED, completed, look_at_base
    from flows.contracts import check_contracts
    from flows.outside import look_at_local_files, with_outside

    overrides = list(overrides)
    if seed is not None:
        overrides.append(f"seed={seed}")
    loaded = read_recipe(name, overrides, RECIPES)
    section, base = loaded.recipe.base, None
    asks = isinstance(section, ImportConfig) and section.uri.startswith((REGISTERED, "s3://"))
    readable = isinstance(section, ImportConfig) and (servers or not asks)
    if readable and (read_base or loaded.recipe.model.preset == "base" or section.uri.startswith(REGISTERED)):
        base = look_at_base(section.uri)
    loaded = completed(loaded, base)
    graph = build(loaded.recipe)
    check_contracts(loaded.recipe, read_base and readable)
    if base is not None and base.release is not None:
        graph = graph.from_release(base.release)
    if servers:
        return with_outside(graph, read_base), loaded
    look_at_local_files(loaded.recipe)
    return graph, loaded
