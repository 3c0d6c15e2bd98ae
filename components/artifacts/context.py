"""What a stage's code may touch of the world around it: outputs, resume points, metrics, progress, its lease.

Component functions take these protocols, so the same training loop runs under Prefect, in a unit test and in a
benchmark. tasks.runner has the real implementation; components.artifacts.local has one on plain directories.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from components.artifacts.folder import Folder
from components.artifacts.outbox import Outbox
from components.artifacts.ref import ArtifactRef, ModelContract
from components.artifacts.stored import Stored
from components.recipe.execution import ExecutionConfig


@dataclass(frozen=True)
class ResumePoint:
    """A complete state inside a stage.

    path: a local, verified copy of the driver's files. state: its small JSON part. place: where its files lie, also
    those that ranks sent themselves, which are in no copy: whoever reads them compares them.
    """

    step: int
    path: Path
    state: dict[str, Any]
    place: Folder


Load = Callable[[ResumePoint], None]


def unread(point: ResumePoint) -> None:
    """For points of which no rank sent anything."""


class ResumeArea(Protocol):
    """Periodic checkpoints of one stage fingerprint, shared by all its attempts."""

    def latest(self, load: Load = unread) -> ResumePoint | None:
        """The newest complete point, verified by sha256; a damaged or unfinished one is skipped with a warning.

        load: takes what ranks sent over; a point of which it raises IntegrityError is skipped as well. Until then it
        must leave everything as it was."""

    def place(self, step: int) -> Folder:
        """Where ranks may send files of the point of `step` that is saved next."""

    def save(self, step: int, directory: Path, state: Mapping[str, Any], place: Folder | None = None) -> None:
        """Stores everything below `directory` plus `state`; complete or invisible. Older points are pruned.

        place: of `place`, holding what ranks have sent there."""


class StageContext(Protocol):
    """Handed to `run(context, inputs, config)` of every stage.

    The artifact is what lies below `output` and what was sent by `outbox`. Of `output` every attempt begins anew; what
    was sent up to a resume point is there again after it.
    """

    node: str
    seed: int
    execution: ExecutionConfig
    output: Path
    outbox: Outbox
    scratch: Path
    resume: ResumeArea

    def fetch(self, ref: ArtifactRef, subpath: str = "") -> Path:
        """A local copy of the artifact, or of one file or folder in it, sizes and sha256 verified."""

    def locate(self, ref: ArtifactRef, subpath: str = "") -> Stored:
        """The same where it lies, for ranks on other hosts that read for themselves what they need of it."""

    def earlier(self) -> ArtifactRef | None:
        """The previous version of what this stage makes, by the same recipe; for comparison, never for the result."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Logs scalars to the tracker. Logging the same step again after a resume replaces nothing and adds nothing."""

    def attach(self, path: Path, name: str) -> None:
        """Puts a file (plot, report) beside the run in the tracker."""

    def progress(self, done: int, total: int, text: str = "") -> None:
        """Moves the stage's progress line in the terminal and in Prefect."""

    def check(self) -> None:
        """Raises LeaseLost or Cancelled when the stage must stop; call it at every step."""


@dataclass(frozen=True)
class StageResult:
    """What a stage's function returns; its files are below `context.output` and in `context.outbox`."""

    summary: Mapping[str, float | int | str]
    contract: ModelContract | None = None


StageFunction = Callable[[StageContext, Mapping[str, ArtifactRef], Any], StageResult]
