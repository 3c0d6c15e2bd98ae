"""A lineage graph as text for an 80-column terminal, as JSON, as Mermaid, and as one HTML page without scripts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from html import escape
from typing import Any

from components.lineage.graph import Graph, LineageNode
from components.lineage.picture import Box, svg
from components.lineage.tracker import flatten

WIDTH = 80
STYLE = """
:root{color-scheme:light}
body{font:15px/1.5 system-ui,sans-serif;color:#1c2733;background:#fff}
body{max-width:1080px;margin:2rem auto;padding:0 1.2rem}
h1{font-size:1.6rem;margin:0 0 .2rem}h2{font-size:1.15rem;margin:2.2rem 0 .6rem;border-bottom:1px solid #d8dee6}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .8rem .25rem 0;text-align:left;vertical-align:top;border-bottom:1px solid #edf0f4}
td.n,th.n{text-align:right}td.wrap{overflow-wrap:anywhere}
code{font:12.5px/1.4 ui-monospace,monospace;overflow-wrap:anywhere}
pre{font:12px/1.4 ui-monospace,monospace;background:#f5f7fa;padding:.8rem;overflow-x:auto}
details{margin:.4rem 0}summary{cursor:pointer}.muted{color:#66748a}.scroll{overflow-x:auto}
img{max-width:100%;height:auto}a{color:#1757b8}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));gap:1rem}
@media(max-width:520px){.grid{grid-template-columns:1fr}}
"""


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
        for text in (_made(node), _scalars(node.ref.summary)):
            if text:
                lines.append(_fit(f"{detail}{text}", width))
        for index, source in enumerate(node.sources):
            last = index == len(node.sources) - 1 and not node.inputs
            facts = f"  {source.records} records, {source.licence}, sha256 {source.sha256[:12]}"
            room = width - len(inside) - 3 - len(facts)
            lines.append(_fit(f"{inside}{'└─ ' if last else '├─ '}{_tail(source.uri, room)}{facts}", width))
        for index, (input_name, parent) in enumerate(node.inputs.items()):
            last = index == len(node.inputs) - 1
            walk(parent, input_name, inside, "└─ " if last else "├─ ", "   " if last else "│  ")

    walk(graph.root, "", "", "", "")
    commits = {node.git_commit for node in graph.nodes.values() if node.git_commit}
    sources = graph.sources
    lines += ["", f"{_count(len(graph.nodes), 'artifact')}, {_count(len(sources), 'data source')} with"]
    lines[-1] += f" {sum(source.records for source in sources)} records, {_count(len(commits), 'commit')}"
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
            lines.append(f'  {shard}[("{_quoted(_tail(source.uri, 40))}<br/>{source.records} records")]')
            lines.append(f"  {shard} --> {names[uri]}")
    for uri, node in graph.nodes.items():
        lines += [f"  {names[parent]} -->|{_quoted(name)}| {names[uri]}" for name, parent in node.inputs.items()]
    return "\n".join(lines) + "\n"


def picture(graph: Graph) -> str:
    """The graph as inline SVG."""
    boxes, edges = {}, []
    for uri, node in graph.nodes.items():
        boxes[uri] = Box(node.ref.stage, node.ref.fingerprint[:12], node.ref.kind)
        edges += [(parent, uri) for parent in node.inputs.values()]
        if node.sources:
            records = sum(source.records for source in node.sources)
            boxes[f"{uri}#"] = Box(_count(len(node.sources), "data source"), f"{records:,} records", "source")
            edges.append((f"{uri}#", uri))
    return svg(boxes, edges)


def render_html(graph: Graph) -> str:
    """One self-contained page: the picture, the data sources, and for each artifact all that is recorded of it."""
    root = graph.nodes[graph.root]
    parts = [f"<h1>Lineage of {escape(root.label)}</h1>", f"<p><code>{escape(graph.root)}</code></p>"]
    parts += [f'<div class="scroll">{picture(graph)}</div>', "<h2>Data sources</h2>", sources_table(graph)]
    parts.append("<h2>Artifacts</h2>")
    for node in graph.nodes.values():
        parts.append(
            f"<details><summary><b>{escape(node.label)}</b> {escape(_made(node))}</summary>{_facts(node)}</details>"
        )
    return page(f"Lineage of {root.label}", "\n".join(parts))


def sources_table(graph: Graph) -> str:
    """HTML table of every data shard."""
    rows = [
        f'<tr><td class="wrap">{escape(source.uri)}</td><td class="n">{source.records:,}</td>'
        f"<td>{escape(source.licence)}</td><td><code>{escape(source.sha256)}</code></td></tr>"
        for source in graph.sources
    ]
    head = '<tr><th>source</th><th class="n">records</th><th>licence</th><th>sha256</th></tr>'
    return f'<div class="scroll"><table>{head}{"".join(rows)}</table></div>'


def page(title: str, body: str) -> str:
    """A complete HTML document with the house style, no script and no outside reference."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>'
        f"<body>\n{body}\n</body></html>\n"
    )


def _facts(node: LineageNode) -> str:
    facts = {
        "uri": node.ref.uri,
        "fingerprint": node.ref.fingerprint,
        "manifest sha256": node.ref.manifest_sha256,
        "created": f"{node.created} on {node.host}",
        "git commit": f"{node.git_commit or 'none'}{' with uncommitted changes' if node.git_dirty else ''}",
        "Prefect run": node.prefect_run_id or "none",
        "MLflow run": node.mlflow_run_id or "none",
        "seed": str(node.seed),
        "stage version": str(node.version),
    }
    facts |= {f"input {name}": uri for name, uri in node.inputs.items()}
    facts |= {f"summary {name}": str(value) for name, value in node.ref.summary.items()}
    if isinstance(node.config, Mapping):
        facts |= {f"config {name}": value for name, value in flatten(node.config).items()}
    rows = "".join(
        f'<tr><th>{escape(k)}</th><td class="wrap"><code>{escape(v)}</code></td></tr>' for k, v in facts.items()
    )
    return f"<table>{rows}</table>"


def _made(node: LineageNode) -> str:
    parts = [node.ref.kind, node.created[:16].replace("T", " ")]
    if node.git_commit:
        parts.append(f"git {node.git_commit[:10]}{'+changes' if node.git_dirty else ''}")
    return ", ".join(parts)


def _scalars(summary: Mapping[str, float | int | str]) -> str:
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in summary.items())


def _fit(line: str, width: int) -> str:
    return line if len(line) <= width else line[: width - 1] + "…"


def _tail(text: str, room: int) -> str:
    """The end of a path says more than its beginning."""
    room = max(room, 12)
    return text if len(text) <= room else "…" + text[-(room - 1) :]


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def _quoted(text: str) -> str:
    return text.replace('"', "#quot;").replace("<", "&lt;").replace("|", "/")
