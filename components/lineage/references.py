"""What people call a thing: a registered model, a run, a checkpoint, a score, a released file, a fingerprint.

ring-nano, ring-nano@released, ring-nano:3, models:/ring-nano@released, models:/ring-nano/3     registered model
1a2b... (32 hex)                    MLflow run
s3://bucket/project/sft/1a2b...     artifact, also a file inside it
sft@1a2b3c, 1a2b3c4d...             checkpoint or any artifact by (the beginning of) its fingerprint
sft, evaluate-sft/nano-math         the newest artifact of a stage, and one of its scores
./model.safetensors, sha256 (64)    a file that an artifact holds, by its bytes
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.artifacts.digest import file_sha256
from components.artifacts.manifest import Manifest
from components.artifacts.ref import ArtifactRef
from components.artifacts.store import Store
from components.failures import BadInput, IntegrityError

SHORTEST_PREFIX = 6
PREFERRED_ALIASES = ("released", "candidate")


@dataclass(frozen=True)
class Entry:
    """A committed artifact, as the catalog lists it."""

    ref: ArtifactRef
    manifest: Manifest
    project: str

    @property
    def label(self) -> str:
        return f"{self.ref.stage}@{self.ref.fingerprint[:12]}"


class Catalog:
    """Every committed artifact of a store, all projects, oldest first; read on first use, once.

    broken: one line for each artifact that cannot be read. It is no answer to anything, and hides no other one.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.broken: list[str] = []
        self._entries: list[Entry] | None = None

    @property
    def entries(self) -> list[Entry]:
        if self._entries is None:
            found = [
                Entry(ref, manifest, project)
                for project in self.store.projects()
                for ref, manifest in self.store.catalog(project, self.broken)
            ]
            self._entries = sorted(found, key=lambda entry: entry.manifest.provenance.created)
        return self._entries


def resolve(reference: str, store: Store, tracker: Any = None, catalog: Catalog | None = None) -> ArtifactRef:
    """The artifact a person means; see the module text for what they may say.

    Args:
        tracker: a components.lineage Tracker, or a function that opens one when it is needed; None without MLflow.
    Raises:
        BadInput: naming what is there when nothing or more than one thing matches.
        IntegrityError: MLflow's record of the artifact and the store's differ; both values are shown.
    """
    catalog = catalog or Catalog(store)
    if reference.startswith("models:/") or re.fullmatch(r"[0-9a-f]{32}", reference):
        return _tracked(reference, store, tracker)
    if "://" in reference:
        return store.ref(re.sub(r"(/attempts/[^/]+)/.*", r"\1", reference))
    path = Path(reference).expanduser()
    if path.is_file():
        return _holder(file_sha256(path), catalog, reference)
    if re.fullmatch(rf"[0-9a-f]{{{SHORTEST_PREFIX},64}}", reference):
        return _by_digest(reference, catalog)
    return _named(reference, store, tracker, catalog)


def score_of(reference: str, ref: ArtifactRef) -> str:
    """The score that `stage/score` or `stage@fingerprint/score` names; empty without one. Raises BadInput."""
    score = "" if "://" in reference or reference.startswith("models:/") else reference.partition("/")[2]
    if score and score not in ref.summary:
        raise BadInput(f"{ref.stage} has no score {score}", where=ref.uri, remedy=f"Known: {', '.join(ref.summary)}")
    return score


def _named(reference: str, store: Store, tracker: Any, catalog: Catalog) -> ArtifactRef:
    stage, _, rest = reference.partition("/")[0].partition("@")
    of_stage = [entry for entry in catalog.entries if stage in (entry.ref.stage, entry.ref.uri.split("/")[-4])]
    if "/" in reference:
        of_stage = [entry for entry in of_stage if entry.ref.stage == stage] or of_stage
    if of_stage:
        found = [entry for entry in of_stage if entry.ref.fingerprint.startswith(rest)] if rest else of_stage[-1:]
        if len(found) == 1 and not reference.endswith("@"):
            score_of(reference, found[0].ref)
            return found[0].ref
        raise _none(reference, found or of_stage, store, len(found) if rest else 0)
    name, mark, version = reference.partition(":")
    if tracker is not None and "/" not in reference:
        opened = tracker() if callable(tracker) else tracker
        if mark or "@" in reference:
            return _tracked(f"models:/{name}/{version}" if mark else f"models:/{reference}", store, opened)
        latest = opened.newest_version(reference, PREFERRED_ALIASES)
        if latest:
            return _tracked(f"models:/{reference}/{latest}", store, opened)
    raise _none(reference, catalog.entries, store, 0)


def _tracked(reference: str, store: Store, tracker: Any) -> ArtifactRef:
    if tracker is None:
        raise BadInput("this reference needs MLflow", where=reference, remedy="Set MLFLOW_TRACKING_URI")
    opened = tracker() if callable(tracker) else tracker
    uri, digest = opened.artifact(reference)
    ref = store.ref(uri)
    if digest and digest != ref.manifest_sha256:
        raise IntegrityError(
            f"{reference}: MLflow recorded manifest sha256 {digest}, {ref.uri} has {ref.manifest_sha256}"
        )
    return ref


def _by_digest(prefix: str, catalog: Catalog) -> ArtifactRef:
    found = [e for e in catalog.entries if prefix in (e.ref.manifest_sha256, e.ref.fingerprint[: len(prefix)])]
    if not found and len(prefix) == 64:
        return _holder(prefix, catalog, prefix)
    if len(found) != 1:
        raise _none(prefix, found or catalog.entries, catalog.store, len(found))
    return found[0].ref


def _holder(sha256: str, catalog: Catalog, reference: str) -> ArtifactRef:
    """The artifact that holds a file of these bytes: the release first, else the one that had it first."""
    holders = [entry for entry in catalog.entries if any(file.sha256 == sha256 for file in entry.manifest.files)]
    released = [entry for entry in holders if entry.ref.kind == "release"]
    if not holders:
        raise BadInput(
            f"no artifact holds a file of sha256 {sha256}",
            where=reference,
            remedy="The file was changed, or comes from another store",
        )
    return (released or holders)[0].ref


def _none(reference: str, near: Iterable[Entry], store: Store, matches: int) -> BadInput:
    known = ", ".join(sorted({entry.label for entry in near})[:12])
    return BadInput(
        f"{'several artifacts match' if matches > 1 else 'nothing is called'} {reference}",
        where=store.url,
        remedy=f"Known: {known}" if known else "The store has no artifacts yet",
    )
