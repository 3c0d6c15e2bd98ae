"""Which flow a run is of, and what to ask it for to run it again."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from components.failures import BadInput
from flows.prefect_api import flow_name

# flow -> module, its name there, its request there. Flows import Prefect, so they are imported when one runs.
KINDS = {
    "ring": ("flows.recipe_flow", "ring", "RunRequest"),
    "stage": ("flows.stage_flow", "one_stage", "StageRequest"),
    "evaluate": ("flows.evaluate_flow", "evaluate_model", "EvaluateRequest"),
    "refresh": ("flows.refresh_flow", "refresh", "RefreshRequest"),
    "evaluate-standard": ("flows.standard_flow", "evaluate_standard", "StandardRequest"),
    "compare": ("flows.compare_flow", "compare_models", "CompareRequest"),
}


def request_of(run: dict[str, Any]) -> tuple[str, Any]:
    """(flow, the request of a run again). A forced stage's result is reused. Raises BadInput for other flows."""
    name = flow_name(run)
    if name not in KINDS:
        raise BadInput(
            f"{run['name']} is a run of {name}", remedy="Run again what belongs to a recipe, or ringflow tidy"
        )
    module, _, kind = KINDS[name]
    request = getattr(import_module(module), kind).model_validate(run["parameters"]["request"])
    if getattr(request, "force", None):
        request = request.model_copy(update={"repeat_of": request.repeat_of or run["id"]})
    return name, request


def flow_of(name: str) -> Any:
    """The flow's function; imports Prefect."""
    module, function, _ = KINDS[name]
    return getattr(import_module(module), function)
