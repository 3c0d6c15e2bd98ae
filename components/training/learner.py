"""Learner: one rank of training, a plain class that a Ray actor, a process or a test can hold.

A rank gets its replica's share of the sequences and holds its part of the model (components.model.layout); with data
parallelism alone that is the whole. One optimiser step is: forward and backward over micro-batches, sums of gradients
and expert loads over the ranks, a check that everything is finite, clipping, AdamW, the router bias update. Losses
arrive with their global denominators inside, so sums over micro-batches and ranks are exact and the same sequences
split otherwise give the same step. All ranks reach the same collectives in the same order, also one whose share is
empty.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence as Many
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from components.cluster.memory import resident_bytes
from components.failures import BadInput, Diverged, InfrastructureError
from components.model.architecture import check_architecture
from components.model.builder import build_model, expert_biases, initialise, routers
from components.model.hf import hf_state, load_hf_state, read_hf_directory, write_divided, write_hf_directory
from components.model.layout import Layout
from components.model.shards import owned, pieces
from components.model.spec import LingSpec, spec_for
from components.model.tokenizer import load_tokenizer
from components.model.wire import ShardLayout, pack_pieces
from components.recipe.execution import ExecutionConfig
from components.recipe.model import ModelConfig
from components.recipe.training import OptimiserConfig
from components.training import checkpoint, rng
from components.training.batches import MicroBatch, chunks, last_tokens, micro_batch, policy_tokens
from components.training.device_transfer import open_sender
from components.training.optimiser import FlatAdamW, update_expert_bias
from components.training.packing import micro_batches, pack
from components.training.parallel import Ranks, add, run, token_logprobs
from components.training.reward_head import RewardModel
from components.training.types import PolicyLoss, PolicySequence, Sequence

# Tokens of one forward and backward pass: large enough to amortise Python, small enough for the cache of one core.
MICRO_BATCH_TOKENS = 2048
COLLECTIVE_TIMEOUT_S = 600.0


class Learner:
    """One rank.

    Args:
        rank, world: its number, and how many there are.
        model: the recipe's model section.
        execution: threads, device, and how the model is divided over the ranks.
        seed: of the weights `initialise` draws and of torch's generator.

    Raises:
        BadInput: the model cannot be divided so.
    """

    def __init__(self, rank: int, world: int, model: ModelConfig, execution: ExecutionConfig, seed: int) -> None:
        self.rank, self.execution, self.seed = rank, execution, seed
        self.layout = layout = replace(Layout.of(execution), world=world)
        self.device = "cuda" if execution.device == "cuda" else "cpu"
        if self.device == "cpu":
            torch.set_num_threads(execution.threads)
        self.spec: LingSpec = spec_for(model)
        layout.check(self.spec)
        self.ranks = Ranks(layout, rank, self.device)
        torch.manual_seed(seed)
        self.model = None
        self.optimiser: FlatAdamW | None = None
        self.expert_bias_rate = 0.0
        self.reward: RewardModel | None = None
        self._trains_reward = False
        self._buffer: np.ndarray | None = None
        self._sender: Any = None

    # ---- connection and weights

    def connect(self, master_address: str, port: int) -> None:
        """Joins the other ranks over gloo (CPU) or NCCL (CUDA). Rank 0 must be reachable at the address.

        Raises:
            InfrastructureError: the ranks did not find each other in time.
        """
        if self.layout.world == 1 or torch.distributed.is_initialized():
            return
        try:
            torch.distributed.init_process_group(
                "gloo" if self.device == "cpu" else "nccl",
                init_method=f"tcp://{master_address}:{port}",
                rank=self.rank,
                world_size=self.layout.world,
                timeout=timedelta(seconds=COLLECTIVE_TIMEOUT_S),
            )
        except (RuntimeError, torch.distributed.DistError) as error:
            raise InfrastructureError(f"learner {self.rank} of {self.layout.world} cannot connect: {error}") from error

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
        self.reward = RewardModel.load(Path(directory), self.device, self.layout)
        self._trains_reward = False

    def weights(self) -> dict[str, np.ndarray]:
        """Every weight of an undivided model under its HF name, float32 copies."""
        return {name: tensor.float().cpu().numpy().copy() for name, tensor in hf_state(self._built(), self.spec)}

    def shard(self) -> tuple[ShardLayout, np.ndarray]:
        """(layout, buffer) of the weights this rank sends: over all ranks every block once. No collective.

        The buffer is written again by the next call.
        """
        layout, self._buffer = pack_pieces(owned(pieces(self._built(), self.spec)), self._buffer)
        return layout, self._buffer

    def send(self, address: str, port: int, engine_workers: int, client: Any) -> None:
        """Sends the weights to engines on GPUs (components.training.device_transfer); a collective of all learners.

        address, port: for the first call, where the sender and the engines meet.
        """
        if self._sender is None:
            self._sender = open_sender(self._built(), self.rank, address, port, engine_workers, client)
        self._sender.send_weights()

    def write_hf(self, directory: str | Path, tokenizer: str, dtype: str = "float32") -> None:
        """Writes a Hugging Face directory: one rank of an undivided model, all ranks of a divided one together.

        tokenizer: `nano` or a directory.
        """
        model, directory = self._built(), Path(directory)
        if self.layout.divided:
            write_divided(directory, model, self.spec, load_tokenizer(tokenizer), dtype)
        else:
            tensors = hf_state(model, self.spec)
            write_hf_directory(directory, self.spec, tensors, load_tokenizer(tokenizer), dtype)

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
            trained = [p for name, p in model.named_parameters() if not name.startswith("output_layer")]
            trained += [self.reward.head] if model.post_process else []
        else:
            trained = list(model.parameters())
        self.optimiser = FlatAdamW(trained, optimiser, total_steps, self.ranks.kind)
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
        loss_tokens, tokens = self.ranks.sum([local, float(sum(len(sequence.tokens) for sequence in sequences))])
        if loss_tokens == 0:
            raise BadInput("no token of the step counts in the loss", where="loss_mask")
        self.optimiser.zero_grad()
        found = {"loss": 0.0, "entropy": 0.0}

        def work(batch: MicroBatch, logits: Tensor, kept: Tensor | None) -> Tensor:
            logprobs, entropy = token_logprobs(self.model, batch, logits, kept)
            loss = -logprobs.sum() / loss_tokens
            add(found, {"loss": loss, "entropy": entropy.sum()})
            return loss

        run(self.model, batches, work, train=True)
        loss_total, entropy_total = self.ranks.sum([found["loss"], found["entropy"]])
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

        def work(batch: MicroBatch, logits: Tensor, kept: Tensor | None) -> Tensor:
            logprobs, entropy = token_logprobs(self.model, batch, logits, kept)
            if not batch.documents:
                return logprobs.sum()  # nothing but filling: the backward pass meets its peers' with zeros
            result = loss(policy_tokens([sequences[i] for i in batch.documents], batch, logprobs, entropy))
            add(sums, {"loss": result.loss, "entropy": entropy.sum(), "loss_tokens": len(batch.targets)})
            add(sums, {f"sum/{name}": value for name, value in result.sums.items()})
            for name, value in result.maxima.items():
                maxima[f"max/{name}"] = max(maxima.get(f"max/{name}", -math.inf), float(value.detach()))
            return result.loss

        run(self.model, batches, work, train=True)
        sums, maxima = self.ranks.merge(sums, maxima)
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
        """(log-probs, entropies) of the masked tokens of each sequence, in order, float32.

        A collective of a divided model; only ranks that speak (Layout.speaks) have the values then, others None.
        """
        results: list[Any] = [None] * len(sequences)

        def work(batch: MicroBatch, logits: Tensor, kept: Tensor | None) -> None:
            logprobs, entropy = token_logprobs(self.model, batch, logits, kept)
            for document, values, entropies in zip(
                batch.documents, logprobs.split(batch.counts), entropy.split(batch.counts), strict=True
            ):
                results[document] = (values.cpu().numpy().copy(), entropies.cpu().numpy().copy())

        run(self.model, self._batches(sequences, None)[0], work, train=False)
        return results

    # ---- reward model

    def train_pairs(self, pairs: Many[tuple[np.ndarray, np.ndarray]], pairs_total: int) -> dict[str, float]:
        """One Bradley-Terry step: (chosen tokens, rejected tokens) of this replica; pairs_total over all replicas."""
        if not self._trains_reward:
            raise BadInput("the learner was not configured with a reward head", where="Learner.configure")
        started = time.perf_counter()
        self.optimiser.zero_grad()
        sums = {"loss": 0.0, "correct": 0.0, "margin": 0.0}
        sequences = [tokens for pair in pairs for tokens in pair]
        groups = chunks(pairs, lambda pair: len(pair[0]) + len(pair[1]), MICRO_BATCH_TOKENS)
        batches = [last_tokens(sequences, [2 * i + j for i in group for j in (0, 1)], self.device) for group in groups]

        def work(batch: MicroBatch, hidden: Tensor, kept: Tensor | None) -> Tensor:
            scores = self.reward.rewards(batch, hidden, kept).view(-1, 2)
            margin = scores[:, 0] - scores[:, 1]
            loss = -torch.nn.functional.logsigmoid(margin).sum() / pairs_total
            add(sums, {"loss": loss, "correct": (margin > 0).sum(), "margin": margin.sum()})
            return loss

        run(self.reward.model, self.ranks.align(batches), work, train=True, head=False)
        sums, _ = self.ranks.merge(sums, {})
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
        """Rewards [sequences], float32, of whole token sequences (prompt plus response with EOS).

        A collective of a divided model; only ranks that speak (Layout.speaks) have the values then.
        """
        if self.reward is None:
            raise BadInput("no reward model is loaded", where="Learner.load_reward")
        scores = np.zeros(len(sequences), dtype=np.float32)
        # Longest first: documents of similar length share a bucket of the attention.
        order = sorted(range(len(sequences)), key=lambda index: (-len(sequences[index]), index))
        groups = chunks(order, lambda index: len(sequences[index]), MICRO_BATCH_TOKENS)
        batches = [last_tokens(sequences, [order[i] for i in group], self.device) for group in groups]

        def work(batch: MicroBatch, hidden: Tensor, kept: Tensor | None) -> None:
            scores[batch.documents] = self.reward.rewards(batch, hidden, kept).cpu().numpy()

        with torch.no_grad():
            run(self.reward.model, self.ranks.align(batches), work, train=False, head=False)
        return scores

    def write_reward(self, directory: str | Path, tokenizer: str) -> None:
        """Writes model/ (Hugging Face) and head.safetensors; all ranks of a divided model together."""
        self.reward.save(Path(directory), load_tokenizer(tokenizer))

    # ---- memory

    def offload(self) -> int:
        """Gives back what the next step writes anew: gradients, and the buffer weights were sent from; on a GPU also
        moves weights and moments to the host. Returns the bytes this process (on a GPU: its device) has less."""
        before = self._memory()
        self._buffer = None
        if self.optimiser is not None:
            self.optimiser.offload()
        return max(before - self._memory(), 0)

    def onload(self) -> None:
        """Takes back what `offload` moved."""
        if self.optimiser is not None:
            self.optimiser.onload()

    def _memory(self) -> int:
        return torch.cuda.memory_allocated() if self.device == "cuda" else resident_bytes()

    # ---- resume

    def save_resume(self, directory: str | Path) -> None:
        """This rank's share of everything the next step depends on, into a directory that all ranks write to. Random
        states are each rank's own (`rng_state`)."""
        state = {
            "optimiser": self.optimiser.state(),
            "expert_bias_rate": self.expert_bias_rate,
            "trains_reward": self._trains_reward,
            "spec": self.spec.model_dump_json(),
        }
        checkpoint.save(Path(directory), self.rank, self.model, self.optimiser, self._trained_head(), state)

    def load_resume(self, directory: str | Path) -> None:
        """Restores `save_resume` of all ranks, also of another layout; under the same one the next step is bitwise the
        one that would have followed.

        Raises:
            BadInput: the state is of another architecture, incomplete, or of an older ringflow.
        """
        state = checkpoint.read_state(Path(directory))
        check_architecture(LingSpec.model_validate_json(state["spec"]), self.spec, str(directory))
        if self.model is None:
            self._reset()
        optimiser = state["optimiser"]
        self.configure(
            OptimiserConfig.model_validate(optimiser["config"]),
            optimiser["total_steps"],
            state["expert_bias_rate"],
            state["trains_reward"],
        )
        self.optimiser.step_count = optimiser["step"]
        checkpoint.load(Path(directory), self.model, self.optimiser, self._trained_head())

    def rng_state(self) -> dict[str, np.ndarray]:
        """This process's random states (components.training.rng)."""
        return rng.capture()

    def set_rng_state(self, state: dict[str, np.ndarray]) -> None:
        rng.restore(state)

    def _trained_head(self) -> Tensor | None:
        return self.reward.head if self._trains_reward else None

    # ---- inside

    def _reset(self) -> None:
        self.optimiser, self._trains_reward, self.reward = None, False, None
        if self.model is None:
            self.model = build_model(self.spec, self.device, layout=self.layout)
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
            return self.ranks.align([]), 1.0
        lengths = [len(sequence.tokens) for sequence in sequences]
        row_length = sequence_length or max(*lengths, MICRO_BATCH_TOKENS)
        if row_length > self.spec.max_position_embeddings and max(lengths) > self.spec.max_position_embeddings:
            raise BadInput(
                f"a sequence has {max(lengths)} tokens, the model's context is {self.spec.max_position_embeddings}",
                where="model.max_position",
            )
        packing = pack(lengths, row_length)
        groups = micro_batches(packing, row_length, MICRO_BATCH_TOKENS)
        return self.ranks.align([micro_batch(sequences, group, self.device) for group in groups]), packing.fill

    def _update(self, loss: float) -> tuple[float, float]:
        """Reduces the gradient and steps. Returns (gradient norm before clipping, highest expert load over the mean).

        Raises:
            Diverged: loss or gradient is not finite; no weight was changed.
        """
        loads = [router.local_tokens_per_expert for router in routers(self.model)]
        counts = torch.stack(loads) if loads else torch.zeros(0, 1)
        norm = self.ranks.reduce(self.optimiser, counts)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            update = self.optimiser.step_count
            raise Diverged(f"update {update}: loss {loss:g}, gradient norm {norm:g}; the weights were not changed")
        self.optimiser.step(norm)
        for router, load in zip(routers(self.model), counts, strict=True):
            if self.expert_bias_rate:
                update_expert_bias(router.expert_bias, load, self.expert_bias_rate)
            router.local_tokens_per_expert.zero_()
        balance = float((counts.amax(1) / counts.mean(1).clamp(min=1e-9)).max()) if loads else 0.0
        return norm, self.ranks.highest(balance)
