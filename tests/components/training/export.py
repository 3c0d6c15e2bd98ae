"""What a group of learners writes, for learners that no group drives."""

from __future__ import annotations

from pathlib import Path

import torch

from components.artifacts.folder import Folder
from components.model.hf_sent import WeightFile, send_description
from components.model.tokenizer import load_tokenizer
from components.training.learner import Learner


def write_hf(learner: Learner, directory: Path) -> None:
    """A Hugging Face directory that all ranks see; a collective of all of them."""
    place = Folder.local(directory)
    _describe(learner, place, learner.send_weights(place))


def write_reward(learner: Learner, directory: Path) -> None:
    files, _ = learner.send_reward(Folder.local(directory))
    _describe(learner, Folder.local(directory / "model"), files)


def _describe(learner: Learner, place: Folder, files: list[WeightFile]) -> None:
    everyone = [files]
    if learner.layout.world > 1:
        everyone = [[] for _ in range(learner.layout.world)]
        torch.distributed.all_gather_object(everyone, files)
    if learner.rank == 0:
        written = [file for each in everyone for file in each]
        send_description(place, learner.spec, written, load_tokenizer("nano"), "float32")
    if learner.layout.world > 1:
        torch.distributed.barrier()
