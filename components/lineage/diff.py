"""What differs between the lineages of two artifacts: values with origins, data, code, seeds, hardware, inputs.

Artifacts of the two lineages are paired by the name of their node; a pair that is one and the same artifact differs in
nothing. What has no partner is listed as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from components.lineage.graph import Graph, LineageNode, Source

ABSENT = "absent"


@dataclass(frozen=True)
class Change:
    """One thing that differs. node: where; empty for the data shards. left, right: the values with their origin."""

    node: str
    what: str
    left: str
    right: str


@dataclass(frozen=True)
class Difference:
    """equal: nodes whose artifact is the same on both sides. changes: by node, what was computed from first."""

    left: str
    right: str
    equal: tuple[str, ...]
    changes: tuple[Change, ...]


def difference(left: Graph, right: Graph) -> Difference:
    """Compares two lineages; what was computed earlier comes first, because the later differs for its sake."""
    ours, theirs = _by_name(left), _by_name(right)
    names = list(dict.fromkeys([*reversed(ours), *reversed(theirs)]))
    equal, changes = [], list(_sources(left.sources, right.sources))
    for name in names:
        a, b = ours.get(name), theirs.get(name)
        if a is None or b is None:
            changes.append(Change(name, "artifact", a.label if a else ABSENT, b.label if b else ABSENT))
        elif a.ref.uri == b.ref.uri:
            equal.append(name)
        else:
            changes += _facts(name, a, b, left, right)
    return Difference(left.nodes[left.root].label, right.nodes[right.root].label, tuple(equal), tuple(changes))


def render_text(found: Difference) -> str:
    lines = [f"A  {found.left}", f"B  {found.right}"]
    node = None
    for change in found.changes:
        if change.node != node:
            node = change.node
            lines += ["", node or "data shards"]
        lines += [f"  {change.what}", f"    A  {change.left}", f"    B  {change.right}"]
    if not found.changes:
        lines += ["", "nothing differs"]
    if found.equal:
        lines += ["", f"the same artifact in both: {', '.join(found.equal)}"]
    return "\n".join(lines) + "\n"


def to_json(found: Difference) -> dict[str, Any]:
    return asdict(found)


def _by_name(graph: Graph) -> dict[str, LineageNode]:
    """Nodes by name, the root first; a name that stands twice (two results of one stage) is told apart."""
    found: dict[str, LineageNode] = {}
    for node in graph.nodes.values():
        found[node.ref.stage if node.ref.stage not in found else node.label] = node
    root = graph.nodes[graph.root]
    # Two models of different stages are compared as what they are: the end of their lineages.
    return found if root.ref.stage in found else {root.label: root, **found}


def _facts(name: str, a: LineageNode, b: LineageNode, left: Graph, right: Graph) -> Iterable[Change]:
    yield from _values(name, a, b)
    facts = {
        "seed": (a.made.seed, b.made.seed),
        "stage version": (a.version, b.version),
        "git commit": (_commit(a), _commit(b)),
        "uncommitted changes (sha256)": (a.made.git_diff_sha256 or "none", b.made.git_diff_sha256 or "none"),
        "lock file (sha256)": (a.made.lock_sha256 or "none", b.made.lock_sha256 or "none"),
        "recipe": (_recipe(a), _recipe(b)),
        "hardware": (a.made.hardware or "not recorded", b.made.hardware or "not recorded"),
    }
    for what, (ours, theirs) in facts.items():
        if ours != theirs:
            yield Change(name, what, str(ours), str(theirs))
    for kind in dict.fromkeys([*a.inputs, *b.inputs]):
        ours, theirs = a.inputs.get(kind), b.inputs.get(kind)
        if ours != theirs:
            yield Change(name, f"input {kind}", _label(left, ours), _label(right, theirs))
    yield Change(name, "artifact", a.label, b.label)


def _values(name: str, a: LineageNode, b: LineageNode) -> Iterable[Change]:
    """Config values that differ; from the hashed identity where an older artifact has no values with origins."""
    ours, theirs = a.made.config, b.made.config
    if not ours or not theirs:
        ours, theirs = _plain(a.config), _plain(b.config)
    for key in dict.fromkeys([*ours, *theirs]):
        x, y = ours.get(key), theirs.get(key)
        if (x is None) != (y is None) or (x is not None and _value(x) != _value(y)):
            yield Change(name, key, _shown(x), _shown(y))


def _sources(ours: Iterable[Source], theirs: Iterable[Source]) -> Iterable[Change]:
    def keyed(sources: Iterable[Source]) -> dict[tuple[str, str], Source]:
        return {(source.uri, source.split): source for source in sources}

    a, b = keyed(ours), keyed(theirs)
    for key in dict.fromkeys([*a, *b]):
        if a.get(key) != b.get(key):
            yield Change("", key[0], _shard(a.get(key)), _shard(b.get(key)))


def _shard(source: Source | None) -> str:
    return ABSENT if source is None else f"sha256 {source.sha256[:12]}, {source.records} records, {source.licence}"


def _plain(value: Any, key: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {key: value}
    return {k: v for name, item in value.items() for k, v in _plain(item, f"{key}.{name}" if key else name).items()}


def _value(entry: Any) -> Any:
    return getattr(entry, "value", entry)


def _shown(entry: Any) -> str:
    if entry is None:
        return ABSENT
    origin = getattr(entry, "origin", "")
    return f"{_value(entry)}  ({origin})" if origin else str(entry)


def _commit(node: LineageNode) -> str:
    return (node.made.git_commit or "none") + (" with uncommitted changes" if node.made.git_dirty else "")


def _recipe(node: LineageNode) -> str:
    return f"{node.made.recipe} {node.made.recipe_version}".strip() or "not recorded"


def _label(graph: Graph, uri: str | None) -> str:
    return ABSENT if uri is None else graph.nodes[uri].label
