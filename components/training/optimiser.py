"""AdamW on flat float32 buffers, warm-up and cosine schedule, and the router's expert bias update.

One buffer for all gradients makes data parallelism one all-reduce, clipping one norm and the update two fused kernels.
Matrices decay, norms do not. The expert bias is moved by megatron's rule, b += u * sign(mean load - load), instead of
an auxiliary loss (Ling 2.0 report; DeepSeek-V3, arXiv 2412.19437); RL keeps it fixed (Ring-1T report, 2.3.4).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from components.model.shards import Piece
from components.recipe.training import OptimiserConfig
from components.training.stretches import ROW, Share, Stretch, lay_out, own_blocks


def learning_rate(config: OptimiserConfig, step: int, total_steps: int) -> float:
    """The rate of update `step` (from 0): linear warm-up, then constant or cosine to lr * min_lr_fraction."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    progress = min(1.0, (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps))
    floor = config.min_lr_fraction
    return config.lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


class FlatAdamW:
    """AdamW over parameters gathered into flat float32 buffers: decayed matrices, then undecayed vectors.

    float32 parameters become views of the buffers; others keep a float32 master copy there. Parameters of one `kind`
    lie together, so that kinds can be reduced over different ranks, and each of those ranks may step a stretch of them
    (components.training.stretches): it has moments of that alone, and `step` gathers what the others stepped.

    Args:
        kind: over which ranks a parameter's gradient is summed, as a number.
        share: kind -> this rank's share of its parameters; everything by default.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        config: OptimiserConfig,
        total_steps: int,
        kind: Callable[[nn.Parameter], int] = lambda parameter: 0,
        share: Callable[[int], Share] = lambda kind: Share(),
    ) -> None:
        self.config, self.total_steps, self.step_count = config, total_steps, 0
        parameters = list(parameters)
        device = parameters[0].device
        self.stretches = lay_out(parameters, kind, share)
        last = self.stretches[-1]
        self.grad = torch.zeros(last.place.stop, device=device)
        self.master = torch.zeros((last.whole or last.master).stop, device=device)
        self.first = torch.zeros(last.moments.stop, device=device)
        self.second = torch.zeros(last.moments.stop, device=device)
        self._host: dict[str, Tensor] = {}
        self._of = {id(parameter): (s, place) for s in self.stretches for parameter, place in s.parameters}
        for stretch in self.stretches:
            for parameter, place in stretch.parameters:
                self._take(stretch, place, parameter.detach().reshape(-1))
                if parameter.dtype == torch.float32:
                    parameter.data = self.view("master", parameter)
                    parameter.grad = self.view("grad", parameter)
                else:
                    _accumulate(parameter, self.view("grad", parameter))

    def view(self, buffer: str, parameter: Tensor) -> Tensor | None:
        """The part of `grad`, `master`, `first` or `second` that belongs to a parameter, in its shape; None if it has
        none. Where this rank has a stretch only: its place in the flat gradient, on the meta device (`own_blocks`)."""
        if (found := self._of.get(id(parameter))) is None:
            return None
        stretch, place = found
        values = getattr(self, buffer)
        if buffer == "master":
            start = None if stretch.whole is None else stretch.whole.start
        elif buffer == "grad":
            start = stretch.place.start
        else:
            start = stretch.moments.start if stretch.share.count == 1 else None
        if start is None:
            return torch.empty(len(self.grad), device="meta")[place].view(parameter.shape)
        start += place.start - stretch.place.start
        return values[start : start + parameter.numel()].view(parameter.shape)

    def outlined(self, piece: Piece) -> Piece:
        """A piece whose view is a place in the flat gradient, among the ranks that have the same part of it."""
        holders = max(1, piece.holders // self._stretch(piece).share.count)
        return replace(piece, holder=piece.holder % holders, holders=holders)

    def own_blocks(self, buffer: str, piece: Piece) -> Iterator[Piece]:
        """The blocks this rank has of a piece whose view is a place in the flat gradient."""
        stretch = self._stretch(piece)
        part = stretch.master if buffer == "master" else stretch.moments
        return own_blocks(piece, stretch.own, getattr(self, buffer)[part])

    def _stretch(self, piece: Piece) -> Stretch:
        offset = piece.view.storage_offset()
        return next(s for s in self.stretches if s.place.start <= offset < s.place.stop)

    def zero_grad(self) -> None:
        self.grad.zero_()
        for stretch in self.stretches:
            for parameter, _ in stretch.parameters:
                if parameter.grad is None and parameter.dtype == torch.float32:
                    parameter.grad = self.view("grad", parameter)

    @property
    def rate(self) -> float:
        return learning_rate(self.config, self.step_count, self.total_steps)

    @torch.no_grad()
    def step(self, norm: float) -> None:
        """One update from the flat gradient, scaled so that its norm stays below clip_grad_norm; a collective where
        ranks step stretches. norm: of the whole gradient."""
        config, rate = self.config, self.rate
        scale = config.clip_grad_norm / (norm + 1e-6) if norm > config.clip_grad_norm else None
        self.step_count += 1
        for decays in (True, False):
            part = [stretch for stretch in self.stretches if stretch.decays == decays]
            if not part:
                continue
            grads = [self.grad[stretch.own] for stretch in part]
            if scale is not None:
                torch._foreach_mul_(grads, scale)
            torch._fused_adamw_(
                [self.master[stretch.master] for stretch in part],
                grads,
                [self.first[stretch.moments] for stretch in part],
                [self.second[stretch.moments] for stretch in part],
                [],
                [torch.tensor(float(self.step_count), device=self.master.device) for _ in part],
                lr=rate,
                beta1=config.beta1,
                beta2=config.beta2,
                weight_decay=config.weight_decay if decays else 0.0,
                eps=config.eps,
                amsgrad=False,
                maximize=False,
            )
        for stretch in self.stretches:
            if stretch.share.count > 1 and stretch.dtype == torch.float32:
                _gather(self.master[stretch.whole], self.master[stretch.master], stretch.share)
        self.write_back()

    def offload(self) -> None:
        """Frees the gradient buffer; on a GPU weights and moments wait on the host. Views keep their storages."""
        self.grad.untyped_storage().resize_(0)
        if self.master.device.type == "cpu":
            return
        for name in ("master", "first", "second"):
            buffer = getattr(self, name)
            self._host[name] = buffer.cpu()
            buffer.untyped_storage().resize_(0)

    def onload(self) -> None:
        self.grad.untyped_storage().resize_(self.grad.numel() * self.grad.element_size())
        self.grad.zero_()
        for name, kept in self._host.items():
            buffer = getattr(self, name)
            buffer.untyped_storage().resize_(kept.numel() * kept.element_size())
            buffer.copy_(kept)
        self._host.clear()

    def state(self) -> dict[str, Any]:
        """Everything but the buffers, as JSON."""
        return {"step": self.step_count, "total_steps": self.total_steps, "config": self.config.model_dump()}

    @torch.no_grad()
    def write_back(self) -> None:
        """Gives parameters that are not float32 the values of their master copies; a collective where ranks have
        stretches of them."""
        for stretch in self.stretches:
            if stretch.dtype == torch.float32:
                continue
            weights = self.master[stretch.master]
            if stretch.share.count > 1:
                own = weights.to(stretch.dtype)
                weights = own.new_empty(own.numel() * stretch.share.count)
                _gather(weights, own, stretch.share)
            for parameter, place in stretch.parameters:
                start = place.start - stretch.place.start
                parameter.data.copy_(weights[start : start + parameter.numel()].view(parameter.shape))

    def _take(self, stretch: Stretch, place: slice, values: Tensor) -> None:
        """Master copies from a parameter's values [place], as much of them as this rank has."""
        here, there = (stretch.own, stretch.master) if stretch.whole is None else (stretch.place, stretch.whole)
        low, high = max(place.start, here.start), min(place.stop, here.stop)
        if low < high:
            start = there.start - here.start
            self.master[start + low : start + high] = values[low - place.start : high - place.start]


def _gather(whole: Tensor, own: Tensor, share: Share) -> None:
    torch.distributed.all_gather_single(whole, own, group=share.group)


def squares(values: Tensor) -> Tensor:
    """Sum of squares, float64. values: [n rows of ROW] float32, added up by rows: one sum in float32 would be off by
    3e-4 over 1.6M values, and float64 throughout takes eight times as long."""
    return torch.linalg.vector_norm(values.view(-1, ROW), dim=1).double().square().sum()


def _accumulate(parameter: nn.Parameter, total: Tensor) -> None:
    """Each micro-batch's gradient of a parameter that is not float32 goes into `total` at once, in float32."""
    if (earlier := getattr(parameter, "accumulation", None)) is not None:
        earlier.remove()

    def add(finished: Tensor) -> None:
        total.add_(finished.grad)
        finished.grad = None

    parameter.accumulation = parameter.register_post_accumulate_grad_hook(add)


@torch.no_grad()
def update_expert_bias(bias: Tensor, load: Tensor, rate: float) -> None:
    """b += rate * sign(mean load - load), in place. bias, load: [experts]; load in tokens over all ranks."""
    bias.add_(torch.sign(load.mean() - load), alpha=rate)
