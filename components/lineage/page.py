"""A lineage graph as one self-contained HTML page: a picture to zoom and pan, data shards, values, commits, machines.

The page's script is inside it and only moves the picture; nothing is loaded from elsewhere, and without scripts the
whole page is there too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from components.lineage.graph import Graph, LineageNode
from components.lineage.picture import Box, svg
from components.lineage.render import count, made_line, tail, totals
from components.lineage.tracker import flatten

# More shards than this are one box in the picture; the table has them all.
SHARDS_DRAWN = 12
SHARD_CHARACTERS = 15
LEVELS = ("exact", "contained", "ngram", "semantic")
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
.zoom{border:1px solid #d8dee6;border-radius:6px;position:relative}
.zoom svg{width:100%!important;height:min(60vh,560px)!important;touch-action:none;cursor:grab;display:block}
.zoom div{position:absolute;right:.5rem;top:.5rem}.zoom button{font:600 15px system-ui;width:2rem;height:2rem}
tr.set td,tr.set th{background:#fff6df}:target{background:#fff6df}
"""
# Wheel and buttons zoom, a drag pans, by the picture's viewBox alone; a click without a drag follows a box's link.
ZOOM = """<script>
for (const box of document.querySelectorAll('.zoom')) {
  const svg = box.querySelector('svg'), whole = svg.getAttribute('viewBox').split(' ').map(Number);
  let view = [...whole], drag = null, moved = false;
  const show = () => svg.setAttribute('viewBox', view.join(' '));
  const place = (event) => {
    const matrix = svg.getScreenCTM().inverse();
    return [event.clientX * matrix.a + matrix.e, event.clientY * matrix.d + matrix.f];
  };
  const zoom = (factor, x, y) => {
    const width = Math.min(Math.max(view[2] * factor, whole[2] / 40), whole[2] * 4), real = width / view[2];
    view = [x - (x - view[0]) * real, y - (y - view[1]) * real, width, view[3] * real];
    show();
  };
  svg.addEventListener('wheel', (event) => {
    event.preventDefault();
    zoom(Math.exp(event.deltaY / 500), ...place(event));
  }, {passive: false});
  svg.addEventListener('pointerdown', (event) => { drag = [event.clientX, event.clientY]; moved = false; });
  window.addEventListener('pointermove', (event) => {
    if (!drag) return;
    const matrix = svg.getScreenCTM().inverse();
    const by = [event.clientX - drag[0], event.clientY - drag[1]];
    moved = moved || Math.abs(by[0]) + Math.abs(by[1]) > 4;
    view = [view[0] - by[0] * matrix.a, view[1] - by[1] * matrix.d, view[2], view[3]];
    drag = [event.clientX, event.clientY];
    show();
  });
  window.addEventListener('pointerup', () => { drag = null; });
  svg.addEventListener('click', (event) => { if (moved) event.preventDefault(); }, true);
  svg.addEventListener('dragstart', (event) => event.preventDefault());
  const middle = () => [view[0] + view[2] / 2, view[1] + view[3] / 2];
  const [closer, farther, all] = box.querySelectorAll('button');
  closer.onclick = () => zoom(0.7, ...middle());
  farther.onclick = () => zoom(1 / 0.7, ...middle());
  all.onclick = () => { view = [...whole]; show(); };
}
const open = () => {
  const target = document.getElementById(location.hash.slice(1));
  if (target && target.tagName === 'DETAILS') target.open = true;
};
window.addEventListener('hashchange', open);
open();
</script>"""


def picture(graph: Graph, linked: bool = False) -> str:
    """The graph as inline SVG, data shards on the left. linked: a box leads to the artifact's part of the page."""
    boxes, edges = {}, []
    for uri, node in graph.nodes.items():
        link = f"#{anchor(node)}" if linked else ""
        boxes[uri] = Box(node.ref.stage, node.ref.fingerprint[:12], node.ref.kind, link)
        edges += [(parent, uri) for parent in node.inputs.values()]
        if len(node.sources) > SHARDS_DRAWN or (node.sources and not linked):
            records = sum(source.records for source in node.sources)
            shown = count(len(node.sources), "data source")
            boxes[f"{uri}#"] = Box(shown, f"{records:,} records", "source", "#shards" if linked else "")
            edges.append((f"{uri}#", uri))
            continue
        for index, source in enumerate(node.sources):
            name = source.uri.rstrip("/").rpartition("/")[2]
            title = name if len(name) <= SHARD_CHARACTERS else source.split or tail(name, SHARD_CHARACTERS)
            boxes[f"{uri}#{index}"] = Box(title, f"{source.records:,} records", "source", "#shards")
            edges.append((f"{uri}#{index}", uri))
    return svg(boxes, edges)


def render_html(graph: Graph) -> str:
    """The page: picture, data shards, what decontamination removed, and all that is recorded of each artifact."""
    root = graph.nodes[graph.root]
    spent = " · ".join(escape(line) for line in totals(graph))
    parts = [
        f"<h1>Lineage of {escape(root.label)}</h1>",
        f'<p><code>{escape(graph.root)}</code></p><p class="muted">{spent}</p>',
        f'<div class="zoom">{picture(graph, linked=True)}<div><button title="closer">+</button> '
        '<button title="farther">−</button> <button title="all">⤢</button></div></div>',
        '<h2 id="shards">Data shards</h2>',
        sources_table(graph),
        *(_cleaned(node) for node in graph.cleaned),
        "<h2>Artifacts</h2>",
    ]
    for node in graph.nodes.values():
        parts.append(
            f'<details id="{anchor(node)}"><summary><b>{escape(node.label)}</b> {escape(made_line(node))}</summary>'
            f"{_facts(node, graph)}{_values(node)}</details>"
        )
    return page(f"Lineage of {root.label}", "\n".join([*parts, ZOOM]))


def sources_table(graph: Graph) -> str:
    """HTML table of every data shard."""
    rows = [
        f'<tr><td class="wrap">{escape(source.uri)}</td><td>{escape(source.split)}</td>'
        f'<td class="n">{source.records:,}</td>'
        f"<td>{escape(source.licence)}</td><td><code>{escape(source.sha256)}</code></td></tr>"
        for source in graph.sources
    ]
    head = '<tr><th>source</th><th>split</th><th class="n">records</th><th>licence</th><th>sha256</th></tr>'
    return f'<div class="scroll"><table>{head}{"".join(rows)}</table></div>'


def page(title: str, body: str) -> str:
    """A complete HTML document with the house style and no outside reference."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>'
        f"<body>\n{body}\n</body></html>\n"
    )


def anchor(node: LineageNode) -> str:
    return f"{node.ref.stage}-{node.ref.fingerprint[:12]}"


def _cleaned(node: LineageNode) -> str:
    """Counts by split and level, then the removed records with the benchmark item that each resembles."""
    found = node.cleaned
    rows = [
        (split, row["records"], row["kept"], row["removed"], *(row.get(f"removed:{level}", 0) for level in LEVELS))
        for split, row in found.splits.items()
    ]
    text = f"<h2>Removed by decontamination</h2><p>{found.removed:,} records, {escape(node.label)}.</p>"
    text += _table(("split", "records", "kept", "removed", *LEVELS), rows, numbers=1)
    benchmarks = [
        (name, row["items"], row["hit_items"], row["removed"])
        for name, row in found.counts.get("benchmarks", {}).items()
        if row.get("removed")
    ]
    if benchmarks:
        text += _table(("benchmark", "items", "items found", "records removed"), benchmarks, numbers=1)
    if found.removals:
        more = f"; the first {len(found.removals)}" if len(found.removals) < found.removed else ""
        listed = [
            (r.item, r.split, r.field, f"{r.benchmark} {r.benchmark_item}", r.level, f"{r.score:.3f}")
            for r in found.removals
        ]
        head = ("record", "split", "field", "benchmark item", "level", "score")
        text += f"<details><summary>Every finding{more}</summary>{_table(head, listed)}</details>"
    return text


def _facts(node: LineageNode, graph: Graph) -> str:
    made = node.made
    changes = " with uncommitted changes" if made.git_dirty else ""
    facts = {
        "uri": node.ref.uri,
        "fingerprint": node.ref.fingerprint,
        "manifest sha256": node.ref.manifest_sha256,
        "created": f"{made.created} on {made.host}",
        "recipe": f"{made.recipe} {made.recipe_version}".strip(),
        "git commit": f"{made.git_commit or 'none'}{changes}",
        "uncommitted changes": f"sha256 {made.git_diff_sha256}" if made.git_diff_sha256 else "",
        "lock file": f"{made.lock} sha256 {made.lock_sha256}" if made.lock_sha256 else "",
        "hardware": str(made.hardware or ""),
        "Prefect run": made.prefect_run_id,
        "MLflow run": made.mlflow_run_id,
        "seed": str(made.seed),
        "stage version": str(node.version),
    }
    if made.work is not None:
        devices = count(made.work.devices, made.work.device)
        facts["work"] = f"{made.work.wall_s:.1f} s on {devices}, {made.work.device_hours:.4g} {made.work.device}-hours"
    facts |= {f"summary {name}": str(value) for name, value in node.ref.summary.items()}
    rows = [f"<tr><th>{escape(k)}</th><td class=wrap><code>{escape(v)}</code></td></tr>" for k, v in facts.items() if v]
    for name, uri in node.inputs.items():
        parent = graph.nodes[uri]
        opened = f" ({', '.join((made.reads or {}).get(name, ()))})" if made.reads else ""
        link = f'<a href="#{anchor(parent)}">{escape(parent.label)}</a>{escape(opened)}'
        rows.append(f"<tr><th>input {escape(name)}</th><td class=wrap>{link}</td></tr>")
    return f"<table>{''.join(rows)}</table>"


def _values(node: LineageNode) -> str:
    """Every value with its origin; overrides are marked. Of the hashed identity for artifacts without origins."""
    if not node.made.config:
        values = flatten(node.config) if isinstance(node.config, Mapping) else {}
        return _table(("value", ""), values.items())
    rows = []
    for key, value in node.made.config.items():
        mark = ' class="set"' if "--set " in value.origin else ""
        shown = value.value if isinstance(value.value, str) else json.dumps(value.value)
        cells = (
            f"<th>{escape(key)}</th>",
            f"<td><code>{escape(shown)}</code></td>",
            f"<td>{escape(value.origin)}</td>",
        )
        rows.append(f"<tr{mark}>{''.join(cells)}</tr>")
    return f"<table><tr><th>value</th><th></th><th>origin</th></tr>{''.join(rows)}</table>"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]], numbers: int | None = None) -> str:
    """numbers: the column from which on cells are numbers."""

    def cell(tag: str, index: int, value: Any) -> str:
        right = ' class="n"' if numbers is not None and index >= numbers else ' class="wrap"' if tag == "td" else ""
        shown = f"{value:,}" if isinstance(value, int) else str(value)
        return f"<{tag}{right}>{escape(shown)}</{tag}>"

    lines = [("th", head), *(("td", row) for row in rows)]
    text = "".join(f"<tr>{''.join(cell(tag, i, v) for i, v in enumerate(row))}</tr>" for tag, row in lines)
    return f'<div class="scroll"><table>{text}</table></div>'
