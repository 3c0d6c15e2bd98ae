"""Downstream: every model and score that a data shard touched. Someone withdraws a data set: which models must go?

A shard's records stand in one file of the corpus (`data/<split>.jsonl`, or a benchmark). A stage is touched when it
opened a file that holds them, or when one of its inputs is a model or a score that was touched. What a stage opened is
recorded; an older artifact without that record counts as having read all of its inputs. Decontamination is touched file
by file: the clean files come from the files of the same name, and a benchmark decides what is removed from every file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from components.failures import BadInput
from components.lineage.graph import Source, shards
from components.lineage.references import Catalog, Entry

ALL = "."
DATA_KINDS = ("corpus", "clean-corpus")
# Held-out pairs are split off preference files (stage corpus).
SPLIT_FILES = {"preference": ("data/preference.jsonl", "data/preference_heldout.jsonl")}
SHORTEST_DIGEST = 8


@dataclass(frozen=True)
class Touched:
    """via: why, as `input name <- artifact: file`. versions: registered models made from it, `name:version @alias`."""

    entry: Entry
    via: tuple[str, ...]
    versions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Impact:
    """shards: the matching shards with the corpora that hold them. touched: in an order in which they were made.

    spared: models and scores made from an artifact that holds the shard without having read the shard's records.
    broken: artifacts that cannot be read, so that nothing is known of them.
    """

    reference: str
    shards: tuple[tuple[str, Source], ...]
    touched: tuple[Touched, ...]
    spared: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()


@dataclass
class _Spread:
    """What is touched so far: URI -> files inside (ALL for everything)."""

    files: dict[str, set[str]] = field(default_factory=dict)
    via: dict[str, list[str]] = field(default_factory=dict)


def impact(
    reference: str,
    catalog: Catalog,
    resolve: Callable[[str], Any] | None = None,
    versions_of: Callable[[Sequence[str]], Mapping[str, list[str]]] | None = None,
) -> Impact:
    """Everything downstream of a data set.

    Args:
        reference: sha256 of a shard (8 digits or more), its URI (`*` and `?` match), or an artifact.
        resolve: makes an ArtifactRef of a reference that names no shard.
        versions_of: artifact URIs -> registered models made from them.
    Raises BadInput, naming the shards there are, when nothing matches.
    """
    spread, found = _Spread(), []
    corpora = [(entry, shards(catalog.store, entry.ref)) for entry in catalog.entries if entry.ref.kind == "corpus"]
    for entry, sources in corpora:
        for source in sources:
            if _matches(reference, source):
                found.append((entry.label, source))
                spread.files.setdefault(entry.ref.uri, set()).update(_files(source, entry))
                spread.via.setdefault(entry.ref.uri, []).append(f"shard {source.uri} ({source.split})")
    if not found:
        start = _artifact(reference, resolve, corpora)
        spread.files[start.uri] = {ALL}
        spread.via[start.uri] = ["named"]
    spared = _follow(spread, catalog.entries)
    order = _in_order([entry for entry in catalog.entries if entry.ref.uri in spread.files])
    names = versions_of([entry.ref.uri for entry in order]) if versions_of and order else {}
    touched = tuple(
        Touched(entry, tuple(spread.via[entry.ref.uri]), tuple(names.get(entry.ref.uri, ()))) for entry in order
    )
    return Impact(reference, tuple(found), touched, tuple(spared), tuple(catalog.broken))


def _artifact(reference: str, resolve: Callable[[str], Any] | None, corpora: Iterable[tuple[Entry, Any]]) -> Any:
    known = sorted({source.uri for _, sources in corpora for source in sources})
    remedy = f"Shards: {', '.join(known[:8])}{' ...' if len(known) > 8 else ''}" if known else "There is no corpus yet"
    try:
        if resolve is not None:
            return resolve(reference)
    except BadInput as error:
        raise BadInput(f"no shard and no artifact is called {reference}", where=error.where, remedy=remedy) from error
    raise BadInput(f"no shard is called {reference}", remedy=remedy)


def _matches(reference: str, source: Source) -> bool:
    digest = reference.removeprefix("sha256:")
    by_digest = len(digest) >= SHORTEST_DIGEST and source.sha256.startswith(digest)
    return by_digest or source.uri == reference or fnmatchcase(source.uri, reference)


def _files(source: Source, corpus: Entry) -> tuple[str, ...]:
    """Files of the corpus that hold a shard's records; all of it when the split does not tell."""
    named = (*SPLIT_FILES.get(source.split, (f"data/{source.split}.jsonl",)), f"benchmarks/{source.split}.jsonl")
    return tuple(path for path in named if corpus.manifest.entry(path) is not None) or (ALL,)


def _follow(spread: _Spread, entries: Sequence[Entry]) -> list[str]:
    """Extends what is touched until nothing changes; returns labels of what was made beside the shard, untouched."""
    start = set(spread.files)
    grown = True
    while grown:
        grown = False
        for entry in entries:
            if entry.ref.uri in start:
                continue
            via, files = _reached(spread, entry)
            if via:
                grown = grown or files != spread.files.get(entry.ref.uri)
                spread.files[entry.ref.uri], spread.via[entry.ref.uri] = files, via
    return [
        entry.label
        for entry in entries
        if entry.ref.uri not in spread.files
        and any(ref.uri in spread.files for ref in entry.manifest.provenance.inputs.values())
    ]


def _in_order(entries: Sequence[Entry]) -> list[Entry]:
    """Every artifact after its inputs, else as given."""
    known = {entry.ref.uri: entry for entry in entries}
    placed: dict[str, Entry] = {}

    def place(entry: Entry) -> None:
        for ref in entry.manifest.provenance.inputs.values():
            if ref.uri in known and ref.uri not in placed:
                place(known[ref.uri])
        placed.setdefault(entry.ref.uri, entry)

    for entry in entries:
        place(entry)
    return list(placed.values())


def _reached(spread: _Spread, entry: Entry) -> tuple[list[str], set[str]]:
    """(why an artifact is touched, which of its files); empty when it is not."""
    made = entry.manifest.provenance
    via: list[str] = []
    files: set[str] = set()
    for name, ref in made.inputs.items():
        touched = spread.files.get(ref.uri)
        if touched is None:
            continue
        if ref.kind not in DATA_KINDS or ALL in touched:
            hit = {ALL} if _opened(made.reads, name, None) else set()
        else:
            hit = {file for file in touched if _opened(made.reads, name, file)}
        if hit:
            shown = "" if hit == {ALL} else f": {', '.join(sorted(hit))}"
            via.append(f"{name} <- {ref.stage}@{ref.fingerprint[:12]}{shown}")
            files |= hit
    decides = any(file.startswith("benchmarks/") and entry.manifest.entry(file) is not None for file in files)
    if files and (decides or entry.ref.kind not in DATA_KINDS):
        files = {ALL}
    return via, files


def _opened(reads: Mapping[str, tuple[str, ...]] | None, name: str, file: str | None) -> bool:
    """Whether a stage opened a file of an input, or, for None, anything that counts as its content."""
    if reads is None:
        return True
    opened = reads.get(name, ())
    if file is None:
        return bool(opened)
    return any(path in (ALL, file) or file.startswith(f"{path}/") for path in opened)


def render_text(found: Impact) -> str:
    """What must be looked at, models first."""
    lines = [f"{found.reference}"]
    for label, source in found.shards:
        lines.append(
            f"  {source.uri}  {source.records} records, {source.licence}, sha256 {source.sha256[:12]}  in {label}"
        )
    groups = {
        "models": ("checkpoint", "reward-model", "release"),
        "scores": ("evaluation",),
        "data": DATA_KINDS,
    }
    for title, kinds in groups.items():
        members = [touched for touched in found.touched if touched.entry.ref.kind in kinds]
        lines += ["", f"{title}: {len(members)}"]
        for touched in members:
            registered = f"  = {', '.join(touched.versions)}" if touched.versions else ""
            lines.append(f"  {touched.entry.project}/{touched.entry.label}{registered}")
            if title == "scores":
                lines.append(f"      {_scores(touched.entry)}")
            lines += [f"      {why}" for why in touched.via]
    if found.spared:
        lines += ["", f"made beside it without reading it: {', '.join(found.spared)}"]
    if found.broken:
        lines += ["", "unreadable, so nothing is known of them:", *(f"  {line}" for line in found.broken)]
    return "\n".join(lines) + "\n"


def to_json(found: Impact) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "reference": found.reference,
        "shards": [{"corpus": label, **asdict(source)} for label, source in found.shards],
        "touched": [
            {
                "artifact": touched.entry.label,
                "project": touched.entry.project,
                "kind": touched.entry.ref.kind,
                "uri": touched.entry.ref.uri,
                "summary": touched.entry.ref.summary,
                "registered": list(touched.versions),
                "via": list(touched.via),
            }
            for touched in found.touched
        ],
        "spared": list(found.spared),
        "broken": list(found.broken),
    }


def _scores(entry: Entry) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in entry.ref.summary.items() if isinstance(value, float))
