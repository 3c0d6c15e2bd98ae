"""Names of flow runs: what runs, and when, such as nano-1122-004659. Readable in lists, and unique in practice."""

from __future__ import annotations

import time
from pathlib import Path

from prefect.context import get_run_context


def run_name() -> str:
    """Called by Prefect when a run starts. A stage alone is nano-sft-..., an evaluation evaluate-released-..."""
    context = get_run_context()
    request = context.parameters.get("request") or {}
    values = request if isinstance(request, dict) else request.model_dump()
    recipe = Path(values["recipe_file"]).stem if values.get("recipe_file") else values.get("recipe", "")
    match context.flow.name:
        case "ring":
            parts = [recipe]
        case "stage":
            parts = [recipe, values["stage"]]
        case "evaluate":
            parts = ["evaluate", values["model"].rstrip("/").rsplit("/", 1)[-1]]
        case other:
            parts = [other, recipe]
    return "-".join([*filter(None, parts), time.strftime("%m%d-%H%M%S")])
