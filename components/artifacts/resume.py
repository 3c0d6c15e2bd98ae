"""Resume points of one fingerprint in the store, shared by all attempts: what lets a rerun go on after kill -9.

`resume/<token>-<number>-<step>/{files/..., point.json, _COMPLETE}`: files, then point.json (step, small state, every
file's size and sha256), then the marker with point.json's digest. A point without its marker is invisible. What ranks
hold they send themselves, from their hosts, before the driver's files; they also read it themselves, so damage in it is
found by them (`latest`'s `load`).

Points are ordered by the lease's fencing token and then by a counter, not by step: what a stale holder wrote late never
outranks its successor's work, and after a rollback the newer, smaller step counts.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from components.artifacts.context import Load, ResumePoint, unread
from components.artifacts.digest import bytes_sha256, file_sha256
from components.artifacts.folder import Folder
from components.artifacts.lease import Lease
from components.artifacts.manifest import FileEntry, entries_of
from components.artifacts.store import Store
from components.failures import BadInput, IntegrityError

log = logging.getLogger(__name__)

KEEP_POINTS = 2
COMPLETE = "_COMPLETE"


class PointRecord(BaseModel):
    """The content of point.json. parts: files that ranks sent themselves."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int
    state: dict[str, Any]
    files: tuple[FileEntry, ...]
    parts: tuple[FileEntry, ...] = ()


class StoreResume:
    """The ResumeArea of one held lease.

    Args:
        scratch: local directory for loaded points; the stage may change files there.
    """

    def __init__(self, store: Store, lease: Lease, scratch: Path) -> None:
        self._store, self._lease, self._scratch = store, lease, Path(scratch)
        self._root = resume_key(lease.project, lease.stage, lease.fingerprint)
        self._number = 0

    def latest(self, load: Load = unread) -> ResumePoint | None:
        """The newest complete point as a local copy; one that is damaged is skipped with a warning.

        load: as components.artifacts.context.ResumeArea."""
        for name in reversed(_points(self._store, self._root)):
            try:
                point = self._load(name)
                if point is not None:
                    load(point)
            except IntegrityError as error:
                log.warning("%s: resume point %s skipped: %s", self._lease.stage, name, error)
                continue
            if point is not None:
                return point
        return None

    def place(self, step: int) -> Folder:
        """Where ranks send files of the point that is saved next."""
        self._number += 1
        name = f"{self._lease.token:06d}-{self._number:06d}-{step:08d}"
        return Folder.of(self._store.objects, f"{self._root}/{name}/files")

    def save(self, step: int, directory: Path, state: Mapping[str, Any], place: Folder | None = None) -> None:
        """Uploads a point; complete or invisible. Raises LeaseLost when the lease is gone before its marker.

        place: of `place`, holding what ranks have sent there.

        Raises BadInput for a state that is not plain JSON.
        """
        try:
            json.dumps(dict(state), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise BadInput(
                f"a resume point's state must be plain JSON: {error}", where=f"{self._lease.stage}"
            ) from error
        entries = entries_of(directory)
        place = place or self.place(step)
        point = place.key.removesuffix("/files")
        if entries or place.files:
            self._store.upload(directory, entries, place.key, self._lease, sent=place.files)
        record = PointRecord(step=step, state=dict(state), files=entries, parts=place.files).model_dump_json().encode()
        self._store.objects.create(f"{point}/point.json", record)
        self._lease.verify()
        marker = {"point_sha256": bytes_sha256(record), "nonce": self._lease.nonce}
        if not self._store.objects.create(f"{point}/{COMPLETE}", json.dumps(marker).encode()):
            raise IntegrityError(f"{self._store.url}/{point} exists already, from another writer")
        self._prune(point.rpartition("/")[2])

    def clear(self) -> None:
        """Deletes every point: after the commit nobody needs them."""
        self._store.objects.remove(self._root)

    def _prune(self, newest: str) -> None:
        # Complete points only: an unfinished one newer than these may be an upload still in flight.
        complete = [name for name in _points(self._store, self._root) if name <= newest]
        for name in complete[:-KEEP_POINTS]:
            # The marker goes first, so that a crash in between leaves an invisible point and not a damaged one.
            self._store.objects.remove(f"{self._root}/{name}/{COMPLETE}")
            self._store.objects.remove(f"{self._root}/{name}")

    def _load(self, name: str) -> ResumePoint | None:
        point = f"{self._root}/{name}"
        record = read_point(self._store, point)
        if record is None:
            return None
        place = Folder.of(self._store.objects, f"{point}/files", (*record.files, *record.parts))
        if record.parts:
            there = self._store.objects.files(place.key)
            for part in record.parts:
                if there.get(part.path) != part.size:
                    raise IntegrityError(f"{part.path} has {there.get(part.path, 'no')} bytes, recorded {part.size}")
        base = self._scratch / "resume" / name
        shutil.rmtree(base, ignore_errors=True)
        base.mkdir(parents=True)
        for entry in record.files:
            target = base / entry.path
            target.parent.mkdir(parents=True, exist_ok=True)
            if not self._store.objects.get(f"{place.key}/{entry.path}", target):
                raise IntegrityError(f"{entry.path} is missing")
            actual = file_sha256(target)
            if actual != entry.sha256:
                raise IntegrityError(f"{entry.path} has sha256 {actual}, recorded {entry.sha256}")
        return ResumePoint(record.step, base, record.state, place)


def resume_key(project: str, stage: str, fingerprint: str) -> str:
    return f"{project}/{stage}/{fingerprint}/resume"


def resume_step(store: Store, project: str, stage: str, fingerprint: str) -> int | None:
    """The step a rerun would go on from, None without a complete point: RESUME in `plan`. Compares the sizes of the
    checkpoint's files and reads none of them, so that a flipped bit is found only by the run."""
    root = resume_key(project, stage, fingerprint)
    there = store.objects.files(root)
    for name in reversed(_complete(there)):
        try:
            record = read_point(store, f"{root}/{name}")
        except IntegrityError:
            continue  # `latest` warns about it when the stage runs
        if record is None:
            continue
        if all(there.get(f"{name}/files/{e.path}") == e.size for e in (*record.files, *record.parts)):
            return record.step
    return None


def read_point(store: Store, place: str) -> PointRecord | None:
    """A complete point's record; None while unfinished; IntegrityError when it does not match its marker."""
    marker = store.objects.read(f"{place}/{COMPLETE}")
    if marker is None:
        return None
    stored = store.objects.read(f"{place}/point.json")
    if stored is None:
        raise IntegrityError("point.json is missing")
    try:
        expected = json.loads(marker.data)["point_sha256"]
        actual = bytes_sha256(stored.data)
        if actual != expected:
            raise IntegrityError(f"point.json has sha256 {actual}, recorded {expected}")
        return PointRecord.model_validate_json(stored.data)
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise IntegrityError(f"unreadable marker or point.json: {error}") from error


def _points(store: Store, root: str) -> list[str]:
    """Names of points that have their marker, oldest first."""
    return _complete(store.objects.files(root))


def _complete(files: Mapping[str, int]) -> list[str]:
    return sorted(key.split("/")[0] for key in files if key.endswith(f"/{COMPLETE}"))
