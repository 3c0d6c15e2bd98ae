"""A small DAG as inline SVG: columns by longest path from the sources, curved edges, no script, no layout library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y, MARGIN = 116, 44, 24, 14, 6
COLOURS = {
    "source": ("#eef1f5", "#8a97a8"),
    "corpus": ("#e3f1e6", "#4a9460"),
    "clean-corpus": ("#e3f1e6", "#4a9460"),
    "checkpoint": ("#e2ecfb", "#3c74c4"),
    "reward-model": ("#efe6fa", "#8156bd"),
    "evaluation": ("#fdf1dc", "#c08a2b"),
    "release": ("#fbe3e3", "#c14c4c"),
}


@dataclass(frozen=True)
class Box:
    """title: first line; subtitle: second; kind: chooses the colour (an artifact kind, or `source`); href: a link."""

    title: str
    subtitle: str
    kind: str
    href: str = ""


def svg(boxes: Mapping[str, Box], edges: Sequence[tuple[str, str]]) -> str:
    """SVG of an acyclic graph. `edges` are (from, to) ids of boxes, drawn from left to right."""
    columns = _columns(boxes, edges)
    height_of = max(len(column) for column in columns)
    width = 2 * MARGIN + len(columns) * BOX_WIDTH + (len(columns) - 1) * GAP_X
    height = 2 * MARGIN + height_of * BOX_HEIGHT + (height_of - 1) * GAP_Y
    place = {}
    for x, column in enumerate(columns):
        top = (height - len(column) * BOX_HEIGHT - (len(column) - 1) * GAP_Y) / 2
        for y, name in enumerate(column):
            place[name] = (MARGIN + x * (BOX_WIDTH + GAP_X), top + y * (BOX_HEIGHT + GAP_Y))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:g}" width="{width}" height="{height:g}" '
        'role="img" aria-label="lineage graph" style="max-width:100%;height:auto" font-family="system-ui,sans-serif">'
    ]
    parts += [_edge(*place[start], *place[end]) for start, end in edges]
    parts += [_box(boxes[name], *place[name]) for name in place]
    return "".join(parts) + "</svg>"


def _columns(boxes: Mapping[str, Box], edges: Sequence[tuple[str, str]]) -> list[list[str]]:
    parents: dict[str, list[str]] = {name: [] for name in boxes}
    for start, end in edges:
        parents[end].append(start)
    depth: dict[str, int] = {}

    def deep(name: str) -> int:
        if name not in depth:
            depth[name] = 1 + max((deep(parent) for parent in parents[name]), default=-1)
        return depth[name]

    columns: list[list[str]] = [[] for _ in range(1 + max(deep(name) for name in boxes))]
    for name in boxes:
        columns[depth[name]].append(name)
    # Boxes follow the mean height of their parents (the barycentre rule), which keeps most edges from crossing.
    row: dict[str, float] = {}
    for column in columns:
        column.sort(key=lambda name: sum(row[p] for p in parents[name]) / len(parents[name]) if parents[name] else 0)
        for index, name in enumerate(column):
            row[name] = index - (len(column) - 1) / 2
    return columns


def _edge(x1: float, y1: float, x2: float, y2: float) -> str:
    start_x, start_y, end_y = x1 + BOX_WIDTH, y1 + BOX_HEIGHT / 2, y2 + BOX_HEIGHT / 2
    bend = max(GAP_X, (x2 - start_x) / 2)
    return (
        f'<path d="M{start_x:g},{start_y:g} C{start_x + bend:g},{start_y:g} {x2 - bend:g},{end_y:g} {x2:g},{end_y:g}" '
        'fill="none" stroke="#9aa7b8" stroke-width="1.3" opacity=".75"/>'
    )


def _box(box: Box, x: float, y: float) -> str:
    fill, stroke = COLOURS.get(box.kind, COLOURS["source"])
    middle = x + BOX_WIDTH / 2
    drawn = (
        f"<g><title>{escape(box.title)} {escape(box.subtitle)}</title>"
        f'<rect x="{x:g}" y="{y:g}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6" fill="{fill}" stroke="{stroke}"/>'
        f'<text x="{middle:g}" y="{y + 19:g}" text-anchor="middle" font-size="12.5" font-weight="600" fill="#1c2733">'
        f'{escape(_short(box.title))}</text><text x="{middle:g}" y="{y + 35:g}" text-anchor="middle" font-size="11" '
        f'fill="#56637a">{escape(_short(box.subtitle))}</text></g>'
    )
    return f'<a href="{escape(box.href, quote=True)}">{drawn}</a>' if box.href else drawn


def _short(text: str) -> str:
    return text if len(text) <= 17 else text[:16] + "…"
