"""StageContext on plain directories: the same stage code in a unit test, a benchmark or at a prompt, with no servers.

Below `root`: output/ (what the stage produces, sent or written), scratch/, resume/<step>/, attachments/, metrics.jsonl.
A new context on the same root finds the resume points and metrics of the previous one, as a rerun of a stage would.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from components.artifacts.context import Load, ResumePoint, unread
from components.artifacts.digest import digest_json, file_sha256, tree
from components.artifacts.folder import Folder
from components.artifacts.manifest import FileEntry
from components.artifacts.objects import DirectoryObjects
from components.artifacts.outbox import Outbox
from components.artifacts.ref import ArtifactRef
from components.artifacts.stored import Stored
from components.failures import BadInput, IntegrityError
from components.recipe.execution import ExecutionConfig

KEEP_RESUME_POINTS = 2


class LocalResume:
    """Resume points as directories: written beside, then renamed into place, so a point is complete or absent."""

    def __init__(self, root: Path, outbox: Outbox) -> None:
        self.root, self._outbox = root, outbox

    def latest(self, load: Load = unread) -> ResumePoint | None:
        for step in sorted(self._steps(), reverse=True):
            directory = self.root / f"{step:08d}"
            try:
                point, sent = self._read(step, directory)
                self._outbox.restore(sent)
                load(point)
            except IntegrityError as error:
                print(f"warning: resume point {directory} skipped: {error}", file=sys.stderr)
            else:
                return point
        self._outbox.restore({})
        return None

    def place(self, step: int) -> Folder:
        partial = self._partial(step)
        shutil.rmtree(partial, ignore_errors=True)
        return Folder.local(partial / "files")

    def save(self, step: int, directory: Path, state: Mapping[str, Any], place: Folder | None = None) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        final, partial = self.root / f"{step:08d}", self._partial(step)
        place = place or self.place(step)
        shutil.copytree(directory, partial / "files", dirs_exist_ok=True)
        digests = {path: file_sha256(partial / "files" / path) for path in tree(directory)}
        parts = [entry.model_dump() for entry in place.files]
        sent = self._outbox.state()
        point = {"step": step, "state": dict(state), "files": digests, "parts": parts, "sent": sent}
        (partial / "point.json").write_text(json.dumps(point))
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        for old in sorted(self._steps())[:-KEEP_RESUME_POINTS]:
            shutil.rmtree(self.root / f"{old:08d}")

    def _partial(self, step: int) -> Path:
        return self.root / f".{step:08d}.partial"

    def _steps(self) -> list[int]:
        return [int(path.name) for path in self.root.glob("[0-9]*")] if self.root.is_dir() else []

    def _read(self, step: int, directory: Path) -> tuple[ResumePoint, dict[str, Any]]:
        try:
            return self._load(step, directory)
        except (OSError, ValueError) as error:
            raise IntegrityError(str(error)) from error

    def _load(self, step: int, directory: Path) -> tuple[ResumePoint, dict[str, Any]]:
        point = json.loads((directory / "point.json").read_text())
        for path, expected in point["files"].items():
            actual = file_sha256(directory / "files" / path)
            if actual != expected:
                raise IntegrityError(f"{path}: sha256 {actual}, recorded {expected}")
        entries = [FileEntry.model_validate(part) for part in point["parts"]]
        for entry in entries:
            size = (directory / "files" / entry.path).stat().st_size
            if size != entry.size:
                raise IntegrityError(f"{entry.path} has {size} bytes, recorded {entry.size}")
        for path, digest in point["files"].items():
            size = (directory / "files" / path).stat().st_size
            entries.append(FileEntry(path=path, size=size, sha256=digest))
        place = Folder.local(directory / "files", entries)
        return ResumePoint(step, directory / "files", point["state"], place), point["sent"]


class LocalContext:
    """A StageContext without store, tracker or lease.

    Args:
        root: directory of this stage; made when absent. Use one root per stage.
        node: name of the node, e.g. `rlvr-1`.
        seed: root seed of the stage.
        execution: execution settings; the defaults when absent.
        quiet: True keeps `progress` silent.
        previous: what `earlier` answers.
        outbox: one that does not send to `output`.
    """

    def __init__(
        self,
        root: Path,
        node: str,
        seed: int = 0,
        execution: ExecutionConfig | None = None,
        quiet: bool = False,
        previous: ArtifactRef | None = None,
        outbox: Outbox | None = None,
    ) -> None:
        self.root, self.node, self.seed, self.quiet = Path(root), node, seed, quiet
        self._previous = previous
        self.execution = execution or ExecutionConfig()
        self.output = self.root / "output"
        self.scratch = self.root / "scratch"
        self.output.mkdir(parents=True, exist_ok=True)
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.outbox = outbox or Outbox(DirectoryObjects(self.root), "", self.output.name)
        self.resume = LocalResume(self.root / "resume", self.outbox)
        self.history: list[tuple[int, dict[str, float]]] = self._read_history()
        self._logged = {(step, name) for step, values in self.history for name in values}

    def fetch(self, ref: ArtifactRef, subpath: str = "") -> Path:
        """The artifact's own directory (file:// URIs only), or one file or folder in it; nothing is copied."""
        parts = urlsplit(ref.uri)
        if parts.scheme not in ("file", ""):
            raise BadInput(
                f"a local context reads file:// artifacts, not {parts.scheme}://",
                where=ref.uri,
                remedy="Use the store (components.artifacts.store) for other schemes",
            )
        base = Path(unquote(parts.path))
        base = base / "files" if (base / "files").is_dir() and (base / "manifest.json").is_file() else base
        path = base / subpath if subpath else base
        if not path.exists():
            raise BadInput(f"no such file in the artifact: {subpath or '.'}", where=ref.uri)
        return path

    def locate(self, ref: ArtifactRef, subpath: str = "") -> Stored:
        return Stored.local(self.fetch(ref, subpath))

    def earlier(self) -> ArtifactRef | None:
        return self._previous

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Appends to `history` and metrics.jsonl; a (step, name) already logged is left as it was."""
        fresh = {name: float(value) for name, value in values.items() if (step, name) not in self._logged}
        if not fresh:
            return
        self._logged.update((step, name) for name in fresh)
        self.history.append((step, fresh))
        with (self.root / "metrics.jsonl").open("a") as stream:
            stream.write(json.dumps({"step": step, **fresh}) + "\n")

    def series(self, name: str) -> list[tuple[int, float]]:
        """[(step, value)] of one metric, in the order logged."""
        return [(step, values[name]) for step, values in self.history if name in values]

    def attach(self, path: Path, name: str) -> None:
        target = self.root / "attachments" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)

    def progress(self, done: int, total: int, text: str = "") -> None:
        if not self.quiet:
            print(f"[{self.node}] {done}/{total} {text}".rstrip(), file=sys.stderr, flush=True)

    def check(self) -> None:
        """Nothing can take this stage away: there is no lease."""

    def ref(self, kind: str, summary: Mapping[str, float | int | str] | None = None, contract=None) -> ArtifactRef:
        """A file:// reference to `output`, to hand to the next stage's context. Its digest covers every file."""
        files = {path: file_sha256(self.output / path) for path in tree(self.output)}

        digest = digest_json(files)
        return ArtifactRef(
            kind=kind,
            stage=self.node,
            fingerprint=digest,
            uri=self.output.resolve().as_uri(),
            manifest_sha256=digest,
            contract=contract,
            summary=dict(summary or {}),
        )

    def _read_history(self) -> list[tuple[int, dict[str, float]]]:
        path = self.root / "metrics.jsonl"
        if not path.is_file():
            return []
        rows = [json.loads(line) for line in path.read_text().splitlines() if line]
        return [(row.pop("step"), row) for row in rows]
