"""What a run shows in the Prefect UI besides its states: stage pages, the table of scores, links. Decoration only.

A request that fails here is logged and forgotten: results and states do not go this way.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from flows.result import RunResult

log = logging.getLogger(__name__)


def show_result(result: RunResult) -> None:
    """A Markdown page with stages and scores at the flow run, and its links. Call it inside the flow run."""
    try:
        from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

        create_markdown_artifact(_page(result), key="run", description=f"Stages of {result.run_name}")
        scores = result.scores()
        if scores:
            table = [{"after": node, **{k: round(v, 4) for k, v in values.items()}} for node, values in scores.items()]
            create_table_artifact(table, key="scores", description="Held-out scores after every stage")
        for name, link in result.links.items():
            if name != "Prefect" and link.startswith("http"):
                create_link_artifact(link, link_text=name, key=name.lower().replace(" ", "-"))
    except Exception as error:
        log.warning("the run's page is not shown in Prefect: %s", error)


def _page(result: RunResult) -> str:
    lines = [
        f"# {result.run_name}",
        "",
        result.message(),
        "",
        "| stage | state | time | artifact |",
        "|---|---|---|---|",
    ]
    for stage in result.stages:
        uri = f"`{stage.ref.uri}`" if stage.ref else stage.error.replace("|", "/").replace("\n", " ")[:300]
        lines.append(f"| {stage.node} | {stage.state} | {stage.seconds:.1f} s | {uri} |")
    lines += ["", *(f"- {name}: {link}" for name, link in result.links.items())]
    return "\n".join(lines)


def tags_of(loaded: Any, flow_run: Any, session_url: str, code: Mapping[str, str]) -> dict[str, str]:
    """The tags by which people find a pipeline run in MLflow."""
    return {
        "prefect.flow_run_id": str(flow_run.id),
        "prefect.flow_run_name": flow_run.name,
        "prefect.url": session_url,
        "ringflow.recipe": loaded.recipe.name,
        "ringflow.seed": str(loaded.recipe.seed),
        "ringflow.overrides": " ".join(loaded.overrides),
        **code,
    }
