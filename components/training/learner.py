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
from typing import Any

import numpy as np
import torch
from torch import Tensor

from components.failures import BadInput, Diverged
from components.model.builder import routers
from components.training.batches import MicroBatch, chunks, last_tokens, micro_batch, policy_tokens
from components.training.learner_state import LearnerState
from components.training.optimiser import update_expert_bias
from components.training.packing import micro_batches, pack
from components.training.parallel import add, run, token_logprobs
from components.training.types import PolicyLoss, PolicySequence, Sequence


class Learner(LearnerState):
    """One rank with its steps; arguments as LearnerState."""

    def train_tokens(self, sequences: Many[Sequence], sequence_length: int) -> dict[str, float]:
        """One optimiser step of next-token cross entropy on the masked tokens of all ranks, and, with a weight of
        `configure`, on the tokens after the next.

        Returns loss (mean over the global loss tokens), entropy (mean over them), grad_norm, lr, tokens (all, global),
        loss_tokens, fill (of this rank's rows), seconds; mtp_loss (mean over its own tokens, unweighted) if it counts.
        """
        started = time.perf_counter()
        weight = self.mtp_loss_weight
        batches, fill = self._batches(sequences, sequence_length, mtp=weight > 0)
        ahead = float(sum(batch.ahead for batch in batches))
        local = float(sum(len(batch.targets) for batch in batches)) - ahead
        size = float(sum(len(sequence.tokens) for sequence in sequences))
        loss_tokens, tokens, ahead_tokens = self.ranks.sum([local, size, ahead])
        if loss_tokens == 0:
            raise BadInput("no token of the step counts in the loss", where="loss_mask")
        self.optimiser.zero_grad()
        found = {"loss": 0.0, "entropy": 0.0, "mtp_loss": 0.0}

        def work(batch: MicroBatch, logits: Tensor, kept: Tensor | None) -> Tensor:
            logprobs, entropy = token_logprobs(self.model, batch, logits, kept)
            if not weight:
                loss = -logprobs.sum() / loss_tokens
                add(found, {"loss": loss, "entropy": entropy.sum()})
                return loss
            sizes = [len(logprobs) - batch.ahead, batch.ahead]
            (here, there), (entropy, _) = logprobs.split(sizes), entropy.split(sizes)
            loss, mtp_loss = -here.sum() / loss_tokens, -there.sum() / max(ahead_tokens, 1.0)
            add(found, {"loss": loss, "entropy": entropy.sum(), "mtp_loss": mtp_loss})
            return loss + weight * mtp_loss

        run(self.model, batches, work, train=True, mtp=weight > 0)
        loss_total, entropy_total, mtp_total = self.ranks.sum(list(found.values()))
        rate = self.optimiser.rate
        norm, balance = self._update(loss_total + weight * mtp_total)
        return {
            "loss": loss_total,
            **({"mtp_loss": mtp_total} if weight else {}),
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
        groups = chunks(pairs, lambda pair: len(pair[0]) + len(pair[1]), self.execution.micro_batch_tokens)
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
        groups = chunks(order, lambda index: len(sequences[index]), self.execution.micro_batch_tokens)
        batches = [last_tokens(sequences, [order[i] for i in group], self.device) for group in groups]

        def work(batch: MicroBatch, hidden: Tensor, kept: Tensor | None) -> None:
            scores[batch.documents] = self.reward.rewards(batch, hidden, kept).cpu().numpy()

        with torch.no_grad():
            run(self.reward.model, self.ranks.align(batches), work, train=False, head=False)
        return scores

    # ---- inside

    def _batches(
        self, sequences: Many[Sequence], sequence_length: int | None, mtp: bool = False
    ) -> tuple[list[MicroBatch], float]:
        """Micro-batches over packed rows, and the rows' fill. mtp: with the MTP layer's targets."""
        self._built()
        if not sequences:
            return self.ranks.align([]), 1.0
        lengths = [len(sequence.tokens) for sequence in sequences]
        row_length = sequence_length or max(*lengths, self.execution.micro_batch_tokens)
        if row_length > self.spec.max_position_embeddings and max(lengths) > self.spec.max_position_embeddings:
            raise BadInput(
                f"a sequence has {max(lengths)} tokens, the model's context is {self.spec.max_position_embeddings}",
                where="model.max_position",
            )
        packing = pack(lengths, row_length)
        groups = micro_batches(packing, row_length, self.execution.micro_batch_tokens)
        return self.ranks.align([micro_batch(sequences, group, self.device, mtp) for group in groups]), packing.fill

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
