"""The arrows of the house, as a function of source text: which imports a file may have (docs: DESIGN, top level)."""

from __future__ import annotations

import ast
from pathlib import PurePosixPath

# Components from the ground up; a package imports only from levels before its own. DESIGN's floor 1 is three levels
# (the stage context holds recipe types, lineage describes artifacts) and its floor 4 two (a model card holds scores).
FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"redact"}),
    frozenset({"failures"}),
    frozenset({"telemetry"}),
    frozenset({"recipe"}),
    frozenset({"artifacts"}),
    frozenset({"lineage"}),
    frozenset({"model", "data", "sandbox", "cluster"}),
    frozenset({"training", "rollout", "rewards"}),
    frozenset({"rl", "evaluation"}),
    frozenset({"release", "simulation"}),
)
HOUSE = frozenset({"components", "tasks", "flows", "infra", "tests"})
INFRA_MAY_USE = frozenset({"redact", "failures", "recipe"})


def imported(source: str) -> list[tuple[int, str]]:
    """(line, dotted name) of every import anywhere in the source, also inside functions."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            # `from components import data` names a package, `from components.data import schema` already has it.
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return found


def violations(path: str, source: str) -> list[str]:
    """What this file imports against the arrows, as `path:line: reason`; `path` is relative to the repository."""
    parts = PurePosixPath(path).with_suffix("").parts
    if parts[0] not in HOUSE - {"tests"}:
        return []
    return [f"{path}:{line}: {reason}" for line, name in imported(source) if (reason := _reason(parts, name))]


def floor(component: str) -> int | None:
    return next((number for number, names in enumerate(FLOORS) if component in names), None)


def _reason(parts: tuple[str, ...], name: str) -> str:
    if name.startswith("."):
        return f"relative import {name}: say where it leads"
    target = name.split(".")
    layer, top = parts[0], target[0]
    if layer == "components" and top == "prefect":
        return "components never import prefect"
    if top not in HOUSE or (top == layer and layer != "components"):
        return ""
    allowed = {
        "components": {"components"},
        "tasks": {"components"},
        "flows": {"components", "tasks", "infra"},
        "infra": {"components"},
    }[layer]
    if top not in allowed:
        return f"{layer} never imports {top}"
    if layer == "infra" and target[1:2] and target[1] not in INFRA_MAY_USE:
        return f"infra imports only {', '.join(sorted(INFRA_MAY_USE))} of components, not {target[1]}"
    if layer == "components":
        return _component_reason(parts[1], target[1] if len(target) > 1 else "")
    return ""


def _component_reason(own: str, other: str) -> str:
    if own == other:
        return ""
    here, there = floor(own), floor(other)
    if here is None:
        return f"components.{own} has no floor"
    if there is None:
        return f"components.{other} has no floor"
    if there >= here:
        return f"components.{own} may import only from below, and components.{other} is not below it"
    return ""
