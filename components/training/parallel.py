"""What a divided learner does together: forward and backward over micro-batches, log-probs of a divided vocabulary,
reduction of gradients and metrics.

Rules, the same for every layout: all ranks of a replica get the same sequences; the loss is computed on the last
pipeline stage from all of a micro-batch's tokens, equally on its tensor and context parallel ranks, so that a loss may
look at whole responses; one rank of each replica (Layout.speaks) reports. Gradients are sums, since losses hold their
denominators.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Many
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.pipeline_parallel.schedules import forward_backward_pipelining_without_interleaving
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from components.model.builder import LingModel
from components.model.layout import Layout
from components.training.batches import MicroBatch, nothing
from components.training.optimiser import FlatAdamW, squares
from components.training.stretches import Share

# How a parameter's gradient is summed, and over how many ranks it is then the same.
DENSE, SHARED, HEAD, EXPERT = range(4)
# Backends whose reduce-scatter is quicker than an all-reduce. gloo's (torch 2.13) gives the same bits in 9 instead of
# 4 ms for 1.6M values over two processes.
SCATTERING = ("nccl",)

# (micro-batch, output, which of its positions the rows are; None for all) -> the loss, where gradients are wanted.
Work = Callable[[MicroBatch, Tensor, Tensor | None], Tensor | None]


class Ranks:
    """The collectives of one rank.

    Args:
        layout, rank: this rank's place; the process groups of the layout exist once a model was built.
        distributed_optimiser: whether ranks with the same parameters each step a stretch of them.
        rows: the tokens that a rank multiplies at once come to a multiple of it (FP8).
    """

    def __init__(
        self, layout: Layout, rank: int, device: str, distributed_optimiser: bool = False, rows: int = 1
    ) -> None:
        self.layout, self.rank, self.device, self.rows = layout, rank, device, rows
        self.distributed_optimiser = distributed_optimiser
        self.speaks = layout.speaks(rank)

    def kind(self, parameter: Tensor) -> int:
        """How gradients of a parameter add up: see `reduce`. One kind when the model is not divided."""
        if not self.layout.divided:
            return DENSE
        if not getattr(parameter, "allreduce", True):
            return EXPERT
        if getattr(parameter, "reward_head", False):
            return HEAD
        # Norms and routers see only a part of the tokens on each tensor parallel rank (sequence parallelism).
        return SHARED if self.layout.tensor > 1 and getattr(parameter, "sequence_parallel", False) else DENSE

    def share(self, kind: int) -> Share:
        """This rank's share of the parameters of a kind; of a distributed optimiser one of many. The learners are
        connected and, of a divided model, the model exists."""
        if not self.distributed_optimiser or self.layout.world == 1:
            return Share()
        group = self._groups()[kind][0][0]
        return Share(torch.distributed.get_rank(group), torch.distributed.get_world_size(group), group)

    def reduce(self, optimiser: FlatAdamW, loads: Tensor) -> float:
        """Sums the gradient buffer, or what this rank steps of it, and the experts' loads over the ranks, in place.
        Returns the whole gradient's norm.

        Dense and head: over data and context parallel ranks. Shared: over tensor parallel ranks as well. Experts: over
        the ranks that hold the same ones.
        """
        grad = optimiser.grad
        if self.layout.world == 1:
            return math.sqrt(float(squares(grad)))
        groups = self._groups()
        total = torch.zeros((), dtype=torch.float64, device=grad.device)
        for stretch in optimiser.stretches:
            (same, *others), copies = groups[stretch.kind]
            own = grad[stretch.own]
            if stretch.share.count > 1 and torch.distributed.get_backend(same) in SCATTERING:
                torch.distributed.reduce_scatter_single(own, grad[stretch.place], group=same)
            else:
                # Equally long whatever the shares are: gloo's order of a sum depends on where a buffer ends.
                torch.distributed.all_reduce(grad[stretch.used], group=same)
            for group in others:
                torch.distributed.all_reduce(own, group=group)
            total += squares(own) * stretch.share.count / copies
        torch.distributed.all_reduce(total)
        if loads.numel():
            stage = None
            if self.layout.divided:
                stage = parallel_state.get_tensor_and_data_parallel_group(with_context_parallel=True)
            torch.distributed.all_reduce(loads, group=stage)
        return math.sqrt(float(total))

    def _groups(self) -> dict[int, tuple[list[Any], int]]:
        """Kind -> (groups to sum over one after another, first the ranks with the same parameters; on how many ranks of
        a stage the sum is then the same)."""
        layout = self.layout
        if not layout.divided:
            return {DENSE: ([None], layout.world)}
        replicas = parallel_state.get_data_parallel_group(with_context_parallel=True)
        tensor = parallel_state.get_tensor_model_parallel_group()
        experts = parallel_state.get_expert_data_parallel_group()
        stage = layout.world // layout.pipeline
        return {
            DENSE: ([replicas], stage // layout.tensor),
            SHARED: ([replicas, tensor], stage),
            HEAD: ([replicas], stage),
            EXPERT: ([experts], stage // layout.expert),
        }

    def sum(self, values: list[float]) -> list[float]:
        """Adds up over replicas; every rank gives its replica's value, one of each counts."""
        if self.layout.world == 1:
            return values
        buffer = torch.tensor(values if self.speaks else [0.0] * len(values), dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(buffer)
        return buffer.tolist()

    def merge(
        self, sums: Mapping[str, float], maxima: Mapping[str, float]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Sums added and maxima maximised over replicas, in rank order; one without sequences has no keys."""
        if self.layout.world == 1:
            return dict(sums), dict(maxima)
        gathered: list[Any] = [None] * self.layout.world
        torch.distributed.all_gather_object(gathered, (sums, maxima) if self.speaks else ({}, {}))
        total: dict[str, float] = {}
        highest: dict[str, float] = {}
        for rank_sums, rank_maxima in gathered:
            add(total, rank_sums)
            for name, value in rank_maxima.items():
                highest[name] = max(highest.get(name, -math.inf), value)
        return total, highest

    def highest(self, value: float) -> float:
        """The maximum over pipeline stages, which have layers of their own."""
        if self.layout.pipeline == 1:
            return value
        buffer = torch.tensor([value], device=self.device)
        torch.distributed.all_reduce(buffer, op=torch.distributed.ReduceOp.MAX)
        return float(buffer)

    def align(self, batches: list[MicroBatch]) -> list[MicroBatch]:
        """Streams of lengths that divide evenly; as many, and as long, on all ranks that share experts."""
        layout = self.layout
        unit = layout.tensor * layout.context * self.rows
        sizes = [len(batch.tokens) for batch in batches]
        if layout.expert > 1:
            everyone: list[Any] = [None] * layout.world
            torch.distributed.all_gather_object(everyone, sizes)
            count = max(map(len, everyone))
            sizes = [max((each[i] for each in everyone if i < len(each)), default=0) for i in range(count)]
            batches = batches + [nothing(self.device)] * (count - len(batches))
        return [batch.filled(-(-size // unit) * unit) for batch, size in zip(batches, sizes, strict=True)]


def run(
    model: LingModel, batches: Many[MicroBatch], work: Work, train: bool, head: bool = True, mtp: bool = False
) -> None:
    """Forward, and backward if `train`, over aligned micro-batches, one after another or through the pipeline.

    work: called on the last stage; its loss is what is differentiated, as it is.
    head: logits, or hidden states (LingModel.run).
    mtp: the MTP layer runs, on every rank, also where it has no targets.
    """

    def forward(batch: MicroBatch) -> tuple[Tensor, Tensor | None]:
        positions, kept = model.own_positions(batch.positions, len(batch.tokens))
        with_head = head and model.logit_rows is None
        ahead = None
        if mtp:
            ahead = batch.ahead if kept is None else int((kept >= len(batch.positions) - batch.ahead).sum())
        return model.run(batch.tokens, batch.lengths, positions, with_head, batch.padding, batch.experts, ahead), kept

    if model.layout.pipeline == 1:
        for batch in batches:
            loss = work(batch, *forward(batch))
            if train:
                loss.backward()
        return

    def step(remaining, model):
        batch = next(remaining)
        output, kept = forward(batch)

        def finish(output: Tensor, non_loss_data: bool = False) -> Any:
            loss = work(batch, output, kept)
            return None if non_loss_data else (loss, torch.tensor(0, dtype=torch.int), None)

        return output, finish

    if batches:
        forward_backward_pipelining_without_interleaving(
            forward_step_func=step,
            data_iterator=iter(batches),
            model=model,
            num_microbatches=len(batches),
            seq_length=model.layout.tensor * model.layout.context,  # not used: every stream tells its own
            micro_batch_size=1,
            forward_only=not train,
            collect_non_loss_data=not train,
        )


def token_logprobs(model: LingModel, batch: MicroBatch, output: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor]:
    """(log-probs of all of the micro-batch's targets with gradient, entropies without) [n], float32.

    output: logits, or, with `model.logit_rows`, the hidden states, of which so many at a time become logits; these are
    computed again in the backward pass.
    """
    targets = batch.targets if kept is None else batch.targets[kept]
    if model.logit_rows is None:
        logprobs, entropy = _logprobs_of(model, output, targets)
    else:
        parts = [
            checkpoint(_logprobs_of_hidden, model, hidden, chosen, use_reentrant=False, preserve_rng_state=False)
            for hidden, chosen in zip(output.split(model.logit_rows), targets.split(model.logit_rows), strict=True)
        ]
        logprobs, entropy = (torch.cat(columns) for columns in zip(*parts, strict=True))
    return all_rows(model, batch, logprobs, kept), all_rows(model, batch, entropy, kept)


def _logprobs_of_hidden(model: LingModel, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return _logprobs_of(model, model.output_layer(hidden)[0], targets)


def _logprobs_of(model: LingModel, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.float()
    if model.layout.tensor == 1:
        logged = torch.log_softmax(logits, dim=-1)
        with torch.no_grad():
            entropy = -(logged.exp() * logged).sum(-1)
        return logged.gather(1, targets.unsqueeze(1)).squeeze(1), entropy
    first = model.place.tensor * logits.shape[1]
    return _VocabularyLogprobs.apply(logits, targets, first, parallel_state.get_tensor_model_parallel_group())


def all_rows(model: LingModel, batch: MicroBatch, values: Tensor, kept: Tensor | None) -> Tensor:
    """Values [n] of all positions of a micro-batch from those of this context parallel rank."""
    if kept is None:
        return values
    return _AllRows.apply(values, kept, len(batch.positions), parallel_state.get_context_parallel_group())


class _VocabularyLogprobs(Function):
    """log softmax(logits)[target] and its entropy where each tensor parallel rank has some columns of the logits."""

    @staticmethod
    def forward(ctx, logits: Tensor, targets: Tensor, first: int, group) -> tuple[Tensor, Tensor]:
        """logits [n, columns here] float32; first: number of the first column."""
        largest = logits.amax(1)
        torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX, group=group)
        shifted = logits - largest.unsqueeze(1)
        exponentials = shifted.exp()
        here = (targets >= first) & (targets < first + logits.shape[1])
        column = (targets - first).clamp(0, logits.shape[1] - 1)
        chosen = torch.where(here, shifted.gather(1, column.unsqueeze(1)).squeeze(1), 0.0)
        sums = torch.stack([exponentials.sum(1), chosen, (exponentials * shifted).sum(1)])
        torch.distributed.all_reduce(sums, group=group)
        total, chosen, weighted = sums
        ctx.save_for_backward(exponentials.div_(total.unsqueeze(1)), here, column)
        entropy = total.log() - weighted / total
        ctx.mark_non_differentiable(entropy)
        return chosen - total.log(), entropy

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor, _):
        probabilities, here, column = ctx.saved_tensors
        out = probabilities * -grad.unsqueeze(1)
        out.scatter_add_(1, column.unsqueeze(1), torch.where(here, grad, 0.0).unsqueeze(1))
        return out, None, None, None


class _AllRows(Function):
    """Rows that context parallel ranks computed apart, on all of them. What follows is equal on all of them, so the
    gradient of a row needs no sum."""

    @staticmethod
    def forward(ctx, values: Tensor, kept: Tensor, count: int, group) -> Tensor:
        ctx.save_for_backward(kept)
        out = values.new_zeros(count).index_copy(0, kept, values)
        torch.distributed.all_reduce(out, group=group)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        return grad[ctx.saved_tensors[0]], None, None, None


def add(total: dict[str, float], values: Mapping[str, Any]) -> None:
    """Adds numbers or scalar tensors to `total` by name."""
    for name, value in values.items():
        total[name] = total.get(name, 0.0) + (float(value.detach()) if isinstance(value, Tensor) else float(value))
