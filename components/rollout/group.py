"""EngineGroup: the engines of a run as one sampler, holding one version of the weights.

Requests are dealt round robin, so the same requests in the same order meet the same engine in the same company: with
their own seeds and equal weights the draws repeat bit for bit on CPU. Weights travel as one object; the group serves a
version only after every engine has answered with that version and the checksum of what it received.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray

from components.cluster.connect import connect
from components.cluster.devices import shared_devices
from components.cluster.warm import warm
from components.cluster.workers import WorkerGroup
from components.failures import BadInput, IntegrityError
from components.model.wire import WeightShards
from components.recipe.execution import ExecutionConfig
from components.recipe.model import ModelConfig
from components.rollout.device_transfer import EngineClient
from components.rollout.engine import environment
from components.rollout.exchange import Layouts, checksum, pack
from components.rollout.gpu import GpuSettings
from components.rollout.types import Progress, Sample, SampleRequest, Sampling, Until


def warm_engines(
    model: ModelConfig,
    dtype: str,
    execution: ExecutionConfig,
    routing: bool = False,
    yarn_factor: float | None = None,
) -> EngineGroup:
    """The engines of this architecture, dtype and layout, kept between stages; they start at the first call.

    routing: samples come with their experts, for replay in the trainer. yarn_factor: of a longer context.

    Context length is the model's own, so that RL and evaluation share them. Weights are whatever was published last:
    publish or load_directory before sampling.
    """
    connect(execution)

    def start() -> EngineGroup:
        from components.model.hf_config import config_json
        from components.model.spec import extended, spec_for
        from components.model.tokenizer import load_tokenizer

        spec = extended(spec_for(model), yarn_factor)
        config = config_json(spec, load_tokenizer(model.tokenizer), dtype)
        return EngineGroup(config, dtype, spec.max_position_embeddings, execution, routing)

    apart = execution.learners if execution.placement == "disaggregated" else None
    shape = (execution.engines, execution.engine_tensor_parallel, execution.threads)
    layout = (execution.device, shape, execution.max_num_seqs, apart, GpuSettings.of(execution))
    return warm(("engines", model, dtype, layout, routing, yarn_factor), start)


class EngineGroup:
    """`execution.engines` vLLM engines, each with a core or with `execution.engine_tensor_parallel` GPUs of one node.

    Args:
        config: content of config.json (components.model.hf_config.config_json).
        dtype: `float32` or `bfloat16`.
        max_model_len: longest prompt plus response, in tokens.
        execution: counts, threads and deadlines.
        routing: see Engine.
    Starting does not block; the first call waits until the engines are up.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        dtype: str,
        max_model_len: int,
        execution: ExecutionConfig,
        routing: bool = False,
    ) -> None:
        self.execution = execution
        self.version: int | None = None
        self.checksum: str | None = None
        self._last: tuple[int, str, Layouts, tuple[Any, ...]] | None = None
        count, width = execution.engines, execution.engine_tensor_parallel
        gpu, devices = GpuSettings.of(execution), None
        if execution.shares_gpus:
            places = shared_devices(execution)
            devices = [places[rank * width : (rank + 1) * width] for rank in range(count)]
        self.workers = WorkerGroup(
            "components.rollout.engine:Engine",
            count,
            [(dict(config), dtype, max_model_len, execution.max_num_seqs, routing, width, gpu)] * count,
            gpus=width if execution.device == "cuda" else 0,
            env=environment(execution.device),
            threads=execution.threads if execution.device == "cpu" else 0,
            first_core=execution.learners * execution.threads if execution.placement == "disaggregated" else None,
            devices=devices,
            deadline_s=execution.start_deadline_s,
            name="engine",
        )

    def publish(self, version: int, weights: Mapping[str, np.ndarray], deadline_s: float | None = None) -> str:
        """Gives every engine these weights and returns their checksum.

        weights: HF names -> float32 arrays, or the shards that learners shared (LearnerGroup.weights).
        Raises:
            IntegrityError: an engine received other bytes, or answers for another version. It admits nothing then, and
                no engine is asked, until `resync` or the next publication.
        """
        self.version = self.checksum = None
        if self.execution.device == "cuda" and not isinstance(weights, Mapping):
            return self._receive(version, weights, deadline_s or self.execution.step_deadline_s)
        if isinstance(weights, WeightShards):
            layouts, sources = weights.layouts, weights.sources
        else:
            layouts, buffers = pack(weights)
            sources = tuple(ray.put(buffer) for buffer in buffers)
        self._last = (version, checksum(layouts), layouts, sources)
        self._give(range(self.workers.world), deadline_s)
        return self._last[1]

    def _receive(self, version: int, weights: Any, deadline_s: float) -> str:
        """Weights that learners on GPUs promised (components.training.device_transfer.DeviceWeights)."""
        workers = self.workers.world * self.execution.engine_tensor_parallel
        weights.send(EngineClient(self.workers.actors, deadline_s), workers)
        answers = self.workers.call("admit_received", version, deadline_s=deadline_s)
        if set(answers) != {version}:
            raise IntegrityError(f"engines answer for {answers}, not for version {version}; refused")
        self.version, self.checksum = version, f"received-{version}"
        return self.checksum

    def resync(self, deadline_s: float | None = None) -> list[int]:
        """Gives the last publication again to the engines that do not answer for it; returns their ranks."""
        if self._last is None:
            return []
        deadline_s = deadline_s or self.execution.step_deadline_s
        held = self.workers.call("admitted", deadline_s=deadline_s)
        missed = [rank for rank, answer in enumerate(held) if tuple(answer) != self._last[:2]]
        self._give(missed, deadline_s)
        return missed

    def _give(self, ranks: Iterable[int], deadline_s: float | None) -> None:
        method, (version, expected, layouts, sources) = "load_weights", self._last
        # References inside a list are handed on as they are: each engine reads shared memory itself.
        arguments = (version, expected, layouts, list(sources))
        references = [self.workers.submit_to(rank, method, arguments) for rank in ranks]
        answers = self.workers.collect(references, method, deadline_s or self.execution.step_deadline_s)
        for rank, answer in zip(ranks, answers, strict=True):
            if tuple(answer) != (version, expected):
                raise IntegrityError(f"engine[{rank}] answers for {answer}, not for {(version, expected)}; refused")
        self.version, self.checksum = version, expected

    def load_directory(self, directory: Path, version: int = 0) -> str:
        """Publishes the weights of a Hugging Face directory (any dtype, sent as float32)."""
        from components.model.hf import read_hf_directory

        _, tensors = read_hf_directory(directory)
        return self.publish(version, {name: tensor.float().numpy() for name, tensor in tensors})

    def generate(
        self, requests: Sequence[SampleRequest], sampling: Sampling, deadline_s: float | None = None
    ) -> list[Sample]:
        """One response per request, in order, all drawn by the published version."""
        samples: list[Sample | None] = [None] * len(requests)
        for indices, drawn in self.stream(requests, sampling, deadline_s):
            for index, sample in zip(indices, drawn, strict=True):
                samples[index] = sample
        return [sample for sample in samples if sample is not None]

    def stream(
        self, requests: Sequence[SampleRequest], sampling: Sampling, deadline_s: float | None = None
    ) -> Iterator[tuple[list[int], list[Sample]]]:
        """(request indices, samples) as each engine finishes its share, so that scoring overlaps with the rest."""
        count = self.workers.world
        shares = [list(range(rank, len(requests), count)) for rank in range(count)]
        deadline_s = deadline_s or self.execution.step_deadline_s
        arguments = [([requests[i] for i in share], sampling, self._published(), deadline_s) for share in shares]
        # The engine stops itself at the deadline and stays usable; the group's own deadline is for a hung process.
        for rank, drawn in self.workers.each_as_done("generate", arguments, deadline_s + 30):
            yield shares[rank], drawn

    def advance(
        self,
        requests: Sequence[SampleRequest],
        homes: Sequence[int],
        sampling: Sampling,
        until: Until,
        deadline_s: float | None = None,
    ) -> list[Progress]:
        """Decodes the requests on and returns what is new, rank by rank; see Engine.advance.

        homes: a number per request; the engine is that number modulo the engines, so a paused request finds its own.
        until: `tokens` of all engines together, split by the requests each has; an engine without any is left alone.
        """
        count, deadline_s = self.workers.world, deadline_s or self.execution.step_deadline_s
        shares = [[r for r, home in zip(requests, homes, strict=True) if home % count == rank] for rank in range(count)]
        arguments = []
        for share in shares:
            tokens = None if until.tokens is None else -(-until.tokens * len(share) // max(len(requests), 1))
            arguments.append((share, sampling, self._published(), replace(until, tokens=tokens), deadline_s))
        answers = self.workers.call_each("advance", arguments, deadline_s + 30)
        return [progress for answer in answers for progress in answer]

    def pause(self, deadline_s: float | None = None) -> None:
        """Ends what `advance` left running on the engines; its tokens were all returned."""
        self.workers.call("pause", deadline_s=deadline_s or self.execution.step_deadline_s)

    def score(
        self, sequences: Sequence[tuple[Sequence[int], int]], deadline_s: float | None = None
    ) -> list[list[float]]:
        """Log-probs at temperature 1 of given responses: (prompt + response tokens, prompt length) each, in order."""
        count, deadline_s = self.workers.world, deadline_s or self.execution.step_deadline_s
        arguments = [(list(sequences[rank::count]), self._published(), deadline_s) for rank in range(count)]
        scored: list[list[float]] = [[] for _ in sequences]
        for rank, share in enumerate(self.workers.call_each("score", arguments, deadline_s + 30)):
            scored[rank::count] = share
        return scored

    def sleep(self, deadline_s: float | None = None) -> int:
        """Gives the engines' key-value memory back until `wake`; returns bytes released, over all engines."""
        return sum(self.workers.call("sleep", deadline_s=deadline_s or self.execution.step_deadline_s))

    def wake(self, weights_only: bool = False, deadline_s: float | None = None) -> None:
        """Takes it back. weights_only: see Engine.wake."""
        self.workers.call("wake", weights_only, deadline_s=deadline_s or self.execution.step_deadline_s)

    def alive(self) -> bool:
        return self.workers.alive()

    def close(self) -> None:
        self.workers.close()

    def _published(self) -> int:
        if self.version is None and self._last is not None:
            raise IntegrityError(
                f"version {self._last[0]} did not reach every engine: none is asked before resync() or a publication"
            )
        if self.version is None:
            raise BadInput("no weights were published to the engines", remedy="Call publish or load_directory first")
        return self.version
