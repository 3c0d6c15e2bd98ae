"""A finished run as MLflow recorded it, for components.simulation.measured: times, settings, series of its stages."""

from __future__ import annotations

from typing import Any

from components.failures import BadInput
from components.simulation.measured import Rates, Recorded, fit

WORK = "work/wall_seconds"
SECTION = "section."
NAMES, FAMILIES = ("seconds", "tokens", "groups/trained", "rollout/tokens"), ("time/", "rollout/length")


def rates_of(name: str, execution: Any) -> Rates:
    """Rates out of the run called `name` (or of this id). execution: how it ran, which no stage's identity says.

    Raises BadInput when there is no such run, or it computed nothing.
    """
    from flows.references import open_tracker

    tracker = open_tracker()
    client, experiments = tracker.client, [tracker.experiment_id]
    quoted = name.replace("'", "")
    found = list(client.search_runs(experiments, f"attributes.run_name = '{quoted}'", max_results=1))
    if not found:
        found = list(client.search_runs(experiments, f"attributes.run_id = '{quoted}'", max_results=1))
    if not found:
        raise BadInput(f"MLflow has no run {name!r}", where=tracker.uri, remedy="`ringflow runs` lists them")
    run = found[0]
    stages = client.search_runs(experiments, f"tags.`mlflow.parentRunId` = '{run.info.run_id}'", max_results=200)
    recorded = [_recorded(client, stage) for stage in stages if stage.info.status == "FINISHED"]
    began, ended = run.info.start_time, run.info.end_time or run.info.start_time
    tags = run.data.tags
    source = f"{name}, {tags.get('ringflow.recipe', '')} of commit {tags.get('git.commit', '')[:7] or 'unknown'}"
    devices = max(execution.learners, execution.engines) * execution.threads
    recorded = [stage for stage in recorded if stage.wall_s]
    return fit(source, recorded, (ended - began) / 1e3, devices, execution.engines, execution.max_num_seqs)


def _recorded(client: Any, stage: Any) -> Recorded:
    values = stage.data.metrics
    wanted = [key for key in values if key in NAMES or key.startswith(FAMILIES)]
    series = {key: _series(client, stage.info.run_id, key) for key in wanted}
    settings = {k.removeprefix(SECTION): v for k, v in stage.data.params.items() if k.startswith(SECTION)}
    kind = stage.data.tags.get("ringflow.stage_type", stage.info.run_name)
    return Recorded(stage.info.run_name, kind, values.get(WORK, 0.0), settings, series)


def _series(client: Any, run_id: str, key: str) -> list[tuple[int, float, float]]:
    points = client.get_metric_history(run_id, key)
    return sorted((point.step, point.timestamp / 1e3, point.value) for point in points)
