"""Resume points in a directory that all ranks of a test see, saved and loaded without a driver."""

from __future__ import annotations

from pathlib import Path

import torch

from components.artifacts.digest import file_sha256
from components.artifacts.folder import Folder
from components.artifacts.manifest import FileEntry
from components.training.blocks import INDEX, write_index
from components.training.checkpoint import Fetched
from components.training.learner import Learner


def save_point(learner: Learner, directory: Path) -> None:
    """A collective of all ranks; the point is whole when it returns."""
    written = [learner.save_resume(Folder.local(directory))]
    world = learner.layout.world
    if world > 1:
        one, written = written[0], [None] * world
        torch.distributed.all_gather_object(written, one)
    if learner.rank == 0:
        write_index(directory, written)
    if world > 1:
        torch.distributed.barrier()


def load_point(learner: Learner, directory: Path) -> Fetched:
    index = directory / INDEX
    entry = FileEntry(path=INDEX, size=index.stat().st_size, sha256=file_sha256(index))
    return learner.load_resume(Folder.local(directory, [entry]))
