"""`ringflow verify`: does what is stored still equal what was recorded? Re-hashes all and names each bad file."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from components.artifacts.fingerprint import fingerprint_of
from components.artifacts.manifest import Manifest, compare
from components.failures import BadInput, IntegrityError

HASHERS = 4


@dataclass
class Report:
    """What was found at `uri`. `ok` only if no problem; each problem is one line that names its file.

    signed_by: the trusted key that signed the manifest; empty when no signature is asked for.
    """

    uri: str
    files: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)
    signed_by: str = ""

    @property
    def ok(self) -> bool:
        return not self.problems


def verify_artifact(store, uri: str) -> Report:
    """Checks marker -> manifest -> identity -> every file of a store's artifact.

    Args:
        uri: a fingerprint directory or an attempt of it. Raises BadInput when there is neither.
    """
    parts = store.key(uri).split("/")
    if len(parts) not in (3, 5) or (len(parts) == 5 and parts[3] != "attempts"):
        raise BadInput("not the URI of an artifact", where=uri, remedy="<store>/<project>/<stage>/<fingerprint>")
    root = "/".join(parts[:3])
    try:
        commit = store.commit(root)
    except IntegrityError as error:
        return Report(uri, problems=[str(error)])
    if commit is None and len(parts) == 3:
        raise BadInput("no committed artifact here", where=uri, remedy="Check the project, stage and fingerprint")
    attempt = parts[4] if len(parts) == 5 else commit.attempt
    prefix = f"{root}/attempts/{attempt}"
    report = Report(f"{store.url}/{prefix}")
    stored = store.objects.read(f"{prefix}/manifest.json")
    if stored is None:
        if not store.objects.files(prefix):
            raise BadInput("no such attempt", where=uri)
        report.problems.append("missing: manifest.json (the attempt never finished, or was damaged)")
        return report
    expected = commit.manifest_sha256 if commit and commit.attempt == attempt else None
    try:
        manifest = Manifest.from_bytes(stored.data, "manifest.json", expected)
    except IntegrityError as error:
        report.problems.append(str(error))
        return report
    try:
        report.signed_by = store.signed_by(f"{prefix}/manifest.json", stored.data) or ""
    except IntegrityError as error:
        report.problems.append(str(error))
    if fingerprint_of(manifest.identity) != parts[2]:
        actual = fingerprint_of(manifest.identity)
        report.problems.append(f"wrong identity: the manifest's fingerprint is {actual}, its place says {parts[2]}")
    for folder, entries in (("files", manifest.files), ("records", manifest.records)):
        names = sorted(store.objects.files(f"{prefix}/{folder}"))
        with ThreadPoolExecutor(HASHERS) as pool:
            hashed = list(pool.map(lambda key: _hash(store.objects, key), [f"{prefix}/{folder}/{n}" for n in names]))
        report.files += len(names)
        report.bytes += sum(size for size, _ in hashed)
        report.problems += compare(entries, dict(zip(names, hashed, strict=True)))
    return report


def _hash(objects, key: str) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    for block in objects.blocks(key):
        digest.update(block)
        size += len(block)
    return size, digest.hexdigest()
