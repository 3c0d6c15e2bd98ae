"""The flow `compare`: two models on one recipe's held-out sets, paired; it fails when the second is surely worse.

The nightly run is this flow with the released model and the candidate. Both evaluations are stages: known results are
reused, so a night without a new candidate costs seconds.
"""

from __future__ import annotations

import os
from pathlib import Path

from prefect import flow
from prefect.states import Completed, State
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import BaseModel, ConfigDict, Field

from components.artifacts.ref import ArtifactRef
from components.artifacts.store import Store
from components.evaluation.compare import HEADER, Comparison, write_comparison
from components.evaluation.scores import load_evaluation
from components.failures import BadInput
from components.recipe.load import LoadedRecipe
from flows.ending import failed
from flows.evaluate_flow import checkpoint_of
from flows.execute import execute, home_directory, last_result
from flows.graph import Graph
from flows.naming import stamped
from flows.references import find_artifact
from flows.request import RecipeName, load_graph

BEFORE, AFTER = "before", "after"


class CompareRequest(BaseModel):
    """Two models on the held-out sets of a recipe."""

    model_config = ConfigDict(extra="forbid", title="Compare two models")

    before: str = Field(
        title="Before", description="Such as models:/ring-nano@released", json_schema_extra={"position": 0}
    )
    after: str = Field(
        title="After", description="Such as models:/ring-nano@candidate", json_schema_extra={"position": 10}
    )
    recipe: RecipeName = Field(  # type: ignore[valid-type]
        default="nano",
        title="Recipe",
        description="Its benchmarks and evaluation settings are used",
        json_schema_extra={"position": 20},
    )
    recipe_file: str = Field(
        default="",
        title="Recipe file",
        description="A YAML file on the worker, instead of a recipe of the project",
        json_schema_extra={"position": 30},
    )
    overrides: list[str] = Field(
        default=[], title="Overrides", description="Such as evaluate.samples=16", json_schema_extra={"position": 40}
    )

    def load(self) -> tuple[Graph, LoadedRecipe]:
        """The corpus and two evaluations. Raises BadInput."""
        if self.before == self.after:
            raise BadInput("a model is compared with itself", where="after", remedy="Name two models or versions")
        graph, loaded = load_graph(self.recipe_file or self.recipe, self.overrides, read_base=False)
        return graph.comparison(BEFORE, AFTER), loaded


def flow_run_name() -> str:
    return stamped("compare")


@flow(name="compare", flow_run_name=flow_run_name, task_runner=ThreadPoolTaskRunner(max_workers=2))
def compare_models(request: CompareRequest) -> State:
    """Evaluates both models and compares them item by item; fails with a table when the second is surely worse."""
    graph, loaded = request.load()
    store = Store.open(os.environ.get("RINGFLOW_STORE"))
    store.check(deadline_s=20)
    names = {BEFORE: request.before, AFTER: request.after}
    models = {side: checkpoint_of(find_artifact(name, store), store) for side, name in names.items()}
    given = {side: model.model_dump(mode="json") for side, model in models.items()}
    tags = {"ringflow.evaluates": request.after, "ringflow.compared_with": request.before}
    state = execute(graph, loaded, allowed=frozenset(graph.nodes), given=given, tags=tags)
    if not state.is_completed():
        return state
    refs = {stage.node: stage.ref for stage in last_result().stages}
    found, page = compare_artifacts({names[side]: refs[f"evaluate-{side}"] for side in names}, store)
    show(found, page)
    if found.worse:
        return failed(f"{request.after} is worse than {request.before} on {', '.join(found.worse)}: {page}")
    return Completed(message=f"{request.after} is nowhere surely worse than {request.before}: {page}")


def compare_artifacts(refs: dict[str, ArtifactRef], store: Store) -> tuple[Comparison, Path]:
    """Writes the page of two evaluation artifacts, the earlier first, below the home's reports."""
    (before, left), (after, right) = refs.items()
    evaluations = {name: load_evaluation(store.fetch(ref)) for name, ref in ((before, left), (after, right))}
    page = home_directory() / "reports" / f"compare-{left.fingerprint[:8]}-{right.fingerprint[:8]}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    return write_comparison(evaluations, page, f"{after} against {before}"), page


def show(found: Comparison, page: Path) -> None:
    """The table in the Prefect UI; decoration."""
    from prefect.artifacts import create_table_artifact

    try:
        table = [dict(zip(HEADER, row, strict=True)) for row in found.table()]
        create_table_artifact(table, key="comparison", description=f"{found.after} against {found.before}; {page}")
    except Exception as error:
        import logging

        logging.getLogger(__name__).warning("the comparison is not shown in Prefect: %s", error)
