"""Names of flow runs: what runs, and when, such as nano-1122-004659. Readable in lists, and unique in practice.

Prefect names a run each time it starts. A retry is the same run started again: it keeps the name that `ringflow runs`
showed and that its messages tell people to rerun.
"""

from __future__ import annotations

import re
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
        case "evaluate" | "evaluate-standard":
            parts = ["evaluate", values["model"].partition("@http")[0].rstrip("/").rsplit("/", 1)[-1]]
        case other:
            parts = [other, recipe]
    return stamped(*filter(None, parts))


def stamped(*parts: str) -> str:
    """These parts and the time; the name that the current run has, if it is already one of these parts and a time."""
    prefix = "-".join(parts)
    name = get_run_context().flow_run.name
    if re.fullmatch(rf"{re.escape(prefix)}-\d{{4}}-\d{{6}}", name):
        return name
    return f"{prefix}-{time.strftime('%m%d-%H%M%S')}"
