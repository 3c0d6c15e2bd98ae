"""Lineage: from any artifact back to every data shard, config and commit, read from the store's manifests alone.

Each manifest references its inputs with digests, so the graph needs no other server, and a reference that does not
match what is stored is an IntegrityError and not a gap in the picture. Leaves are the entries of the corpus artifact's
`sources.json`: the files (or the generator) the data came from, with sha256, licence and number of records.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from components.artifacts.ref import ArtifactRef
from components.artifacts.store import Store
from components.failures import BadInput, IntegrityError

SOURCES_FILE = "sources.json"
READERS = 8


@dataclass(frozen=True)
class Source:
    """One data shard a corpus was made from."""

    uri: str
    sha256: str
    licence: str
    records: int


@dataclass(frozen=True)
class LineageNode:
    """One artifact with what made it. `inputs`: input name -> URI of the artifact it was."""

    ref: ArtifactRef
    config: Any
    version: int
    seed: int
    created: str
    git_commit: str
    git_dirty: bool
    host: str
    prefect_run_id: str
    mlflow_run_id: str
    inputs: Mapping[str, str]
    sources: tuple[Source, ...] = ()

    @property
    def label(self) -> str:
        """`rlvr-1@1a2b3c4d5e6f`, which `resolve` takes back."""
        return f"{self.ref.stage}@{self.ref.fingerprint[:12]}"


@dataclass(frozen=True)
class Graph:
    """`nodes` by URI; the root first, every node before its inputs."""

    root: str
    nodes: Mapping[str, LineageNode] = field(default_factory=dict)

    @property
    def sources(self) -> list[Source]:
        """Every data shard behind the root, each once."""
        return list(dict.fromkeys(source for node in self.nodes.values() for source in node.sources))


def lineage(store: Store, ref: ArtifactRef) -> Graph:
    """Walks the manifests from `ref` to its sources. Raises IntegrityError naming the first broken link."""
    nodes: dict[str, LineageNode] = {}
    wanted = [ref]
    with ThreadPoolExecutor(READERS) as pool:
        while wanted:
            level = list(pool.map(lambda item: _node(store, item), wanted))
            for node, _ in level:
                nodes[node.ref.uri] = node
            inputs = {parent.uri: parent for _, parents in level for parent in parents}
            wanted = [parent for uri, parent in inputs.items() if uri not in nodes]
    return Graph(ref.uri, {uri: nodes[uri] for uri in _ordered(ref.uri, nodes)})


def resolve(reference: str, store: Store, tracker: Any, project: str = "ringflow") -> ArtifactRef:
    """The artifact a person means.

    Args:
        reference: `models:/name@alias`, an MLflow run id (32 hex), an artifact URI, `stage@fingerprint-prefix`, or an
            evaluation score `evaluate-sft@fingerprint-prefix/benchmark/metric`.
        tracker: a Tracker; may be None for the kinds that need no MLflow.
    Raises BadInput that names what is there when nothing or more than one thing matches.
    """
    if reference.startswith("models:/") or re.fullmatch(r"[0-9a-f]{32}", reference):
        if tracker is None:
            raise BadInput("this reference needs MLflow", where=reference, remedy="Set MLFLOW_TRACKING_URI")
        return store.ref(tracker.artifact_uri(reference))
    if "://" in reference:
        return store.ref(reference)
    stage, _, rest = reference.partition("@")
    prefix, _, score = rest.partition("/")
    artifacts = store.list(project)
    found = [ref for ref in artifacts if ref.stage == stage and ref.fingerprint.startswith(prefix)]
    if len(found) != 1 or not rest:
        near = found or [ref for ref in artifacts if ref.stage == stage] or artifacts
        known = ", ".join(sorted(f"{ref.stage}@{ref.fingerprint[:12]}" for ref in near)[:12])
        raise BadInput(
            f"{'several artifacts match' if len(found) > 1 else 'no artifact matches'} {reference}",
            where=f"{store.url}/{project}",
            remedy=f"Known: {known}" if known else "The project has no artifacts yet",
        )
    if score and score not in found[0].summary:
        raise BadInput(
            f"{stage} has no score {score}", where=found[0].uri, remedy=f"Known: {', '.join(found[0].summary)}"
        )
    return found[0]


def _node(store: Store, ref: ArtifactRef) -> tuple[LineageNode, list[ArtifactRef]]:
    manifest = store.read_manifest(ref)
    made, inputs = manifest.provenance, manifest.provenance.inputs
    for name, identity in manifest.identity.get("inputs", {}).items():
        if name not in inputs:
            raise IntegrityError(f"{ref.uri}: the manifest hashes an input {name} and holds no reference to it")
        if identity != f"{inputs[name].fingerprint}:{inputs[name].manifest_sha256}":
            raise IntegrityError(f"{ref.uri}: input {name} was hashed as {identity}, but references {inputs[name].uri}")
    sources: tuple[Source, ...] = ()
    if not inputs and manifest.entry(SOURCES_FILE) is not None:
        sources = _sources(store, ref)
    node = LineageNode(
        ref=ref,
        config=manifest.identity.get("config"),
        version=int(manifest.identity.get("version", 0)),
        seed=made.seed,
        created=made.created,
        git_commit=made.git_commit,
        git_dirty=made.git_dirty,
        host=made.host,
        prefect_run_id=made.prefect_run_id,
        mlflow_run_id=made.mlflow_run_id,
        inputs={name: parent.uri for name, parent in inputs.items()},
        sources=sources,
    )
    return node, list(inputs.values())


def _sources(store: Store, ref: ArtifactRef) -> tuple[Source, ...]:
    path = store.fetch(ref, SOURCES_FILE)
    try:
        return tuple(
            Source(entry["uri"], entry["sha256"], entry.get("licence") or "unknown", int(entry["records"]))
            for entry in json.loads(path.read_text())
        )
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{ref.uri}/files/{SOURCES_FILE} is not a list of sources: {error!r}") from error


def _ordered(root: str, nodes: Mapping[str, LineageNode]) -> list[str]:
    """Depth-first post-order, reversed: every node before all of its inputs."""
    seen: set[str] = set()
    finished: list[str] = []
    stack: list[tuple[str, bool]] = [(root, False)]
    while stack:
        uri, leaving = stack.pop()
        if leaving:
            finished.append(uri)
        elif uri not in seen:
            seen.add(uri)
            stack.append((uri, True))
            stack += [(parent, False) for parent in nodes[uri].inputs.values()]
    return finished[::-1]
