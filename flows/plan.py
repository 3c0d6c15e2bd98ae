"""`ringflow plan`: what a run would do, stage by stage, without running anything and without Ray.

HIT: committed, will be reused. RESUME: unfinished, goes on from a step. MISS: will be computed, and why: which field of
the recipe, which input or which file differs from the nearest earlier result of that stage. BLOCKED: cannot run (not
selected, or an input is blocked). DAMAGED: committed, but the store no longer has what was committed: the run stops
there. The verdicts are those of the runner (tasks.runner), asked of the same store with the same identities.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from components.artifacts.fingerprint import explain_difference, fingerprint_of
from components.artifacts.lease import lease_holder
from components.artifacts.ref import ArtifactRef
from components.artifacts.resume import resume_step
from components.artifacts.store import Store
from components.failures import IntegrityError, RingflowError
from flows.graph import Graph
from tasks.node import Node

Verdict = Literal["HIT", "RESUME", "MISS", "BLOCKED", "DAMAGED", "UNKNOWN"]
# Earlier results that a MISS is compared with, newest first.
COMPARED = 50


@dataclass(frozen=True)
class Planned:
    """uri: of the artifact, or the place where it will be; empty while an input is unknown."""

    node: str
    verdict: Verdict
    reason: str
    uri: str = ""


def make_plan(
    graph: Graph,
    url: str | None,
    start_at: str | None = None,
    only: Iterable[str] = (),
    force: Iterable[str] = (),
    repeat_of: str | None = None,
) -> list[Planned]:
    """One entry per node, in order.

    Args:
        url: the store; None when the stack is down, then every verdict is UNKNOWN.
        start_at, only, force: as of the run.
        repeat_of: the run that is run again: what it forced is found under its id.
    """
    if url is None:
        return [Planned(name, "UNKNOWN", "the stack is down: start it with `ringflow up`") for name in graph.nodes]
    home_cache = Path("/nonexistent")  # planning reads markers and manifests only, nothing is cached
    store = Store.open(url, home_cache)
    store.check(deadline_s=20)
    look = _Look(graph, store, graph.selection(start_at, only), set(graph.require(force, "--force")), repeat_of)
    return [look.plan(node) for node in graph.nodes.values()]


class _Look:
    """One pass over the nodes, in an order in which they can run."""

    def __init__(self, graph: Graph, store: Store, allowed: set[str], forced: set[str], repeat_of: str | None) -> None:
        self.graph, self.store, self.repeat_of = graph, store, repeat_of
        self.allowed, self.forced = allowed, forced
        self.refs: dict[str, ArtifactRef] = dict(graph.given)
        self.stuck: dict[str, str] = {}

    def plan(self, node: Node) -> Planned:
        planned = self._plan(node)
        if planned.verdict in ("RESUME", "MISS") and node.name not in self.allowed:
            planned = Planned(node.name, "BLOCKED", f"not finished, and not selected to run ({planned.reason})")
        if planned.verdict in ("BLOCKED", "DAMAGED"):
            self.stuck[node.name] = planned.verdict.lower()
        return planned

    def _plan(self, node: Node) -> Planned:
        sources = dict.fromkeys(node.inputs.values())
        if stuck := [source for source in sources if source in self.stuck]:
            return Planned(node.name, "BLOCKED", f"needs {', '.join(f'{s}, which is {self.stuck[s]}' for s in stuck)}")
        if missing := [source for source in sources if source not in self.refs]:
            names = ", ".join(name for name, source in node.inputs.items() if source in missing)
            return Planned(node.name, "MISS", f"input {names}: computed after {', '.join(missing)}")
        if node.name in self.forced and self.repeat_of is None:
            return Planned(node.name, "MISS", "forced")
        repeat = self.repeat_of if node.name in self.forced else None
        identity = node.identity({name: self.refs[source] for name, source in node.inputs.items()}, repeat)
        fingerprint = fingerprint_of(identity)
        project, stage = self.graph.recipe.execution.project, node.stage.type
        place = f"{self.store.url}/{project}/{stage}/{fingerprint}"
        try:
            found = self.store.committed(project, stage, fingerprint)
            if found is not None:
                self.store.check_sizes(found)
        except IntegrityError as error:
            return Planned(node.name, "DAMAGED", str(error), place)
        if found is not None:
            self.refs[node.name] = found
            return Planned(node.name, "HIT", "committed", found.uri)
        step = resume_step(self.store, project, stage, fingerprint)
        if step is not None:
            verdict, reason = "RESUME", f"goes on from step {step}"
        elif repeat is not None:
            verdict, reason = "MISS", f"forced in {repeat}, and not finished there"
        else:
            verdict, reason = "MISS", self._why(node, identity)
        holder = lease_holder(self.store, project, stage, fingerprint)
        if holder:
            reason += f"; {holder} is at it now: a run waits for that result"
        return Planned(node.name, verdict, reason, place)

    def _why(self, node: Node, identity: dict[str, Any]) -> str:
        """The smallest difference to an earlier result of the same stage, in the recipe's own keys."""
        try:
            known = self.store.identities(self.graph.recipe.execution.project, node.stage.type)
        except RingflowError as error:
            return f"not computed yet (earlier results cannot be compared: {error})"
        differences = [explain_difference(old, identity) for _, old in known[:COMPARED]]
        if not differences:
            return "never computed"
        closest = min(differences, key=len)
        more = f" and {len(closest) - 2} more" if len(closest) > 2 else ""
        return f"{'; '.join(spoken(node, line) for line in closest[:2])}{more}"


def spoken(node: Node, line: str) -> str:
    """A line of explain_difference as people write it: `rlhf.steps: 16 -> 77`, `input model (sft): ab12 -> cd34`."""
    place, _, change = line.partition(": ")
    if place.startswith("inputs."):
        name = place.removeprefix("inputs.")
        source = node.inputs.get(name, "")
        return f"input {name}{f' ({source})' if source else ''}: {change}"
    if place.startswith("config.outside"):
        return f"file {line.removeprefix('config.outside.')}"
    if place == "version":
        return f"the stage's code, version {change}"
    for prefix, name in (("config.section", node.key), ("config.model", "model")):
        if place == prefix or place.startswith((f"{prefix}.", f"{prefix}[")):
            return f"{name}{place.removeprefix(prefix)}: {change}"
    return line


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
