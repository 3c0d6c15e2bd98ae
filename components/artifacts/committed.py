"""Reading a store: what was committed, found by fingerprint, by project or by URI, and verified on every load.

Readers trust only the marker of a fingerprint, which names the winning attempt and its manifest's digest. Sizes and
digests are compared on every load, so a damaged artifact is refused, never used.
"""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from components.artifacts import signature
from components.artifacts.cache import Cache
from components.artifacts.digest import bytes_sha256
from components.artifacts.fingerprint import fingerprint_of
from components.artifacts.folder import Folder
from components.artifacts.manifest import Manifest
from components.artifacts.objects import PRIVATE, open_objects
from components.artifacts.ref import ArtifactRef
from components.artifacts.stored import Stored
from components.artifacts.verify import Report, verify_artifact
from components.failures import BadInput, IntegrityError

MARKER = "_COMMITTED"
FINGERPRINT = re.compile(r"[0-9a-f]{64}")
TRANSFERS = 8
MANIFESTS_KEPT = 256


class Commit(BaseModel):
    """The content of `_COMMITTED`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    attempt: str
    manifest_sha256: str
    token: int
    nonce: str
    committed: str


class Committed:
    """Committed artifacts of one storage. Thread-safe; opens again by itself in a spawned process."""

    def __init__(self, url: str, cache: Path) -> None:
        self.objects = open_objects(url)
        self.url = self.objects.url
        self._cache = Cache(cache, self.objects)
        # By digest, so what is remembered cannot go stale; a stage that is reused reads its manifest once, not thrice.
        self._manifests: dict[str, Manifest] = {}

    @classmethod
    def open(cls, url: str | None = None, cache: Path | None = None) -> Self:
        """Opens without touching the network; call `check` to prove that it is there.

        Args:
            url: s3://bucket[/prefix] or file:///directory; RINGFLOW_STORE when absent.
            cache: local copies of fetched files; `cache/` of RINGFLOW_HOME when absent.
        """
        url = url or os.environ.get("RINGFLOW_STORE")
        if not url:
            raise BadInput(
                "no store is configured",
                where="RINGFLOW_STORE",
                remedy="Start the local stack with `ringflow up`, or set RINGFLOW_STORE to s3://bucket",
            )
        signature.require_keys()
        return cls(url, cache or Path(os.environ.get("RINGFLOW_HOME", ".ringflow")) / "cache")

    def __reduce__(self):
        return type(self), (self.url, self._cache.root)

    def check(self, deadline_s: float = 5.0, create: bool = False) -> None:
        """Writes, reads and deletes a probe. BadInput: credentials, bucket; InfrastructureError: unreachable.

        Args:
            create: make the bucket or directory when it is missing (the local profile).
        """
        self.objects.check(deadline_s, create)

    def committed(self, project: str, stage: str, fingerprint: str) -> ArtifactRef | None:
        """The artifact of this fingerprint, None while nobody has committed one."""
        root = f"{project}/{stage}/{fingerprint}"
        marker = self.commit(root)
        return None if marker is None else self._ref(root, marker)

    def fetch(self, ref: ArtifactRef, subpath: str = "", destination: Path | None = None) -> Path:
        """A verified local copy of the artifact, or of one file or folder in it.

        Files come into a cache by digest, so nothing is downloaded twice; the cache's files are read-only.

        Args:
            subpath: file or folder inside the artifact; everything when empty.
            destination: directory that gets writable copies; without it the result is a read-only view in the cache.
        Returns: the path of `subpath` below destination (or the view).
        Raises IntegrityError naming the file and both digests; BadInput when there is no such subpath.
        """
        manifest = self.read_manifest(ref)
        entries = manifest.below(subpath)
        prefix = f"{self.key(ref.uri)}/files"
        if destination is None:
            base = self._cache.view(ref.manifest_sha256)
            self._cache.link(prefix, entries, base)
        else:
            base = Path(destination)
            self._cache.copy(prefix, entries, base)
        return base / subpath.strip("/") if subpath.strip("/") else base

    def locate(self, ref: ArtifactRef, subpath: str = "") -> Stored:
        """The artifact, or a folder in it, where it lies: for processes that read what they need of it themselves."""
        manifest, key = self.read_manifest(ref), self.key(ref.uri)
        manifest.below(subpath)
        files = [entry.model_copy(update={"path": f"files/{entry.path}"}) for entry in manifest.files]
        files += [entry.model_copy(update={"path": f"records/{entry.path}"}) for entry in manifest.records]
        return Stored(Folder.of(self.objects, key, files), f"files/{subpath}".rstrip("/"))

    def read_manifest(self, ref: ArtifactRef) -> Manifest:
        """The artifact's manifest, its digest compared with the reference's."""
        if known := self._manifests.get(ref.manifest_sha256):
            return known
        key = f"{self.key(ref.uri)}/manifest.json"
        stored = self.objects.read(key)
        if stored is None:
            raise IntegrityError(f"{self.url}/{key} is missing: the artifact is incomplete or was deleted")
        manifest = Manifest.from_bytes(stored.data, f"{self.url}/{key}", ref.manifest_sha256)
        self.signed_by(key, stored.data)
        return self._remember(manifest, ref)

    def signed_by(self, key: str, manifest: bytes) -> str | None:
        """Which trusted key signed the manifest at `key`; as components.artifacts.signature.check."""
        if not os.environ.get(signature.TRUSTED):
            return None
        stored = self.objects.read(f"{key.rpartition('/')[0]}/{signature.NAME}")
        return signature.check(manifest, stored and stored.data, f"{self.url}/{key}")

    def record(self, ref: ArtifactRef, name: str) -> bytes | None:
        """A verified record of an artifact (`config.json`, `git.diff`); None when its manifest lists none."""
        entry = next((entry for entry in self.read_manifest(ref).records if entry.path == name), None)
        if entry is None:
            return None
        where = f"{self.key(ref.uri)}/records/{name}"
        stored = self.objects.read(where)
        if stored is None:
            raise IntegrityError(f"{self.url}/{where} is missing, though the manifest lists it ({entry.size} bytes)")
        if bytes_sha256(stored.data) != entry.sha256:
            raise IntegrityError(f"{self.url}/{where} has sha256 {bytes_sha256(stored.data)}, recorded {entry.sha256}")
        return stored.data

    def ref(self, uri: str) -> ArtifactRef:
        """The committed artifact at the URI of a fingerprint directory or of its winning attempt. Raises BadInput."""
        parts = self.key(uri).split("/")
        if len(parts) not in (3, 5) or (len(parts) == 5 and parts[3] != "attempts"):
            raise BadInput("not the URI of an artifact", where=uri, remedy="<store>/<project>/<stage>/<fingerprint>")
        found = self.committed(*parts[:3])
        if found is None:
            raise BadInput("no committed artifact here", where=uri, remedy="`ringflow runs` lists what finished")
        if len(parts) == 5 and found.uri != f"{self.url}/{'/'.join(parts)}":
            raise BadInput("this attempt was not the one committed", where=uri, remedy=f"The artifact is {found.uri}")
        return found

    def projects(self) -> list[str]:
        """Names of the projects that hold artifacts or attempts."""
        return [name for name in self.objects.folders("") if not name.startswith(PRIVATE)]

    def list(self, project: str) -> list[ArtifactRef]:
        """Every committed artifact of a project, by stage, oldest commit first."""
        return [ref for ref, _ in self.catalog(project)]

    def catalog(self, project: str, broken: list[str] | None = None) -> list[tuple[ArtifactRef, Manifest]]:
        """The same, each with its manifest.

        broken: gets one line for each artifact that cannot be read; without it the first one raises IntegrityError.
        """
        places = [
            f"{project}/{stage}/{fingerprint}"
            for stage in self.objects.folders(project)
            for fingerprint in self.objects.folders(f"{project}/{stage}")
            if FINGERPRINT.fullmatch(fingerprint)
        ]
        with ThreadPoolExecutor(TRANSFERS) as pool:
            read = _each(pool, self.commit, [(place,) for place in places], broken)
            found = [(place, commit) for place, commit in zip(places, read, strict=True) if commit]
            found.sort(key=lambda pair: (pair[0].split("/")[1], pair[1].committed, pair[0]))
            return [pair for pair in _each(pool, self._load, found, broken) if pair]

    def identities(self, project: str, stage: str) -> list[tuple[str, dict[str, Any]]]:
        """[(fingerprint, identity)] of a stage's committed artifacts, newest first: what `plan` explains a MISS by."""
        places = [f"{project}/{stage}/{name}" for name in self.objects.folders(f"{project}/{stage}")]
        with ThreadPoolExecutor(TRANSFERS) as pool:
            commits = [(p, c) for p, c in zip(places, pool.map(self.commit, places), strict=True) if c]
            commits.sort(key=lambda pair: pair[1].committed, reverse=True)
            manifests = list(pool.map(lambda pair: self.read_manifest(self._ref(*pair)), commits))
        return [(manifest.fingerprint, manifest.identity) for manifest in manifests]

    def newest(self, project: str, stage: str, recipe: str, looks: int = 20) -> ArtifactRef | None:
        """The newest artifact of a stage that a recipe of this name made, among the `looks` newest of the stage."""
        places = [f"{project}/{stage}/{name}" for name in self.objects.folders(f"{project}/{stage}")]
        with ThreadPoolExecutor(TRANSFERS) as pool:
            commits = [(p, c) for p, c in zip(places, pool.map(self.commit, places), strict=True) if c]
        commits.sort(key=lambda pair: pair[1].committed, reverse=True)
        for place, commit in commits[:looks]:
            ref, manifest = self._load(place, commit)
            if manifest.provenance.recipe == recipe:
                return ref
        return None

    def verify(self, uri: str) -> Report:
        """Re-hashes everything at an artifact's URI against its manifest; the report names each bad file."""
        return verify_artifact(self, uri)

    def key(self, uri: str) -> str:
        """The key below the store's root of one of its URIs. Raises BadInput for a URI of another store."""
        if not uri.startswith(f"{self.url}/"):
            raise BadInput(f"not in this store ({self.url})", where=uri, remedy="Set RINGFLOW_STORE to the URI's store")
        return uri[len(self.url) + 1 :].rstrip("/")

    def commit(self, root: str) -> Commit | None:
        """The marker of `<project>/<stage>/<fingerprint>`, None when absent."""
        stored = self.objects.read(f"{root}/{MARKER}")
        if stored is None:
            return None
        try:
            return Commit.model_validate_json(stored.data)
        except ValidationError as error:
            raise IntegrityError(f"{self.url}/{root}/{MARKER}: not a commit marker: {error}") from error

    def check_sizes(self, ref: ArtifactRef) -> None:
        """One listing: every file there, with its recorded size. What reuse asks; `fetch` compares digests too.

        Raises IntegrityError naming each bad file with both sizes.
        """
        manifest = self.read_manifest(ref)
        place = f"{self.key(ref.uri)}/files"
        there = self.objects.files(place)
        bad = [
            f"{entry.path} has {there.get(entry.path, 'no')} bytes, recorded {entry.size}"
            for entry in manifest.files
            if there.get(entry.path) != entry.size
        ]
        bad += [f"{path} is not in the manifest" for path in sorted(there.keys() - {e.path for e in manifest.files})]
        if bad:
            raise IntegrityError(
                f"{self.url}/{place} is not what was committed: {'; '.join(bad[:5])}. "
                f"See `ringflow verify {ref.uri}`; restore the files, or remove the artifact to compute it again"
            )

    def _ref(self, root: str, commit: Commit, manifest: Manifest | None = None) -> ArtifactRef:
        return self._load(root, commit, manifest)[0]

    def _remember(self, manifest: Manifest, ref: ArtifactRef) -> Manifest:
        if len(self._manifests) >= MANIFESTS_KEPT:
            self._manifests.clear()
        self._manifests[ref.manifest_sha256] = manifest
        return manifest

    def _load(self, root: str, commit: Commit, manifest: Manifest | None = None) -> tuple[ArtifactRef, Manifest]:
        """Reads what a marker names. Refuses a manifest of another digest, place or identity, with both values."""
        prefix = f"{root}/attempts/{commit.attempt}"
        if manifest is None:
            stored = self.objects.read(f"{prefix}/manifest.json")
            if stored is None:
                raise IntegrityError(f"{self.url}/{prefix}/manifest.json is missing, though {MARKER} names it")
            manifest = Manifest.from_bytes(stored.data, f"{self.url}/{prefix}/manifest.json", commit.manifest_sha256)
            place = root.rsplit("/", 1)[1]
            for what, value in (("fingerprint", manifest.fingerprint), ("identity", fingerprint_of(manifest.identity))):
                if value != place:
                    raise IntegrityError(
                        f"{self.url}/{prefix}/manifest.json: its {what} gives fingerprint {value}, its place is {place}"
                    )
            self.signed_by(f"{prefix}/manifest.json", stored.data)
        ref = ArtifactRef(
            kind=manifest.kind,
            stage=manifest.stage,
            fingerprint=manifest.fingerprint,
            uri=f"{self.url}/{prefix}",
            manifest_sha256=commit.manifest_sha256,
            contract=manifest.contract,
            summary=manifest.summary,
        )
        return ref, self._remember(manifest, ref)


def _each(pool: ThreadPoolExecutor, function, calls, broken: list[str] | None) -> list[Any]:
    """Results in order; None for a call that found damage, which goes to `broken`."""

    def one(arguments: tuple) -> Any:
        try:
            return function(*arguments)
        except IntegrityError as error:
            if broken is None:
                raise
            broken.append(str(error))
            return None

    return list(pool.map(one, calls))
