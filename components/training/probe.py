"""The probe: a few documents and what the model said of them when a resume point was saved.

Peers resume silently wrong: initial weights in place of the saved ones, a shard of another step, a reward head drawn
anew. Digests of the files cannot show that, because the bytes are right and what became of them is not. So a point
keeps token ids with their log-probs (a reward model: its scores), and before the first update after a resume the
restored model answers again. A difference stops the run: whatever trained on would not be the run that was stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from collections.abc import Sequence as Many
from pathlib import Path
from typing import Any

import numpy as np

from components.failures import IntegrityError
from components.training.types import Sequence

log = logging.getLogger(__name__)

FILE = "probe.npz"
DOCUMENTS = 4
# The same layout answers bit for bit. Another number of learners packs other rows together, which float32 rounds by
# 2e-6; GPU kernels in bfloat16 differ by 2e-3 on average from run to run. One lost update of this project's recipes
# moves the largest difference by more than 1e-3 in float32.
TOLERANCE = {"cpu": 1e-4, "cuda": 5e-2}

# [documents] of token ids -> flat numbers
Answer = Callable[[Many[np.ndarray]], np.ndarray]


def logprob_answer(learners: Any) -> Answer:
    """Log-probs of every token but a document's first. learners: anything with LearnerGroup.logprobs."""

    def answer(documents: Many[np.ndarray]) -> np.ndarray:
        sequences = [Sequence(tokens, np.arange(len(tokens)) > 0) for tokens in documents]
        return np.concatenate([logprobs for logprobs, _ in learners.logprobs(sequences)])

    return answer


def score_answer(learners: Any) -> Answer:
    """Rewards of whole documents. learners: anything with LearnerGroup.score."""
    return lambda documents: np.asarray(learners.score(list(documents)), dtype=np.float32)


class Probe:
    """Saved beside every resume point and asked after every resume.

    Args:
        documents: token ids to choose from; the first DOCUMENTS of two tokens and more are asked.
        answer: what is compared.
        device: `cpu` or `cuda`, which decides how close two answers are.
    """

    def __init__(self, documents: Many[np.ndarray], answer: Answer, device: str) -> None:
        self.documents = [np.asarray(d, dtype=np.int64) for d in documents if len(d) > 1][:DOCUMENTS]
        self.answer, self.tolerance = answer, TOLERANCE[device]

    def save(self, directory: Path) -> None:
        if self.documents:
            lengths = np.array([len(document) for document in self.documents])
            tokens = np.concatenate(self.documents)
            np.savez(directory / FILE, tokens=tokens, lengths=lengths, answers=self.answer(self.documents))

    def check(self, directory: Path, where: str) -> None:
        """Asks the documents stored in `directory` again.

        Raises:
            IntegrityError: the answers differ; shows by how much.
        """
        path = directory / FILE
        if not path.is_file():
            log.warning("%s: the resume point has no probe (saved by an older version): not compared", where)
            return
        with np.load(path) as stored:
            documents = np.split(stored["tokens"], np.cumsum(stored["lengths"])[:-1])
            expected = stored["answers"]
        found = self.answer(documents)
        same_shape = found.shape == expected.shape
        distance = np.abs(found.astype(np.float64) - expected) if same_shape else np.array([np.inf])
        if not distance.max() <= self.tolerance:
            raise IntegrityError(
                f"{where}: after the resume the model answers its stored probe batch differently: largest difference "
                f"{distance.max():.3g}, mean {distance.mean():.3g} over {expected.size} values, allowed "
                f"{self.tolerance:g} (first: {found.ravel()[0]:.6g}, stored {expected.ravel()[0]:.6g}). What was "
                "loaded is not what was saved, so the run stops. Compare code and library versions with "
                "those of the earlier attempt, or delete the stage's resume points to train it from its start"
            )
