"""The flow `refresh`: the data of a recipe is read, gated and decontaminated again, and what changed is told.

The content of every source is part of the corpus's identity, so an edited file, a new shard or another recipe makes
another corpus, and equal sources are recognised without reading them in full. A gate that refuses leaves the earlier
data in use: runs of the recipe go on finding it only as long as the sources are what they were.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefect import flow
from prefect.context import get_run_context
from prefect.states import Completed, State
from prefect.task_runners import ThreadPoolTaskRunner

from components.artifacts.ref import ArtifactRef
from components.artifacts.store import Store
from components.lineage.graph import Source, shards
from flows.execute import execute, last_result
from flows.naming import run_name
from flows.prefect_api import ask
from flows.request import RefreshRequest

STAGE = "decontaminate"
MISSING = "-"


@flow(name="refresh", flow_run_name=run_name, task_runner=ThreadPoolTaskRunner(max_workers=2))
def refresh(request: RefreshRequest) -> State:
    """Reads the sources of a recipe again, gates and decontaminates them, and tells whether the data changed."""
    graph, loaded = request.load()
    store = Store.open(os.environ.get("RINGFLOW_STORE"))
    store.check(deadline_s=20)
    before = store.newest(loaded.recipe.execution.project, STAGE, loaded.recipe.name)
    state = execute(graph, loaded, allowed=frozenset(graph.nodes))
    now = next((stage.ref for stage in last_result().stages if stage.node == STAGE), None)
    if not state.is_completed() or now is None:
        return state
    change = compare(store, before, now)
    table = {
        "key": "data-changes",
        "type": "table",
        "data": json.dumps(change.rows or [{"source": "all", "change": "none"}]),
        "description": change.message,
        "flow_run_id": str(get_run_context().flow_run.id),
    }
    ask("POST", "/artifacts/", table)
    return Completed(message=change.message)


@dataclass(frozen=True)
class Change:
    """message: one line; rows: one per source that changed, for a table."""

    message: str
    rows: list[dict[str, Any]]

    @property
    def changed(self) -> bool:
        return bool(self.rows)


def compare(store: Store, before: ArtifactRef | None, now: ArtifactRef) -> Change:
    """What differs between the clean corpora of before and now, by source and split."""
    name = f"{now.stage}@{now.fingerprint[:12]}"
    if before is None:
        rows = _rows({}, _sources(store, now))
        return Change(f"first data of this recipe: {name}, {_counts(now)}", rows)
    if before.manifest_sha256 == now.manifest_sha256:
        when = store.read_manifest(now).provenance.created[:16]
        return Change(f"the data did not change since {when}: {name}, {_counts(now)}", [])
    rows = _rows(_sources(store, before), _sources(store, now))
    if not rows:
        rows = [{"source": "the recipe", "split": MISSING, "change": "other settings: see `ringflow diff`"}]
    kinds = [row["change"] for row in rows]
    told = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    return Change(f"the data changed: {told}; {name}, {_difference(before, now)}", rows)


def _sources(store: Store, clean: ArtifactRef) -> dict[tuple[str, str], Source]:
    """{(URI, split): shard} of the corpus that a clean corpus was made from."""
    corpus = store.read_manifest(clean).provenance.inputs["corpus"]
    return {(source.uri, source.split): source for source in shards(store, corpus)}


def _rows(before: Mapping[tuple[str, str], Source], now: Mapping[tuple[str, str], Source]) -> list[dict[str, Any]]:
    rows = []
    for place in sorted(before.keys() | now.keys()):
        old, new = before.get(place), now.get(place)
        if old is not None and new is not None and old.sha256 == new.sha256:
            continue
        change = "changed" if old and new else "added" if new else "removed"
        rows.append(
            {
                "source": place[0],
                "split": place[1],
                "change": change,
                "records before": old.records if old else MISSING,
                "records now": new.records if new else MISSING,
                "sha256 before": old.sha256[:12] if old else MISSING,
                "sha256 now": new.sha256[:12] if new else MISSING,
            }
        )
    return rows


def _numbers(ref: ArtifactRef) -> dict[str, int]:
    return {name: value for name, value in ref.summary.items() if isinstance(value, int)}


def _counts(ref: ArtifactRef) -> str:
    return ", ".join(f"{name} {value}" for name, value in _numbers(ref).items())


def _difference(before: ArtifactRef, now: ArtifactRef) -> str:
    """The counts that differ: `sft 1500 -> 1510`."""
    old, new = _numbers(before), _numbers(now)
    told = [f"{n} {old.get(n, 0)} -> {new.get(n, 0)}" for n in dict.fromkeys([*old, *new]) if old.get(n) != new.get(n)]
    return ", ".join(told) or "the same counts"
