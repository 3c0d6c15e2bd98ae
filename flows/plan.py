"""`ringflow plan`: what a run would do, stage by stage, without running anything and without Ray.

HIT: committed, will be reused. RESUME: unfinished, goes on from a step. MISS: will be computed, and why: which field of
the identity differs from the newest artifact of that stage, or which input is not there yet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from components.artifacts.fingerprint import explain_difference, fingerprint_of
from components.artifacts.ref import ArtifactRef
from components.artifacts.resume import resume_step
from components.artifacts.store import Store
from components.failures import RingflowError
from flows.graph import Graph
from tasks.node import Node

Verdict = Literal["HIT", "RESUME", "MISS", "BLOCKED", "UNKNOWN"]


@dataclass(frozen=True)
class Planned:
    """uri: of the artifact, or the place where it will be; empty while an input is unknown."""

    node: str
    verdict: Verdict
    reason: str
    uri: str = ""


def make_plan(
    graph: Graph, url: str | None, start_at: str | None = None, only: Iterable[str] = (), force: Iterable[str] = ()
) -> list[Planned]:
    """One entry per node, in order. url: the store; None when the stack is down, then every verdict is UNKNOWN."""
    if url is None:
        return [Planned(name, "UNKNOWN", "the stack is down: start it with `ringflow up`") for name in graph.nodes]
    home_cache = Path("/nonexistent")  # planning reads markers and manifests only, nothing is cached
    store = Store.open(url, home_cache)
    store.check(deadline_s=20)
    allowed, forced = graph.selection(start_at, only), set(graph.require(force, "--force"))
    refs: dict[str, ArtifactRef] = {}
    plan = []
    for node in graph.nodes.values():
        planned = _plan_node(node, graph, store, refs, node.name in forced)
        if planned.verdict not in ("HIT",) and node.name not in allowed:
            planned = Planned(node.name, "BLOCKED", f"not finished, and not selected to run ({planned.reason})")
        plan.append(planned)
    return plan


def _plan_node(node: Node, graph: Graph, store: Store, refs: dict[str, ArtifactRef], forced: bool) -> Planned:
    missing = [source for source in dict.fromkeys(node.inputs.values()) if source not in refs]
    if missing:
        return Planned(node.name, "MISS", f"computed after {', '.join(missing)}")
    if forced:
        return Planned(node.name, "MISS", "forced")
    identity = node.identity({name: refs[source] for name, source in node.inputs.items()})
    fingerprint = fingerprint_of(identity)
    project, stage = graph.recipe.execution.project, node.stage.type
    place = f"{store.url}/{project}/{stage}/{fingerprint}"
    found = store.committed(project, stage, fingerprint)
    if found is not None:
        refs[node.name] = found
        return Planned(node.name, "HIT", "committed", found.uri)
    step = resume_step(store, project, stage, fingerprint)
    if step is not None:
        return Planned(node.name, "RESUME", f"goes on from step {step}", place)
    return Planned(node.name, "MISS", _why(node, identity, store, project), place)


def _why(node: Node, identity: dict[str, Any], store: Store, project: str) -> str:
    """The smallest difference to an earlier result of the same stage."""
    try:
        known = store.identities(project, node.stage.type)
    except RingflowError as error:
        return f"not computed yet (earlier results cannot be compared: {error})"
    differences = [explain_difference(old, identity) for _, old in known[:50]]
    if not differences:
        return "never computed"
    closest = min(differences, key=len)
    more = f" and {len(closest) - 2} more" if len(closest) > 2 else ""
    return f"{'; '.join(closest[:2])}{more}"


def print_plan(plan: list[Planned], graph: Graph, json_: bool, home: Path) -> None:
    from flows.cli.output import print_json, print_table

    if json_:
        print_json(
            {
                "recipe": graph.recipe.name,
                "home": str(home),
                "stages": [
                    {"stage": p.node, "verdict": p.verdict, "reason": p.reason, "uri": p.uri or None} for p in plan
                ],
            }
        )
        return
    print_table(["stage", "plan", "reason"], [[p.node, p.verdict, p.reason] for p in plan])
    uris = [p for p in plan if p.uri]
    if uris:
        print()
    for p in uris:
        print(f"{p.node}  {p.uri}")
