"""The content-addressed store: one directory per fingerprint, committed by one create-only marker.

Layout: `<root>/<project>/<stage>/<fingerprint>/{attempts/<id>/{files/, records/, sent/, manifest.json}, resume/,
_LEASE, _COMMITTED}`. Files first, some of them sent ahead (components.artifacts.outbox), then manifest.json, then
`_COMMITTED`, which names the winning attempt and its manifest's digest; nothing is ever overwritten. s3://bucket
through s3fs, file:///directory for tests and single machines.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from components.artifacts import signature
from components.artifacts.committed import MARKER, TRANSFERS, Commit, Committed
from components.artifacts.digest import bytes_sha256
from components.artifacts.fingerprint import fingerprint_of
from components.artifacts.folder import Sent
from components.artifacts.lease import Lease
from components.artifacts.manifest import FileEntry, Manifest, Provenance, entries_of
from components.artifacts.outbox import Outbox
from components.artifacts.ref import ArtifactKind, ArtifactRef, ModelContract
from components.artifacts.stored import chunk_record
from components.failures import BadInput, IntegrityError


class Store(Committed):
    """A storage that artifacts are read from and published to."""

    def outbox(self, lease: Lease) -> Outbox:
        """Of a new attempt: for files that are sent ahead of `publish`."""
        name = f"{lease.token:06d}-{uuid.uuid4().hex[:12]}"
        return Outbox(self.objects, f"{lease.project}/{lease.stage}/{lease.fingerprint}/attempts/{name}")

    def publish(
        self,
        lease: Lease,
        directory: Path,
        kind: ArtifactKind,
        identity: Mapping[str, Any],
        provenance: Provenance,
        contract: ModelContract | None = None,
        summary: Mapping[str, float | int | str] | None = None,
        node: str = "",
        records: Mapping[str, bytes] | None = None,
        outbox: Outbox | None = None,
    ) -> ArtifactRef:
        """Uploads `directory` as an attempt and commits it; another run's artifact if that was committed first.

        Args:
            lease: held for the fingerprint; its `stage` is the stage's folder in the store.
            directory: everything below it becomes the artifact.
            identity: what the fingerprint is the digest of.
            node: the DAG node people know it by (`rlvr-1`); the lease's stage when empty. Not part of the identity.
            records: small files about the making, by name; kept beside the artifact's files.
            outbox: of `outbox`, whose files become part of the artifact too.

        Raises LeaseLost when the lease is gone just before the commit; IntegrityError when the identity is not the
        fingerprint's or the directory changed during the upload; BadInput when there is no file, or one twice.
        """
        if fingerprint_of(identity) != lease.fingerprint:
            raise IntegrityError(
                f"{lease.stage}: the identity has fingerprint {fingerprint_of(identity)}, the lease {lease.fingerprint}"
            )
        outbox = outbox or self.outbox(lease)
        attempt = outbox.attempt
        sent, entries = outbox.settle(), entries_of(directory)
        files = _together(entries, sent, f"{lease.stage}: {directory}")
        records = {**(records or {}), **chunk_record(directory, entries, sent)}
        manifest = Manifest(
            kind=kind,
            stage=node or lease.stage,
            fingerprint=lease.fingerprint,
            identity=dict(identity),
            files=files,
            contract=contract,
            summary=dict(summary or {}),
            provenance=provenance,
            records=tuple(
                FileEntry(path=name, size=len(data), sha256=bytes_sha256(data))
                for name, data in sorted(records.items())
            ),
        )
        self.upload(directory, entries, f"{attempt}/files", lease, tuple(each.file for each in sent))
        data = manifest.to_bytes()
        signed = signature.sign(data)
        for name, content in records.items():
            self._create(f"{attempt}/records/{name}", content)
        self._create(f"{attempt}/manifest.json", data)
        if signed is not None:
            self._create(f"{attempt}/{signature.NAME}", signed)
        root, _, name = attempt.rsplit("/", 2)
        commit = Commit(
            attempt=name,
            manifest_sha256=bytes_sha256(data),
            token=lease.token,
            nonce=lease.nonce,
            committed=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        lease.verify()
        if self.objects.create(f"{root}/{MARKER}", commit.model_dump_json().encode()):
            return self._ref(root, commit, manifest)
        winner = self.commit(root)
        if winner is None:
            raise IntegrityError(f"{self.url}/{root}/{MARKER} refused our commit and is not there")
        return self._ref(root, winner)

    def upload(
        self,
        directory: Path,
        entries: tuple[FileEntry, ...],
        prefix: str,
        lease: Lease,
        sent: tuple[FileEntry, ...] = (),
    ) -> None:
        """Uploads files in parallel and compares the sizes that arrived; stops between files when the lease is lost.

        sent: what others have sent there already."""

        def put(entry: FileEntry) -> None:
            lease.check()
            self.objects.put(directory / entry.path, f"{prefix}/{entry.path}", entry.sha256)

        with ThreadPoolExecutor(TRANSFERS) as pool:
            list(pool.map(put, entries))
        arrived, expected = self.objects.files(prefix), {entry.path: entry.size for entry in (*entries, *sent)}
        if arrived != expected:
            wrong = sorted(path for path in arrived.keys() | expected.keys() if arrived.get(path) != expected.get(path))
            raise IntegrityError(f"{self.url}/{prefix}: changed during the upload: {', '.join(wrong[:5])}")

    def _create(self, key: str, data: bytes) -> None:
        if not self.objects.create(key, data):
            raise IntegrityError(f"{self.url}/{key} exists already with other content")


def _together(entries: tuple[FileEntry, ...], sent: tuple[Sent, ...], where: str) -> tuple[FileEntry, ...]:
    """All files of an artifact, sorted by path."""
    files = sorted((*entries, *(each.file for each in sent)), key=lambda entry: entry.path)
    if not files:
        raise BadInput("the stage produced no files", where=where)
    for one, other in pairwise(files):
        if one.path == other.path:
            raise BadInput(f"{one.path} was both sent and written to the output directory", where=where)
    return tuple(files)
