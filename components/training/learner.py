"""Learner: one data-parallel rank of training, a plain class that a Ray actor, a process or a test can hold.

Every rank holds the whole model and gets its own share of the sequences. One optimiser step is: forward and backward
over micro-batches, one all-reduce (SUM) of the flat gradient together with the expert loads, a check that everything is
finite, clipping, AdamW, the router bias update. Losses arrive with their global denominators inside, so sums over
micro-batches and ranks are exact and the same sequences split otherwise give the same step. All ranks reach the same
collectives in the same order, also a rank whose share is empty.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence as Many
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from components.failures import BadInput, Diverged, InfrastructureError
from components.model.architecture import check_architecture
from components.model.builder import build_model, expert_biases, initialise, routers
from components.model.hf import hf_state, load_hf_state, read_hf_directory, write_hf_directory
from components.model.spec import LingSpec, spec_for
from components.model.tokenizer import load_tokenizer
from components.recipe.execution import ExecutionConfig
from components.recipe.model import ModelConfig
from components.recipe.training import OptimiserConfig
from components.training import rng
from components.training.optimiser import FlatAdamW, update_expert_bias
from components.training.packing import micro_batches, pack
from components.training.reward_head import RewardModel
from components.training.types import PolicyLoss, PolicySequence, PolicyTokens, Sequence

# Tokens of one forward and backward pass: large enough to amortise Python, small enough for the cache of one core.
MICRO_BATCH_TOKENS = 2048
COLLECTIVE_TIMEOUT_S = 600.0
RESUME_FILE = "learner.pt"


@dataclass(frozen=True)
class MicroBatch:
    """A stream of documents.

    documents: indices into the sequences given. tokens: [tokens]. lengths: per document.
    positions: stream positions whose next token counts, documents in order. targets: [n] those next tokens.
    counts: targets of each document.
    """

    documents: list[int]
    tokens: Tensor
    lengths: list[int]
    positions: Tensor
    targets: Tensor
    counts: list[int]


class Learner:
    """One rank.

    Args:
        rank, world: place among the data-parallel ranks.
        model: the recipe's model section.
        execution: threads, device, layout.
        seed: of the weights `initialise` draws and of torch's generator.

    Raises:
        BadInput: a layout other than data parallel is asked for.
    """

    def __init__(self, rank: int, world: int, model: ModelConfig, execution: ExecutionConfig, seed: int) -> None:
        for name in ("tensor_parallel", "expert_parallel", "pipeline_parallel"):
            if getattr(execution, name) != 1:
                raise BadInput(
                    f"{name} is {getattr(execution, name)}, learners here are data parallel",
                    where=f"execution.{name}",
                    remedy="Set it to 1; model-parallel layouts are planned by `ringflow plan` only",
                )
        self.rank, self.world, self.execution, self.seed = rank, world, execution, seed
        self.device = "cuda" if execution.device == "cuda" else "cpu"
        if self.device == "cpu":
            torch.set_num_threads(execution.threads)
        self.spec: LingSpec = spec_for(model)
        torch.manual_seed(seed)
        self.model = None
        self.optimiser: FlatAdamW | None = None
        self.expert_bias_rate = 0.0
        self.reward: RewardModel | None = None
        self._trains_reward = False

    # ---- connection and weights

    def connect(self, master_address: str, port: int) -> None:
        """Joins the other ranks over gloo (CPU) or NCCL (CUDA). Rank 0 must be reachable at the address.

        Raises:
            InfrastructureError: the ranks did not find each other in time.
        """
        if self.world == 1 or torch.distributed.is_initialized():
            return
        try:
            torch.distributed.init_process_group(
                "gloo" if self.device == "cpu" else "nccl",
                init_method=f"tcp://{master_address}:{port}",
                rank=self.rank,
                world_size=self.world,
                timeout=timedelta(seconds=COLLECTIVE_TIMEOUT_S),
            )
        except (RuntimeError, torch.distributed.DistError) as error:
            raise InfrastructureError(f"learner {self.rank} of {self.world} cannot connect: {error}") from error

    def initialise(self, seed: int | None = None) -> None:
        """Draws fresh weights; the same on every rank. Forgets optimiser and reward head."""
        self._reset()
        initialise(self.model, self.spec, self.seed if seed is None else seed)

    def load_hf(self, directory: str | Path) -> None:
        """Loads a Hugging Face directory. Forgets optimiser and reward head.

        Raises:
            BadInput: another architecture (names the fields), or tensors missing or of another shape.
        """
        spec, tensors = read_hf_directory(Path(directory))
        check_architecture(spec, self.spec, str(directory))
        self._reset()
        load_hf_state(self.model, self.spec, tensors, str(directory))

    def load_reward(self, directory: str | Path) -> None:
        """Loads a reward model beside the policy, for `score`."""
        self.reward = RewardModel.load(Path(directory), self.device)
        self._trains_reward = False

    def weights(self) -> dict[str, np.ndarray]:
        """Every weight under its HF name, float32 copies."""
        return {name: tensor.float().cpu().numpy().copy() for name, tensor in hf_state(self._built(), self.spec)}

    def write_hf(self, directory: str | Path, tokenizer: str, dtype: str = "float32") -> None:
        """Writes a Hugging Face directory. tokenizer: `nano` or a directory."""
        tensors = hf_state(self._built(), self.spec)
        write_hf_directory(Path(directory), self.spec, tensors, load_tokenizer(tokenizer), dtype)

    # ---- training

    def configure(
        self, optimiser: OptimiserConfig, total_steps: int, expert_bias_rate: float, reward_head: bool = False
    ) -> None:
        """Starts a new optimisation from the present weights: moments and step count at zero.

        expert_bias_rate: 0 keeps the router bias fixed, as RL does.
        reward_head: train a Bradley-Terry reward model: adds a scalar head, drawn at zero.
        """
        model = self._built()
        self.expert_bias_rate = expert_bias_rate
        self._trains_reward = reward_head
        if reward_head:
            self.reward = RewardModel(model, self.spec)
            # The LM head takes no part: weight decay must not touch it.
            body = [p for name, p in model.named_parameters() if not name.startswith("output_layer")]
            self.optimiser = FlatAdamW([*body, self.reward.head], optimiser, total_steps)
        else:
            self.optimiser = FlatAdamW(model.parameters(), optimiser, total_steps)
        for router in routers(model):
            router.local_tokens_per_expert.zero_()

    def train_tokens(self, sequences: Many[Sequence], sequence_length: int) -> dict[str, float]:
        """One optimiser step of next-token cross entropy on the masked tokens of all ranks.

        Returns loss (mean over the global loss tokens), entropy (mean over them), grad_norm, lr, tokens (all, global),
        loss_tokens, fill (of this rank's rows), seconds.
        """
        started = time.perf_counter()
        batches, fill = self._batches(sequences, sequence_length)
        local = float(sum(len(batch.targets) for batch in batches))
        loss_tokens, tokens = self._sum([local, float(sum(len(sequence.tokens) for sequence in sequences))])
        if loss_tokens == 0:
            raise BadInput("no token of the step counts in the loss", where="loss_mask")
        self.optimiser.zero_grad()
        loss_sum = entropy_sum = 0.0
        for batch in batches:
            logprobs, entropy = self._forward(batch)
            loss = -logprobs.sum() / loss_tokens
            loss.backward()
            loss_sum += float(loss.detach())
            entropy_sum += float(entropy.sum())
        loss_total, entropy_total = self._sum([loss_sum, entropy_sum])
        rate = self.optimiser.rate
        norm, balance = self._update(loss_total)
        return {
            "loss": loss_total,
            "entropy": entropy_total / loss_tokens,
            "grad_norm": norm,
            "lr": rate,
            "tokens": tokens,
            "loss_tokens": loss_tokens,
            "fill": fill,
            "expert_load_max": balance,
            "seconds": time.perf_counter() - started,
        }

    def policy_step(
        self, sequences: Many[PolicySequence], loss: PolicyLoss, sequence_length: int | None = None
    ) -> dict[str, float]:
        """One optimiser step of a policy loss over the sequences of all ranks.

        The gradient is the SUM over ranks: `weights` of the sequences hold every denominator. Returns the loss's own
        `sum/<name>` and `max/<name>` over micro-batches and ranks; loss, entropy (mean), grad_norm, lr, loss_tokens,
        fill, expert_load_max, seconds.
        """
        started = time.perf_counter()
        batches, fill = self._batches(sequences, sequence_length)
        self.optimiser.zero_grad()
        sums: dict[str, float] = {"loss": 0.0, "entropy": 0.0, "loss_tokens": 0.0}
        maxima: dict[str, float] = {}
        for batch in batches:
            logprobs, entropy = self._forward(batch)
            result = loss(_policy_tokens([sequences[i] for i in batch.documents], batch, logprobs, entropy))
            result.loss.backward()
            _add(sums, {"loss": result.loss, "entropy": entropy.sum(), "loss_tokens": len(batch.targets)})
            _add(sums, {f"sum/{name}": value for name, value in result.sums.items()})
            for name, value in result.maxima.items():
                maxima[f"max/{name}"] = max(maxima.get(f"max/{name}", -math.inf), float(value.detach()))
        sums, maxima = self._merge(sums, maxima)
        rate = self.optimiser.rate
        norm, balance = self._update(sums["loss"])
        return {
            **sums,
            **maxima,
            "entropy": sums["entropy"] / max(sums["loss_tokens"], 1.0),
            "grad_norm": norm,
            "lr": rate,
            "fill": fill,
            "expert_load_max": balance,
            "seconds": time.perf_counter() - started,
        }

    @torch.no_grad()
    def logprobs(self, sequences: Many[Sequence]) -> list[tuple[np.ndarray, np.ndarray]]:
        """(log-probs, entropies) of the masked tokens of each sequence, in order, float32. No collective."""
        results: list[Any] = [None] * len(sequences)
        for batch in self._batches(sequences, None)[0]:
            logprobs, entropy = self._forward(batch)
            for document, values, entropies in zip(
                batch.documents, logprobs.split(batch.counts), entropy.split(batch.counts), strict=True
            ):
                results[document] = (values.cpu().numpy().copy(), entropies.cpu().numpy().copy())
        return results

    # ---- reward model

    def train_pairs(self, pairs: Many[tuple[np.ndarray, np.ndarray]], pairs_total: int) -> dict[str, float]:
        """One Bradley-Terry step: (chosen tokens, rejected tokens) of this rank; pairs_total over all ranks."""
        if not self._trains_reward:
            raise BadInput("the learner was not configured with a reward head", where="Learner.configure")
        started = time.perf_counter()
        self.optimiser.zero_grad()
        sums = {"loss": 0.0, "correct": 0.0, "margin": 0.0}
        for chunk in _chunks(pairs, lambda pair: len(pair[0]) + len(pair[1]), MICRO_BATCH_TOKENS):
            scores = self.reward.forward([tokens for pair in chunk for tokens in pair]).view(-1, 2)
            margin = scores[:, 0] - scores[:, 1]
            loss = -torch.nn.functional.logsigmoid(margin).sum() / pairs_total
            loss.backward()
            _add(sums, {"loss": loss, "correct": (margin > 0).sum(), "margin": margin.sum()})
        sums, _ = self._merge(sums, {})
        rate = self.optimiser.rate
        norm, _ = self._update(sums["loss"])
        return {
            "loss": sums["loss"],
            "accuracy": sums["correct"] / pairs_total,
            "margin": sums["margin"] / pairs_total,
            "grad_norm": norm,
            "lr": rate,
            "seconds": time.perf_counter() - started,
        }

    def score(self, sequences: Many[np.ndarray]) -> np.ndarray:
        """Rewards [sequences] of whole token sequences (prompt plus response with EOS). No collective."""
        if self.reward is None:
            raise BadInput("no reward model is loaded", where="Learner.load_reward")
        return self.reward.score(sequences, MICRO_BATCH_TOKENS)

    def write_reward(self, directory: str | Path, tokenizer: str) -> None:
        """Writes model/ (Hugging Face) and head.safetensors."""
        self.reward.save(Path(directory), load_tokenizer(tokenizer))

    # ---- resume

    def save_resume(self, directory: str | Path) -> None:
        """Everything of the training state that ranks share, into one file: one of them saves. Random states are each
        rank's own (`rng_state`)."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        state = {
            "optimiser": self.optimiser.state(),
            "expert_bias": [bias.clone() for bias in expert_biases(self.model)],
            "expert_bias_rate": self.expert_bias_rate,
            "trains_reward": self._trains_reward,
            "lm_head": self.model.output_layer.weight.detach().clone(),
            "spec": self.spec.model_dump_json(),
        }
        torch.save(state, directory / RESUME_FILE)

    def load_resume(self, directory: str | Path) -> None:
        """Restores `save_resume`; the next step is bitwise the one that would have followed.

        Raises:
            BadInput: the state is of another architecture.
        """
        path = Path(directory) / RESUME_FILE
        state = torch.load(path, map_location=self.device, weights_only=True)
        saved = LingSpec.model_validate_json(state["spec"])
        check_architecture(saved, self.spec, str(path))
        if self.model is None:
            self._reset()
        optimiser = state["optimiser"]
        self.configure(
            OptimiserConfig.model_validate(optimiser["config"]),
            optimiser["total_steps"],
            state["expert_bias_rate"],
            state["trains_reward"],
        )
        self.optimiser.load(optimiser)
        with torch.no_grad():
            for bias, value in zip(expert_biases(self.model), state["expert_bias"], strict=True):
                bias.copy_(value)
            self.model.output_layer.weight.copy_(state["lm_head"])

    def rng_state(self) -> dict[str, np.ndarray]:
        """This process's random states (components.training.rng)."""
        return rng.capture()

    def set_rng_state(self, state: dict[str, np.ndarray]) -> None:
        rng.restore(state)

    # ---- inside

    def _reset(self) -> None:
        self.optimiser, self._trains_reward, self.reward = None, False, None
        if self.model is None:
            self.model = build_model(self.spec, self.device)
        for parameter in self.model.parameters():
            parameter.grad = None
        for bias in expert_biases(self.model):
            bias.zero_()

    def _built(self):
        if self.model is None:
            raise BadInput("the learner has no weights", remedy="Call initialise or load_hf first")
        return self.model

    def _batches(self, sequences: Many[Sequence], sequence_length: int | None) -> tuple[list[MicroBatch], float]:
        """Micro-batches over packed rows, and the rows' fill."""
        self._built()
        if not sequences:
            return [], 1.0
        lengths = [len(sequence.tokens) for sequence in sequences]
        row_length = sequence_length or max(*lengths, MICRO_BATCH_TOKENS)
        if row_length > self.spec.max_position_embeddings and max(lengths) > self.spec.max_position_embeddings:
            raise BadInput(
                f"a sequence has {max(lengths)} tokens, the model's context is {self.spec.max_position_embeddings}",
                where="model.max_position",
            )
        packing = pack(lengths, row_length)
        groups = micro_batches(packing, row_length, MICRO_BATCH_TOKENS)
        return [_micro_batch(sequences, group, self.device) for group in groups], packing.fill

    def _forward(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """(log-probs of the targets with gradient, entropies without) [n], float32."""
        logits = self.model.stream_logits(batch.tokens, batch.lengths, batch.positions)
        logged = torch.log_softmax(logits, dim=-1)
        with torch.no_grad():
            entropy = -(logged.exp() * logged).sum(-1)
        return logged.gather(1, batch.targets.unsqueeze(1)).squeeze(1), entropy

    def _update(self, loss: float) -> tuple[float, float]:
        """Reduces the gradient and steps. Returns (gradient norm before clipping, highest expert load over the mean).

        Raises:
            Diverged: loss or gradient is not finite; no weight was changed.
        """
        grad = self.optimiser.gather_grad()
        counts = torch.stack([router.local_tokens_per_expert for router in routers(self.model)])
        if self.world > 1:
            torch.distributed.all_reduce(grad)
            torch.distributed.all_reduce(counts)
        norm = float(torch.linalg.vector_norm(grad))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            update = self.optimiser.step_count
            raise Diverged(f"update {update}: loss {loss:g}, gradient norm {norm:g}; the weights were not changed")
        self.optimiser.step(norm)
        for router, load in zip(routers(self.model), counts, strict=True):
            if self.expert_bias_rate:
                update_expert_bias(router.expert_bias, load, self.expert_bias_rate)
            router.local_tokens_per_expert.zero_()
        return norm, float((counts.amax(1) / counts.mean(1).clamp(min=1e-9)).max())

    def _sum(self, values: list[float]) -> list[float]:
        if self.world == 1:
            return values
        buffer = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(buffer)
        return buffer.tolist()

    def _merge(self, sums: dict[str, float], maxima: dict[str, float]) -> tuple[dict[str, float], dict[str, float]]:
        """Sums added and maxima maximised over ranks, in rank order; a rank without sequences has no keys."""
        if self.world == 1:
            return sums, maxima
        gathered: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(gathered, (sums, maxima))
        total: dict[str, float] = {}
        highest: dict[str, float] = {}
        for rank_sums, rank_maxima in gathered:
            _add(total, rank_sums)
            for name, value in rank_maxima.items():
                highest[name] = max(highest.get(name, -math.inf), value)
        return total, highest


def _micro_batch(sequences: Many[Sequence], documents: list[int], device: str) -> MicroBatch:
    chosen = [sequences[index] for index in documents]
    tokens = np.concatenate([np.asarray(sequence.tokens, dtype=np.int64) for sequence in chosen])
    mask = np.concatenate([np.asarray(sequence.loss_mask, dtype=bool) for sequence in chosen])
    if any(len(sequence.loss_mask) and sequence.loss_mask[0] for sequence in chosen):
        raise BadInput("the first token of a document has nothing before it to be predicted from", where="loss_mask[0]")
    targets = np.flatnonzero(mask)
    return MicroBatch(
        documents=documents,
        tokens=torch.as_tensor(tokens, device=device),
        lengths=[len(sequence.tokens) for sequence in chosen],
        positions=torch.as_tensor(targets - 1, device=device),
        targets=torch.as_tensor(tokens[targets], device=device),
        counts=[int(np.count_nonzero(sequence.loss_mask)) for sequence in chosen],
    )


def _policy_tokens(
    sequences: Many[PolicySequence], batch: MicroBatch, logprobs: Tensor, entropy: Tensor
) -> PolicyTokens:
    def flat(name: str) -> Tensor:
        values = np.concatenate([np.asarray(getattr(sequence, name), dtype=np.float32) for sequence in sequences])
        if len(values) != len(logprobs):
            raise BadInput(f"{name} has {len(values)} values for {len(logprobs)} response tokens", where=name)
        return torch.as_tensor(values, device=logprobs.device)

    with_reference = sequences[0].reference_logprobs is not None
    return PolicyTokens(
        logprobs=logprobs,
        old_logprobs=flat("old_logprobs"),
        behaviour_logprobs=flat("behaviour_logprobs"),
        reference_logprobs=flat("reference_logprobs") if with_reference else None,
        advantages=flat("advantages"),
        weights=flat("weights"),
        entropy=entropy,
        response=torch.repeat_interleave(
            torch.arange(len(sequences), device=logprobs.device), torch.tensor(batch.counts, device=logprobs.device)
        ),
    )


def _add(total: dict[str, float], values: Any) -> None:
    for name, value in values.items():
        total[name] = total.get(name, 0.0) + (float(value.detach()) if isinstance(value, Tensor) else float(value))


def _chunks(items: Many[Any], size, limit: int):
    chunk: list[Any] = []
    used = 0
    for item in items:
        if chunk and used + size(item) > limit:
            yield chunk
            chunk, used = [], 0
        chunk.append(item)
        used += size(item)
    if chunk:
        yield chunk
