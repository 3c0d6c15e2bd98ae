"""Log-prob parity: what the trainer computes and what people will serve must be the same model.

Real held-out sequences (prompt and sampled response) are scored twice: by the megatron learner with the checkpoint's
weights, and by a vLLM engine of its own that reads the released directory from disk, as a user's would. 99 % of the
response tokens must agree within the recipe's tolerance and every one within ten times it, or nothing is released.

Why not every token within 1e-5: float32 itself does not carry that far. The model's formulas evaluated in float32
differ from float64 by up to 2.1e-5 on 2,105 tokens of a `nano` release (mean 3.6e-7, 99 % below 7e-6); with one
operation alone in float32, attention moves a token by 1.4e-5, the projections by 8e-6, the experts by 5e-6. Two
float32 programs add their shares. Real faults are far away: wrong routing or norm settings differ by 0.05 to 0.5 and
stale experts by 0.9.
"""

from __future__ import annotations

import os
from collections.abc import Sequence as Many
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from components.cluster.imports import imports
from components.failures import Diverged, InfrastructureError
from components.recipe.execution import ExecutionConfig
from components.release.server_command import stored_dtype
from components.rollout.engine import environment
from components.rollout.gpu import GpuSettings

if TYPE_CHECKING:
    from components.cluster.workers import WorkerGroup

# A single token may differ by this many tolerances.
WORST_TOKEN = 10

Scored = tuple[list[int], int]
"""(prompt and response tokens, prompt length)."""


@dataclass(frozen=True)
class Parity:
    """Differences |trainer - released| in nats over `tokens` response tokens of `sequences` held-out sequences."""

    max_abs_dlogp: float
    p99_abs_dlogp: float
    mean_abs_dlogp: float
    tokens: int
    sequences: int
    tolerance: float
    worst_sequence: int
    worst_position: int

    @property
    def within(self) -> bool:
        return self.p99_abs_dlogp <= self.tolerance and self.max_abs_dlogp <= WORST_TOKEN * self.tolerance

    def report(self) -> dict[str, float | int | bool]:
        return asdict(self) | {"within": self.within}


class ReleasedEngine:
    """vLLM on a released directory, weights read from disk; runs in a process of its own."""

    def __init__(self, directory: str, max_model_len: int, memory: float | None = None) -> None:
        for name, value in environment("cpu" if memory is None else "cuda").items():
            os.environ.setdefault(name, value)
        with imports():
            from vllm import LLM

            from components.model.hf_config import register

        register()
        self._llm = LLM(
            model=directory,
            dtype=stored_dtype(Path(directory)),
            skip_tokenizer_init=True,
            enforce_eager=True,
            max_model_len=max_model_len,
            max_num_seqs=32,
            max_num_batched_tokens=max(2048, max_model_len),
            logprobs_mode="processed_logprobs",
            distributed_executor_backend="uni",
            disable_log_stats=True,
            **({} if memory is None else {"gpu_memory_utilization": memory}),
        )

    def score(self, sequences: Many[Scored]) -> list[list[float]]:
        """Log-probs at temperature 1 of the response tokens, per sequence."""
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        outputs = self._llm.generate(
            [TokensPrompt(prompt_token_ids=list(tokens)) for tokens, _ in sequences],
            SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False, ignore_eos=True),
            use_tqdm=False,
        )
        return [
            [output.prompt_logprobs[position][tokens[position]].logprob for position in range(start, len(tokens))]
            for output, (tokens, start) in zip(outputs, sequences, strict=True)
        ]


def released_engine(directory: Path, longest: int, execution: ExecutionConfig) -> WorkerGroup:
    """A fresh engine on `directory`; starts in the background. longest: tokens of the longest sequence. Close it."""
    from components.cluster.connect import connect
    from components.cluster.devices import shared_devices
    from components.cluster.workers import WorkerGroup

    connect(execution)
    settings = GpuSettings.of(execution)
    return WorkerGroup(
        "components.release.parity:ReleasedEngine",
        1,
        [(str(directory), longest + 1, None if settings is None else settings.memory)],
        gpus=1 if execution.device == "cuda" else 0,
        devices=[shared_devices(execution)[:1]] if execution.shares_gpus else None,
        env=environment(execution.device),
        threads=execution.threads if execution.device == "cpu" else 0,
        deadline_s=execution.start_deadline_s,
        name="released-engine",
    )


def compare_logprobs(trainer: Many[Many[float]], released: Many[Many[float]], tolerance: float) -> Parity:
    """Compares the two scorings, token by token.

    Raises:
        InfrastructureError: they do not cover the same tokens, or there is nothing to compare.
    """
    lengths = [len(logprobs) for logprobs in trainer]
    if lengths != [len(logprobs) for logprobs in released] or not sum(lengths):
        raise InfrastructureError(
            f"parity needs the same response tokens from both: trainer {sum(lengths)} tokens in {len(trainer)} "
            f"sequences, released {sum(map(len, released))} in {len(released)}"
        )
    differences = [
        np.abs(np.asarray(left, dtype=np.float64) - np.asarray(right, dtype=np.float64))
        for left, right in zip(trainer, released, strict=True)
    ]
    flat = np.concatenate(differences)
    # A NaN on either side is the worst difference there is; argmax finds it first.
    flat = np.where(np.isfinite(flat), flat, np.inf)
    worst = int(flat.argmax())
    sequence = int(np.searchsorted(np.cumsum(lengths), worst, side="right"))
    position = worst - sum(lengths[:sequence])
    return Parity(
        max_abs_dlogp=float(flat.max()),
        p99_abs_dlogp=float(np.quantile(flat, 0.99, method="higher")),
        mean_abs_dlogp=float(flat.mean()),
        tokens=int(flat.size),
        sequences=len(lengths),
        tolerance=tolerance,
        worst_sequence=sequence,
        worst_position=position,
    )


def require_parity(parity: Parity, dtype: str) -> None:
    """Raises Diverged when the released weights are not the trained model."""
    if not parity.within:
        raise Diverged(
            f"not released: log-probs of the trainer and of the released {dtype} weights in vLLM differ by up to "
            f"{parity.max_abs_dlogp:.3g} (99 % of {parity.tokens} tokens by up to {parity.p99_abs_dlogp:.3g}, mean "
            f"{parity.mean_abs_dlogp:.3g}; worst: sequence {parity.worst_sequence}, response token "
            f"{parity.worst_position}); tolerance {parity.tolerance:g} for 99 %, {WORST_TOKEN} times that for each. "
            "Differences near 0.05-0.5 mean other routing or norms in config.json, near 0.9 stale experts; for a "
            "release that is not float32 set release.parity_tolerance to what its dtype allows (docs/release.md)"
        )
