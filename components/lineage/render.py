"""A lineage graph as text for an 80-column terminal, as JSON and as Mermaid; components.lineage.page makes HTML."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from components.lineage.graph import Graph, LineageNode

WIDTH = 80
CHECKPOINTS = ("checkpoint", "reward-model")


def render_text(graph: Graph, width: int = WIDTH) -> str:
    """An indented tree, root on top; an artifact used twice is expanded once. No line is wider than `width`."""
    lines: list[str] = []
    seen: set[str] = set()

    def walk(uri: str, name: str, lead: str, branch: str, below: str) -> None:
        node = graph.nodes[uri]
        again = uri in seen
        seen.add(uri)
        named = f"{name}: {node.label}" if name else node.label
        lines.append(_fit(f"{lead}{branch}{named}{' (shown above)' if again else ''}", width))
        if again:
            return
        inside = f"{lead}{below}"
        more = bool(node.inputs or node.sources)
        detail = f"{inside}{'│  ' if more else '   '}"
        for text in (made_line(node), _work(node), _scalars(node.ref.summary), *_overrides(node), *_removed(node)):
            if text:
                lines.append(_fit(f"{detail}{text}", width))
        for index, source in enumerate(node.sources):
            last = index == len(node.sources) - 1 and not node.inputs
            facts = f"  {source.records} records, {source.licence}, sha256 {source.sha256[:12]}"
            room = width - len(inside) - 3 - len(facts)
            lines.append(_fit(f"{inside}{'└─ ' if last else '├─ '}{tail(source.uri, room)}{facts}", width))
        for index, (input_name, parent) in enumerate(node.inputs.items()):
            last = index == len(node.inputs) - 1
            walk(parent, input_name, inside, "└─ " if last else "├─ ", "   " if last else "│  ")

    walk(graph.root, "", "", "", "")
    commits = {node.made.git_commit for node in graph.nodes.values() if node.made.git_commit}
    sources = graph.sources
    lines += ["", f"{count(len(graph.nodes), 'artifact')}, {count(len(sources), 'data source')} with"]
    lines[-1] += f" {sum(source.records for source in sources)} records, {count(len(commits), 'commit')}"
    lines += [_fit(line, width) for line in totals(graph)]
    return "\n".join(lines) + "\n"


def to_json(graph: Graph) -> dict[str, Any]:
    """Everything the graph knows, as plain values."""
    nodes = []
    for node in graph.nodes.values():
        plain = {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}
        plain |= {
            "id": node.label,
            "ref": node.ref.model_dump(mode="json"),
            "inputs": dict(node.inputs),
            "sources": [dataclasses.asdict(source) for source in node.sources],
            "made": node.made.model_dump(mode="json", exclude={"inputs"}),
            "device_hours": node.made.work.device_hours if node.made.work else None,
            "cleaned": dataclasses.asdict(node.cleaned) if node.cleaned else None,
        }
        nodes.append(plain)
    return {
        "root": graph.root,
        "nodes": nodes,
        "edges": [
            {"from": parent, "to": uri, "input": name}
            for uri, node in graph.nodes.items()
            for name, parent in node.inputs.items()
        ],
        "sources": [dataclasses.asdict(source) for source in graph.sources],
        "parents": [graph.nodes[uri].label for uri in graph.nodes if graph.nodes[uri].ref.kind in CHECKPOINTS][1:],
    }


def render_json(graph: Graph) -> str:
    return json.dumps(to_json(graph), indent=1)


def render_mermaid(graph: Graph) -> str:
    """A Mermaid flowchart, data on the left; Prefect's Markdown artifacts and GitHub draw it."""
    names = {uri: f"n{index}" for index, uri in enumerate(graph.nodes)}
    lines = ["flowchart LR"]
    for uri, node in graph.nodes.items():
        lines.append(f'  {names[uri]}["{_quoted(node.ref.stage)}<br/>{node.ref.fingerprint[:12]}"]')
        for index, source in enumerate(node.sources):
            shard = f"{names[uri]}s{index}"
            lines.append(f'  {shard}[("{_quoted(tail(source.uri, 40))}<br/>{source.records} records")]')
            lines.append(f"  {shard} --> {names[uri]}")
    for uri, node in graph.nodes.items():
        lines += [f"  {names[parent]} -->|{_quoted(name)}| {names[uri]}" for name, parent in node.inputs.items()]
    return "\n".join(lines) + "\n"


def totals(graph: Graph) -> list[str]:
    """Wall time and device hours of everything, machines, and lock files; empty for artifacts that recorded none."""
    made = [node.made for node in graph.nodes.values()]
    work = [m.work for m in made if m.work is not None]
    lines = []
    if work:
        hours = {device: sum(w.device_hours for w in work if w.device == device) for device in ("core", "gpu")}
        spent = ", ".join(f"{value:.4g} {device}-hours" for device, value in hours.items() if value)
        lines.append(f"{sum(w.wall_s for w in work):.1f} s of work, {spent or 'no device time'}")
    lines += [f"on {machine}" for machine in dict.fromkeys(str(m.hardware) for m in made if m.hardware)]
    locks = dict.fromkeys((m.lock, m.lock_sha256) for m in made if m.lock_sha256)
    lines += [f"{name or 'lock file'} sha256 {digest[:16]}" for name, digest in locks]
    return lines


def made_line(node: LineageNode) -> str:
    """Kind, date and commit."""
    parts = [node.ref.kind, node.made.created[:16].replace("T", " ")]
    if node.made.git_commit:
        parts.append(f"git {node.made.git_commit[:10]}{'+changes' if node.made.git_dirty else ''}")
    return ", ".join(parts)


def _work(node: LineageNode) -> str:
    made = node.made
    parts = [f"recipe {made.recipe} {made.recipe_version}"] if made.recipe else []
    parts.append(f"seed {made.seed}")
    if made.work is not None:
        parts.append(f"{made.work.wall_s:.1f} s on {count(made.work.devices, made.work.device)}")
    return ", ".join(parts) if made.recipe or made.work else ""


def _overrides(node: LineageNode) -> list[str]:
    """Values that came from an override; the JSON and HTML forms have all of them."""
    return [
        f"{key} = {value.value} ({value.origin})"
        for key, value in node.made.config.items()
        if value.origin.startswith("--set ")
    ]


def _removed(node: LineageNode) -> list[str]:
    """One line per split that lost records, and one per benchmark they resembled."""
    if node.cleaned is None:
        return []
    lines = []
    for split, row in node.cleaned.splits.items():
        levels = {key.partition(":")[2]: count for key, count in row.items() if key.startswith("removed:") and count}
        if row["removed"]:
            why = ", ".join(f"{count} {level}" for level, count in levels.items())
            lines.append(f"removed {row['removed']} of {row['records']} from {split}{f' ({why})' if why else ''}")
    for name, row in node.cleaned.counts.get("benchmarks", {}).items():
        if row.get("removed"):
            lines.append(f"  resembling {row['hit_items']} of {row['items']} items of {name}: {row['removed']}")
    return lines or ["removed nothing"]


def _scalars(summary: Mapping[str, float | int | str]) -> str:
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in summary.items())


def _fit(line: str, width: int) -> str:
    return line if len(line) <= width else line[: width - 1] + "…"


def tail(text: str, room: int) -> str:
    """The end of a path says more than its beginning."""
    room = max(room, 12)
    return text if len(text) <= room else "…" + text[-(room - 1) :]


def count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def _quoted(text: str) -> str:
    return text.replace('"', "#quot;").replace("<", "&lt;").replace("|", "/")
