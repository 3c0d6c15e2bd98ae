"""Engine: one vLLM in this process, given tokens and returning tokens with the log-probs it drew them with.

In process (no engine subprocess, executor `uni`) it starts three times faster and can be stepped, so a deadline is
checked between decoding steps; tensor parallel, its workers are child processes (`mp`) and the stepping stays here. It
starts from a configuration with dummy weights and admits nothing until weights with a version and a matching checksum
have been loaded, so it can be started before any model exists and be kept for many.

`logprobs_mode="processed_logprobs"`: the log-probs after temperature and top-p, those of the distribution the token was
really drawn from. The raw ones are a different policy (PrimeIntellect prime-rl and verl set the same).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.cluster.imports import imports
from components.failures import BadInput, DeadlineExceeded, IntegrityError
from components.model.wire import received
from components.rollout.exchange import Layouts, verify
from components.rollout.gpu import GpuSettings
from components.rollout.partial import PartialDecoder, check_fits, drawn_logprobs, sampling_arguments
from components.rollout.routing import RoutingRecorder
from components.rollout.types import Progress, Sample, SampleRequest, Sampling, Until

# vLLM reads these when it is imported. `nobind`: the process was pinned to its core before (components.cluster.worker).
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_INT4_W4A8": "0",  # 4-bit weights alone: with AMX vLLM would round activations to 8 bits as well
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",  # at WARNING every tensor that it rounds is a line, at every update
    "VLLM_CONFIGURE_LOGGING": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
# vLLM's sampler is under torch.compile also where the model is not. On a CPU that is 19 s of C++ compiler in every
# process that draws its first token, for the rank of a log-prob, which is as fast without.
UNCOMPILED = {"TORCHDYNAMO_DISABLE": "1"}


def environment(device: str) -> dict[str, str]:
    """What a process of vLLM must have in its environment before it imports it. device: `cpu` or `cuda`."""
    return ENVIRONMENT | (UNCOMPILED if device == "cpu" else {})


class Engine:
    """One vLLM engine.

    Args:
        config: content of the model's config.json (components.model.hf_config.config_json).
        dtype: `float32` or `bfloat16`; weights are always sent in float32 and rounded on loading.
        max_model_len: longest prompt plus response, in tokens.
        max_num_seqs: sequences decoded together.
        routing: samples come with the experts that were chosen for their tokens (Sample.experts). Without a prefix
            cache then, since cached tokens pass no router.
        tensor_parallel: workers that share every matrix, one GPU (or, on CPU, one process) each.
        gpu: on GPUs.

    Raises:
        BadInput: routing of an engine of several workers, whose routers are in other processes.
    """

    def __init__(
        self,
        config: dict[str, Any],
        dtype: str,
        max_model_len: int,
        max_num_seqs: int,
        routing: bool = False,
        tensor_parallel: int = 1,
        gpu: GpuSettings | None = None,
    ) -> None:
        if routing and tensor_parallel > 1:
            raise BadInput(
                "routing replay records an engine of one worker",
                where="execution.engine_tensor_parallel",
                remedy="Set it to 1, or switch routing replay off",
            )
        for name, value in environment("cpu" if gpu is None else "cuda").items():
            os.environ.setdefault(name, value)
        with imports():
            import torch
            from vllm import LLM

            from components.model.hf_config import register

        register()
        _let_vllm_scan_llvmlite()
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        self.max_model_len = max_model_len
        self.version: int | None = None
        self.checksum: str | None = None
        self._home = tempfile.TemporaryDirectory(prefix="ringflow-engine-")
        Path(self._home.name, "config.json").write_text(json.dumps(config))
        self._llm = LLM(
            model=self._home.name,
            dtype=dtype,
            load_format="dummy",
            skip_tokenizer_init=True,
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max(4096, max_model_len),
            # vLLM rewinds a seeded generator by a CUDA-only call when it prefills a prompt in pieces.
            enable_chunked_prefill=False,
            logprobs_mode="processed_logprobs",
            generation_config="vllm",
            enable_prefix_caching=not routing,
            **(gpu.arguments() if gpu is not None else {"enforce_eager": True}),
            tensor_parallel_size=tensor_parallel,
            distributed_executor_backend="uni" if tensor_parallel == 1 else "mp",
            worker_extension_cls="components.rollout.worker_extension.EngineWorker",
            disable_log_stats=True,
        )
        self._engine = self._llm.llm_engine
        self._partial = PartialDecoder(self._engine, max_model_len)
        self._asleep = False
        self._routing = None
        if routing:
            self._routing = RoutingRecorder(self._llm.collective_rpc(lambda worker: worker.model_runner)[0])

    def load_weights(self, version: int, expected: str, layouts: Layouts, sources: Sequence[Any]) -> tuple[int, str]:
        """Takes new weights and returns (version, checksum) as this engine has them.

        sources: per shard its buffer, or a reference into Ray's object store.

        Raises:
            IntegrityError: the bytes are not those `expected` was computed over, or vLLM kept its prefix cache. The
                engine then admits no request, since the sender believes it holds weights that it does not.
        """
        self.version = self.checksum = None
        # Running requests hold keys and values of the old weights: they end here and are taken up again from tokens.
        self._partial.pause()
        buffers = received(sources)
        verify(expected, layouts, buffers, "engine")
        self._load("take_weights", layouts, buffers)
        self.version, self.checksum = version, expected
        return version, expected

    def load_files(self, version: int, directory: str) -> int:
        """Takes the weights of a Hugging Face directory that this process can read; answers for no checksum."""
        self.version = self.checksum = None
        self._partial.pause()
        self._load("take_files", directory)
        self.version = version
        return version

    def transfer(self, method: str, arguments: dict[str, Any]) -> None:
        """One call of vLLM's weight-transfer protocol on all workers of this engine (GPU; device_transfer.py)."""
        if method == "start_weight_update":
            self.version = self.checksum = None
            self._partial.pause()
        if method == "init_weight_transfer_engine":  # learners that took the place of others
            self._engine.collective_rpc("shutdown_weight_transfer_engine")
        self._engine.collective_rpc(method, kwargs=arguments)

    def admit_received(self, version: int) -> int:
        """Answers for weights that arrived through `transfer`."""
        self._forget_cached_keys()
        self.version, self.checksum = version, f"received-{version}"
        return version

    def _load(self, method: str, *arguments: Any) -> None:
        self._engine.collective_rpc(method, args=arguments)
        self._forget_cached_keys()

    def _forget_cached_keys(self) -> None:
        if not self._engine.reset_prefix_cache():
            raise IntegrityError("vLLM kept its prefix cache: keys and values of other weights would be reused")

    def admitted(self) -> tuple[int | None, str | None]:
        """(version, checksum) this engine answers for; None while it admits nothing."""
        return self.version, self.checksum

    def generate(
        self, requests: Sequence[SampleRequest], sampling: Sampling, version: int, deadline_s: float
    ) -> list[Sample]:
        """Draws one response per request, in order.

        Raises:
            IntegrityError: this engine does not hold `version`.
            BadInput: a prompt and its answer do not fit max_model_len.
            DeadlineExceeded: unfinished after `deadline_s`; all requests are aborted.
        """
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        self._admit(version)
        self._partial.pause()
        for request in requests:
            check_fits(request, sampling, self.max_model_len)
        if self._routing is not None:
            self._routing.forget()
        for index, request in enumerate(requests):
            self._engine.add_request(
                str(index),
                TokensPrompt(prompt_token_ids=list(request.prompt)),
                SamplingParams(**sampling_arguments(request, sampling)),
            )
        finished = self._drain(len(requests), deadline_s)
        samples = []
        for index, request in enumerate(requests):
            output = finished[str(index)].outputs[0]
            tokens = [int(token) for token in output.token_ids]
            samples.append(
                Sample(
                    request_id=request.request_id,
                    prompt=request.prompt,
                    tokens=tokens,
                    logprobs=drawn_logprobs(output.logprobs, tokens),
                    finish="stop" if output.finish_reason == "stop" else "length",
                    version=version,
                    experts=self._experts(str(index), len(request.prompt) + len(tokens)),
                )
            )
        return samples

    def advance(
        self, requests: Sequence[SampleRequest], sampling: Sampling, version: int, until: Until, deadline_s: float
    ) -> list[Progress]:
        """Decodes the requests on, in their order as places get free, and returns what is new (see PartialDecoder).

        Raises:
            IntegrityError: this engine does not hold `version`.
            BadInput: a prompt and its answer do not fit max_model_len.
            DeadlineExceeded: `until` was not reached after `deadline_s`; all requests are aborted.
        """
        self._admit(version)
        return self._partial.advance(requests, sampling, version, until, deadline_s)

    def sleep(self) -> int:
        """Gives the key-value memory back; admits nothing until `wake`. Returns the bytes this process (on a GPU: its
        device) has less.

        On a GPU vLLM's own sleep mode, level 1: weights wait in the host's memory, since a step that is not learned
        from publishes none. On a CPU, for which it has no sleep mode (CuMemAllocator is CUDA's), the storages of the
        cache tensors are freed.
        """
        self._partial.pause()
        self._engine.reset_prefix_cache()
        self._asleep = True
        if not self._on_cuda():
            return sum(self._engine.collective_rpc("free_cache"))
        import torch

        free, _ = torch.cuda.mem_get_info()
        self._llm.sleep(level=1)
        return max(torch.cuda.mem_get_info()[0] - free, 0)

    def wake(self, weights_only: bool = False) -> None:
        """Takes the memory back; the cache is empty.

        weights_only: on a GPU, the weights', so that new ones can be received; the cache's at the next `wake`.
        """
        if not self._asleep:
            return
        if not self._on_cuda():
            self._engine.collective_rpc("take_cache")
        else:
            self._llm.wake_up([part for part in ("weights", "kv_cache") if self._sleeps(part, weights_only)])
        self._asleep = weights_only and self._on_cuda()

    def _sleeps(self, part: str, weights_only: bool) -> bool:
        return part in self._engine.model_executor.sleeping_tags and not (weights_only and part == "kv_cache")

    @staticmethod
    def _on_cuda() -> bool:
        from vllm.platforms import current_platform

        return current_platform.is_cuda()

    def pause(self) -> None:
        """Ends what `advance` left running; its tokens were all returned."""
        self._partial.pause()

    def score(
        self, sequences: Sequence[tuple[Sequence[int], int]], version: int, deadline_s: float
    ) -> list[list[float]]:
        """Log-probs of given responses at temperature 1: for each (tokens, prompt length), one per response token."""
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        self._admit(version)
        self._partial.pause()
        for index, (tokens, _) in enumerate(sequences):
            if len(tokens) >= self.max_model_len:
                raise BadInput(f"{len(tokens)} tokens leave no room in {self.max_model_len}", where=f"sequence {index}")
            self._engine.add_request(
                str(index),
                TokensPrompt(prompt_token_ids=list(tokens)),
                SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False, ignore_eos=True),
            )
        finished = self._drain(len(sequences), deadline_s)
        return [
            [
                finished[str(index)].prompt_logprobs[position][tokens[position]].logprob
                for position in range(prompt_length, len(tokens))
            ]
            for index, (tokens, prompt_length) in enumerate(sequences)
        ]

    def _experts(self, name: str, length: int) -> np.ndarray | None:
        return None if self._routing is None else self._routing.take(name, length)

    def _admit(self, version: int) -> None:
        if self._asleep:
            raise IntegrityError("the engine sleeps and has no memory to decode in: call wake first")
        if self.version != version:
            raise IntegrityError(
                f"the engine holds weights of version {self.version}, the request wants version {version}; refused"
            )

    def _drain(self, count: int, deadline_s: float) -> dict[str, Any]:
        ends, finished = time.monotonic() + deadline_s, {}
        while len(finished) < count:
            if time.monotonic() > ends:
                self._engine.abort_request([str(i) for i in range(count) if str(i) not in finished])
                raise DeadlineExceeded(f"the engine finished {len(finished)} of {count} requests in {deadline_s:g} s")
            for output in self._engine.step():
                if output.finished:
                    finished[output.request_id] = output
        return finished


def _let_vllm_scan_llvmlite() -> None:
    """vLLM 0.32 asks every object of every loaded module for its `__dict__` (vllm/triton_utils/dispatcher.py:139), and
    llvmlite's library handle, loaded with numba, answers any name with a C function. An empty one lets it pass."""
    ffi = sys.modules.get("llvmlite.binding.ffi")
    if ffi is not None:
        ffi.lib._fntab.setdefault("__dict__", {})
