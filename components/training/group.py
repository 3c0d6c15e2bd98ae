"""LearnerGroup: the learners of a run, whatever their layout, as one trainer.

It deals sequences over the replicas by length, calls every rank, and puts answers back in order. The learners are Ray
actors (components.cluster) that stay warm between stages of one architecture, or, with `in_process`, one learner in
this very process: the same class, for tests, small tools and notebooks.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from collections.abc import Sequence as Many
from contextlib import AbstractContextManager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.artifacts.context import ResumePoint
from components.artifacts.folder import Folder, Sent
from components.artifacts.objects import moved
from components.artifacts.spent import spent_on
from components.artifacts.stored import Stored
from components.failures import Diverged, IntegrityError
from components.model.layout import UNDIVIDED, Layout
from components.model.precision import check_shapes
from components.model.spec import spec_for
from components.model.wire import WeightShards
from components.recipe.execution import ExecutionConfig
from components.recipe.model import ModelConfig
from components.recipe.training import OptimiserConfig
from components.training.blocks import INDEX, write_index
from components.training.device_transfer import DeviceWeights
from components.training.packing import shard
from components.training.types import PolicyLoss, PolicySequence, Sequence

if TYPE_CHECKING:
    from components.model.hf_sent import WeightFile
    from components.training.learner import Learner

# Folder of a resume point that is the learners'.
FOLDER = "learner"
LEARNER = "components.training.learner:Learner"


def learner_key(model: ModelConfig, execution: ExecutionConfig) -> Hashable:
    """What decides whether running learners fit a stage: never the weights they hold."""
    layout = (Layout.of(execution), execution.distributed_optimiser, execution.threads, execution.placement)
    method = (execution.learner_dtype, execution.micro_batch_tokens, execution.recompute, execution.logit_rows)
    return ("learner", model.model_dump_json(), execution.device, execution.kernels, layout, method)


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
    """`execution.learners` ranks in the layout that `execution` says.

    Args:
        model: the recipe's model section.
        execution: counts, layout, threads, device and deadlines.
        seed: of `initialise`.
        in_process: one rank in this process, whatever `execution` says.
    Raises:
        BadInput: the model cannot be divided so. Found before anything starts.
    Starting does not block; the first call waits until the learners are up and connected.
    """

    def __init__(self, model: ModelConfig, execution: ExecutionConfig, seed: int, in_process: bool = False) -> None:
        if in_process:
            execution = execution.model_copy(update=UNDIVIDED.settings())
        self.execution, self.in_process = execution, in_process
        self.layout = Layout.of(execution)
        self._spec = spec_for(model)
        self.layout.check(self._spec)
        execution.check_kernels()
        check_shapes(self._spec, self.layout, execution.learner_dtype)
        self.world = self.layout.world
        self._local: Learner | None = None
        self._workers: Any = None
        self._connected = self._broken = False
        if in_process:
            from components.training.learner import Learner

            self._local = Learner(0, 1, model, execution, seed)
            return
        from components.cluster.devices import shared_devices
        from components.cluster.workers import WorkerGroup

        self._workers = WorkerGroup(
            LEARNER,
            self.world,
            [(rank, self.world, model, execution, seed) for rank in range(self.world)],
            gpus=1 if execution.device == "cuda" else 0,
            threads=execution.threads if execution.device == "cpu" else 0,
            first_core=0 if execution.placement == "disaggregated" else None,
            devices=[[device] for device in shared_devices(execution)] if execution.shares_gpus else None,
            deadline_s=execution.start_deadline_s,
            name="learner",
        )

    # ---- weights

    def initialise(self, seed: int | None = None) -> None:
        self._call("initialise", seed)

    def load_hf(self, source: str | Path | Stored) -> None:
        """source: of an artifact (`context.locate`) every rank reads what it needs; a directory is one that all see."""
        if not isinstance(source, Stored):
            self._call("load_hf", str(source))
            return
        self._start()
        with spent_on("S3"):
            read = self._call("load_hf", source)
        self._moved("read", [traffic.bytes for traffic in read])

    def load_reward(self, stored: Stored) -> None:
        self._call("load_reward", stored)

    def weights(self) -> Mapping[str, np.ndarray] | DeviceWeights:
        """HF name -> float32 array; from workers as shards that each of them shared, which engines read (WeightShards).

        No process holds all of them unless it asks for values. On GPUs a promise to send them.
        """
        if self._local is not None:
            return self._local.weights()
        self._connect()
        if self.execution.device == "cuda":
            return DeviceWeights(self._send)
        shared = self._workers.call_shared("shard", deadline_s=self.execution.step_deadline_s)
        return WeightShards(tuple(layout for layout, _ in shared), tuple(source for _, source in shared))

    def _send(self, client: Any, engine_workers: int) -> None:
        address, port = self._workers.rendezvous(self.execution.start_deadline_s)
        self._call("send", address, port, engine_workers, client)

    def write_hf(self, place: Folder, tokenizer: str, dtype: str = "float32") -> list[Sent]:
        """Every rank sends its share of a Hugging Face directory to the place, from its own host; what was sent.

        tokenizer: `nano` or a directory. dtype: `float32` or `bfloat16`."""
        with spent_on("S3"):
            files = list(chain.from_iterable(self._call("send_weights", place, dtype)))
        return self._described(place, files, tokenizer, dtype)

    def write_reward(self, place: Folder, tokenizer: str) -> list[Sent]:
        """The same of a reward model: model/ (Hugging Face) and head.safetensors."""
        with spent_on("S3"):
            answers = self._call("send_reward", place)
        files = list(chain.from_iterable(files for files, _ in answers))
        sent = [each.below("model") for each in self._described(place.below("model"), files, tokenizer, "float32")]
        heads = [head for _, head in answers if head is not None]
        self._moved("write", [head.file.size for head in heads])
        return [*sent, *heads]

    def _described(self, place: Folder, files: list[WeightFile], tokenizer: str, dtype: str) -> list[Sent]:
        from components.model.hf_sent import send_description
        from components.model.tokenizer import load_tokenizer

        sent = [file.sent for file in files]
        self._moved("write", [each.file.size for each in sent])
        with spent_on("S3"):
            return [*sent, *send_description(place, self._spec, files, load_tokenizer(tokenizer), dtype)]

    # ---- training

    def configure(
        self,
        optimiser: OptimiserConfig,
        total_steps: int,
        expert_bias_rate: float,
        reward_head: bool = False,
        mtp_loss_weight: float = 0.0,
    ) -> None:
        self._call("configure", optimiser, total_steps, expert_bias_rate, reward_head, mtp_loss_weight)

    def train_tokens(self, sequences: Many[Sequence], sequence_length: int) -> dict[str, float]:
        """One cross-entropy step over all sequences; see Learner.train_tokens."""
        shards = shard([len(sequence.tokens) for sequence in sequences], self.layout.data)
        return _joined(
            self._dealt("train_tokens", [([sequences[i] for i in part], sequence_length) for part in shards])
        )

    def policy_step(
        self, sequences: Many[PolicySequence], loss: PolicyLoss, sequence_length: int | None = None
    ) -> dict[str, float]:
        """One policy step over all sequences; see Learner.policy_step."""
        shards = shard([len(sequence.tokens) for sequence in sequences], self.layout.data)
        return _joined(
            self._dealt("policy_step", [([sequences[i] for i in part], loss, sequence_length) for part in shards])
        )

    def logprobs(self, sequences: Many[Sequence]) -> list[tuple[np.ndarray, np.ndarray]]:
        """(log-probs, entropies) of each sequence's masked tokens, in order."""
        return self._scattered("logprobs", sequences, lambda sequence: len(sequence.tokens))

    def train_pairs(self, pairs: Many[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
        """One Bradley-Terry step over all (chosen, rejected) token arrays."""
        shards = shard([len(chosen) + len(rejected) for chosen, rejected in pairs], self.layout.data)
        return _joined(self._dealt("train_pairs", [([pairs[i] for i in part], len(pairs)) for part in shards]))

    def score(self, sequences: Many[np.ndarray]) -> np.ndarray:
        """Rewards [sequences], float32, of whole token sequences."""
        return np.asarray(self._scattered("score", sequences, len), dtype=np.float32)

    # ---- memory

    def offload(self) -> int:
        """Gives back the memory that is not needed until `onload`; returns bytes released, over all ranks."""
        return sum(self._call("offload"))

    def onload(self) -> None:
        self._call("onload")

    # ---- resume

    def save_resume(self, directory: Path, place: Folder) -> Folder:
        """Every rank sends its share of the state to the place, from its own host; the index of it and the random
        states go into the directory. Returns the place with what it holds now."""
        from components.training import rng

        with spent_on("S3"):
            written = self._call("save_resume", place.below(FOLDER))
        self._moved("write", [each.file.size for each in written])
        write_index(directory / FOLDER, written)
        rng.save(directory / FOLDER, self._call("rng_state"))
        sent = [each.file.model_copy(update={"path": f"{FOLDER}/{each.file.path}"}) for each in written]
        return place.holding(sent)

    def load_resume(self, point: ResumePoint) -> None:
        """Every rank reads what it needs, and no weight is touched before all of it is proven.

        Raises IntegrityError: a rank found damage; names file and block.
        """
        from components.training import rng

        self._start()
        with spent_on("S3"):
            fetched = self._call("fetch_resume", point.place.below(FOLDER, INDEX))
        self._moved("read", [traffic.bytes for _, traffic in fetched])
        damage = [found for found, _ in fetched if found]
        self._call("finish_resume", not damage)
        if damage:
            raise IntegrityError(damage[0])
        states = rng.load(point.path / FOLDER, self.world)
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

    def _moved(self, direction: str, sizes: Many[int]) -> None:
        """Counts here what ranks moved in processes that nobody asks for metrics."""
        if self._local is None:
            for size in sizes:
                moved(direction, size)

    def _scattered(self, method: str, items: Many[Any], size: Callable[[Any], int]) -> list[Any]:
        shards = shard([size(item) for item in items], self.layout.data)
        answers = self._dealt(method, [([items[i] for i in part],) for part in shards])
        answers = [answers[rank] for rank in self.layout.speakers()]
        results: list[Any] = [None] * len(items)
        for part, answer in zip(shards, answers, strict=True):
            for index, value in zip(part, answer, strict=True):
                results[index] = value
        return results

    def _dealt(self, method: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
        """Calls every rank with the arguments of its replica; answers by rank."""
        return self._call_each(method, [arguments[self.layout.place(rank).data] for rank in range(self.world)])

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

    def _start(self) -> None:
        """Waits until the learners are up, which is no wait for anything else that is timed."""
        if self._local is None:
            self._workers.ready()
            self._connect()

    def _connect(self) -> None:
        if self._connected:
            return
        if self.world > 1:
            address, port = self._workers.rendezvous(self.execution.start_deadline_s)
            self._workers.call("connect", address, port, deadline_s=self.execution.start_deadline_s)
        self._connected = True


def _joined(answers: list[dict[str, float]]) -> dict[str, float]:
    """Metrics of the first rank, which are global, with the slowest rank's time."""
    return {**answers[0], "seconds": max(answer["seconds"] for answer in answers)}
