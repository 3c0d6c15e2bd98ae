"""LearnerGroup: the data-parallel learners of a run as one trainer.

It deals sequences over the ranks by length, calls every rank, and puts answers back in order. The learners are Ray
actors (components.cluster) that stay warm between stages of one architecture, or, with `in_process`, one learner in
this very process: the same class, for tests, small tools and notebooks.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from collections.abc import Sequence as Many
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.failures import Diverged
from components.recipe.execution import ExecutionConfig
from components.recipe.model import ModelConfig
from components.recipe.training import OptimiserConfig
from components.training.packing import shard
from components.training.types import PolicyLoss, PolicySequence, Sequence

if TYPE_CHECKING:
    from components.training.learner import Learner

LEARNER = "components.training.learner:Learner"


def learner_key(model: ModelConfig, execution: ExecutionConfig) -> Hashable:
    """What decides whether running learners fit a stage: never the weights they hold."""
    return ("learner", model.model_dump_json(), execution.device, execution.learners, execution.threads)


def borrow_learners(model: ModelConfig, execution: ExecutionConfig) -> AbstractContextManager[LearnerGroup]:
    """The warm learners of this process, exclusively, for one `with` block; started when there are none.

    They hold whatever the last user left: begin with load_hf, initialise or load_resume.
    """
    from components.cluster.connect import connect
    from components.cluster.warm import borrow

    connect(execution)
    return borrow(
        learner_key(model, execution), lambda: LearnerGroup(model, execution, seed=0), execution.step_deadline_s
    )


class LearnerGroup:
    """`execution.learners` data-parallel ranks.

    Args:
        model: the recipe's model section.
        execution: counts, threads, device and deadlines.
        seed: of `initialise`.
        in_process: one rank in this process, whatever `execution.learners` says.
    Starting does not block; the first call waits until the learners are up and connected.
    """

    def __init__(self, model: ModelConfig, execution: ExecutionConfig, seed: int, in_process: bool = False) -> None:
        self.execution, self.in_process = execution, in_process
        self.world = 1 if in_process else execution.learners
        self._local: Learner | None = None
        self._workers: Any = None
        self._connected = self._broken = False
        if in_process:
            from components.training.learner import Learner

            self._local = Learner(0, 1, model, execution, seed)
            return
        from components.cluster.workers import WorkerGroup

        self._workers = WorkerGroup(
            LEARNER,
            self.world,
            [(rank, self.world, model, execution, seed) for rank in range(self.world)],
            gpus=1 if execution.device == "cuda" else 0,
            threads=execution.threads if execution.device == "cpu" else 0,
            deadline_s=execution.start_deadline_s,
            name="learner",
        )

    # ---- weights

    def initialise(self, seed: int | None = None) -> None:
        self._call("initialise", seed)

    def load_hf(self, directory: str | Path) -> None:
        self._call("load_hf", str(directory))

    def load_reward(self, directory: str | Path) -> None:
        self._call("load_reward", str(directory))

    def weights(self) -> dict[str, np.ndarray]:
        """HF name -> float32 array, from rank 0: the ranks are equal."""
        return self._on_first("weights")

    def write_hf(self, directory: str | Path, tokenizer: str, dtype: str = "float32") -> None:
        self._on_first("write_hf", str(directory), tokenizer, dtype)

    def write_reward(self, directory: str | Path, tokenizer: str) -> None:
        self._on_first("write_reward", str(directory), tokenizer)

    # ---- training

    def configure(
        self, optimiser: OptimiserConfig, total_steps: int, expert_bias_rate: float, reward_head: bool = False
    ) -> None:
        self._call("configure", optimiser, total_steps, expert_bias_rate, reward_head)

    def train_tokens(self, sequences: Many[Sequence], sequence_length: int) -> dict[str, float]:
        """One cross-entropy step over all sequences; see Learner.train_tokens."""
        shards = shard([len(sequence.tokens) for sequence in sequences], self.world)
        answers = self._call_each("train_tokens", [([sequences[i] for i in part], sequence_length) for part in shards])
        return _joined(answers)

    def policy_step(
        self, sequences: Many[PolicySequence], loss: PolicyLoss, sequence_length: int | None = None
    ) -> dict[str, float]:
        """One policy step over all sequences; see Learner.policy_step."""
        shards = shard([len(sequence.tokens) for sequence in sequences], self.world)
        answers = self._call_each(
            "policy_step", [([sequences[i] for i in part], loss, sequence_length) for part in shards]
        )
        return _joined(answers)

    def logprobs(self, sequences: Many[Sequence]) -> list[tuple[np.ndarray, np.ndarray]]:
        """(log-probs, entropies) of each sequence's masked tokens, in order."""
        return self._scattered("logprobs", sequences, lambda sequence: len(sequence.tokens))

    def train_pairs(self, pairs: Many[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
        """One Bradley-Terry step over all (chosen, rejected) token arrays."""
        shards = shard([len(chosen) + len(rejected) for chosen, rejected in pairs], self.world)
        return _joined(self._call_each("train_pairs", [([pairs[i] for i in part], len(pairs)) for part in shards]))

    def score(self, sequences: Many[np.ndarray]) -> np.ndarray:
        """Rewards [sequences], float32, of whole token sequences."""
        return np.asarray(self._scattered("score", sequences, len), dtype=np.float32)

    # ---- resume

    def save_resume(self, directory: str | Path) -> None:
        """Weights, moments and step count from rank 0, which all ranks share; random states of every rank."""
        from components.training import rng

        self._on_first("save_resume", str(directory))
        rng.save(Path(directory), self._call("rng_state"))

    def load_resume(self, directory: str | Path) -> None:
        from components.training import rng

        self._call("load_resume", str(directory))
        states = rng.load(Path(directory), self.world)
        if states:
            self._call_each("set_rng_state", [(state,) for state in states])

    # ---- life

    def alive(self) -> bool:
        """False once a worker died or a rank failed alone: its peers may wait in a collective for ever."""
        return not self._broken and (self._workers is None or self._workers.alive())

    def close(self) -> None:
        if self._workers is not None:
            self._workers.close()

    # ---- inside

    def _scattered(self, method: str, items: Many[Any], size: Callable[[Any], int]) -> list[Any]:
        shards = shard([size(item) for item in items], self.world)
        answers = self._call_each(method, [([items[i] for i in part],) for part in shards])
        results: list[Any] = [None] * len(items)
        for part, answer in zip(shards, answers, strict=True):
            for index, value in zip(part, answer, strict=True):
                results[index] = value
        return results

    def _call(self, method: str, *arguments: Any) -> list[Any]:
        return self._call_each(method, [arguments] * self.world)

    def _call_each(self, method: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
        if self._local is not None:
            return [getattr(self._local, method)(*arguments[0])]
        self._connect()
        try:
            return self._workers.call_each(method, arguments, self.execution.step_deadline_s)
        except Diverged:
            raise  # found in global numbers, so every rank has raised it and none is left waiting
        except BaseException:
            self._broken = self.world > 1
            raise

    def _on_first(self, method: str, *arguments: Any) -> Any:
        if self._local is not None:
            return getattr(self._local, method)(*arguments)
        self._connect()
        return self._workers.call_one(0, method, *arguments, deadline_s=self.execution.step_deadline_s)

    def _connect(self) -> None:
        if self._connected:
            return
        if self.world > 1:
            address, port = self._workers.rendezvous(self.execution.start_deadline_s)
            self._workers.call("connect", address, port, deadline_s=self.execution.start_deadline_s)
        self._connected = True


def _joined(answers: list[dict[str, float]]) -> dict[str, float]:
    """Rank 0's metrics, which are global, with the slowest rank's time."""
    return {**answers[0], "seconds": max(answer["seconds"] for answer in answers)}
