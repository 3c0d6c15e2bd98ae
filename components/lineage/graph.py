"""Lineage: from any artifact back to every data shard, config and commit, read from the store's manifests alone.

Each manifest references its inputs with digests, so the graph needs no other server, and a reference that does not
match what is stored is an IntegrityError and not a gap in the picture. Leaves are the entries of the corpus artifact's
`sources.json`: the files (or the generator) the data came from, with sha256, licence and number of records.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from components.artifacts.manifest import Manifest
from components.artifacts.provenance import Provenance
from components.artifacts.ref import ArtifactRef
from components.artifacts.store import Store
from components.failures import IntegrityError

SOURCES_FILE, COUNTS_FILE, EVIDENCE_FILE = "sources.json", "decontamination.json", "evidence.parquet"
READERS = 8
# What a page lists; the artifact's evidence.parquet has all of them.
SHOWN_REMOVALS = 1000


@dataclass(frozen=True)
class Source:
    """One data shard a corpus was made from. split: the part of the corpus, or the benchmark, its records went to."""

    uri: str
    sha256: str
    licence: str
    records: int
    split: str = ""


@dataclass(frozen=True)
class Removal:
    """A record that decontamination removed: where it stood, and the benchmark item it resembles.

    level: exact, contained, ngram or semantic. score: 1, share of n-grams, or cosine.
    """

    item: str
    split: str
    field: str
    benchmark: str
    benchmark_item: str
    level: str
    score: float


@dataclass(frozen=True)
class Decontamination:
    """counts: decontamination.json's, by split and under `benchmarks` by benchmark. removals: the first of them."""

    counts: Mapping[str, Any]
    removals: tuple[Removal, ...] = ()

    @property
    def splits(self) -> dict[str, Mapping[str, Any]]:
        """{split: {records, kept, removed, removed:<level> ...}}."""
        return {name: row for name, row in self.counts.items() if isinstance(row, Mapping) and "kept" in row}

    @property
    def removed(self) -> int:
        return sum(int(row["removed"]) for row in self.splits.values())


@dataclass(frozen=True)
class LineageNode:
    """One artifact with what made it. `inputs`: input name -> URI of the artifact it was. config: of its identity."""

    ref: ArtifactRef
    config: Any
    version: int
    made: Provenance
    inputs: Mapping[str, str]
    sources: tuple[Source, ...] = ()
    cleaned: Decontamination | None = None

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

    @property
    def cleaned(self) -> list[LineageNode]:
        """The artifacts that decontamination made."""
        return [node for node in self.nodes.values() if node.cleaned is not None]


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


def _node(store: Store, ref: ArtifactRef) -> tuple[LineageNode, list[ArtifactRef]]:
    manifest = store.read_manifest(ref)
    made, inputs = manifest.provenance, manifest.provenance.inputs
    for name, identity in manifest.identity.get("inputs", {}).items():
        if name not in inputs:
            raise IntegrityError(f"{ref.uri}: the manifest hashes an input {name} and holds no reference to it")
        if identity != f"{inputs[name].fingerprint}:{inputs[name].manifest_sha256}":
            raise IntegrityError(f"{ref.uri}: input {name} was hashed as {identity}, but references {inputs[name].uri}")
    node = LineageNode(
        ref=ref,
        config=manifest.identity.get("config"),
        version=int(manifest.identity.get("version", 0)),
        made=made,
        inputs={name: parent.uri for name, parent in inputs.items()},
        sources=_sources(store, ref, manifest),
        cleaned=_cleaned(store, ref, manifest),
    )
    return node, list(inputs.values())


def shards(store: Store, ref: ArtifactRef) -> tuple[Source, ...]:
    """The data shards an artifact was made from directly; none when it was made from other artifacts."""
    return _sources(store, ref, store.read_manifest(ref))


def _sources(store: Store, ref: ArtifactRef, manifest: Manifest) -> tuple[Source, ...]:
    if manifest.provenance.inputs or manifest.entry(SOURCES_FILE) is None:
        return ()
    with _readable(ref, SOURCES_FILE):
        return tuple(
            Source(
                entry["uri"],
                entry["sha256"],
                entry.get("licence") or "unknown",
                int(entry["records"]),
                entry.get("split", ""),
            )
            for entry in json.loads(store.fetch(ref, SOURCES_FILE).read_text())
        )


def _cleaned(store: Store, ref: ArtifactRef, manifest: Manifest) -> Decontamination | None:
    if manifest.entry(COUNTS_FILE) is None:
        return None
    with _readable(ref, COUNTS_FILE):
        counts = json.loads(store.fetch(ref, COUNTS_FILE).read_text())["counts"]
        return Decontamination(counts, _removals(store, ref) if manifest.entry(EVIDENCE_FILE) else ())


def _removals(store: Store, ref: ArtifactRef) -> tuple[Removal, ...]:
    import pyarrow.parquet as pq

    names = [field.name for field in dataclasses.fields(Removal)]
    with pq.ParquetFile(store.fetch(ref, EVIDENCE_FILE)) as table:
        rows = (row for batch in table.iter_batches(columns=[*names, "decision"]) for row in batch.to_pylist())
        removed = (row for row in rows if row["decision"] == "removed")
        return tuple(Removal(**{name: row[name] for name in names}) for row in islice(removed, SHOWN_REMOVALS))


@contextmanager
def _readable(ref: ArtifactRef, name: str):
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{ref.uri}/files/{name} is not what lineage reads: {error!r}") from error


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
