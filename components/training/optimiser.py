"""AdamW on flat float32 buffers, warm-up and cosine schedule, and the router's expert bias update.

One buffer for all gradients makes data parallelism one all-reduce, clipping one norm and the update two fused kernels.
Matrices decay, norms do not. The expert bias is moved by megatron's rule, b += u * sign(mean load - load), instead of
an auxiliary loss (Ling 2.0 report; DeepSeek-V3, arXiv 2412.19437); RL keeps it fixed (Ring-1T report, 2.3.4).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from components.recipe.training import OptimiserConfig


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
    """AdamW over parameters gathered into two flat float32 buffers: decayed matrices, undecayed vectors.

    float32 parameters become views of the buffers; others keep a float32 master copy there. Parameters of one `kind`
    lie together in each of the two, so that kinds can be reduced over different ranks: `kinds` says where.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        config: OptimiserConfig,
        total_steps: int,
        kind: Callable[[nn.Parameter], int] = lambda parameter: 0,
    ) -> None:
        self.config, self.total_steps, self.step_count = config, total_steps, 0
        parameters = list(parameters)
        groups = [
            sorted((parameter for parameter in parameters if parameter.dim() > 1), key=kind),
            sorted((parameter for parameter in parameters if parameter.dim() <= 1), key=kind),
        ]
        sizes = [sum(parameter.numel() for parameter in group) for group in groups]
        device = parameters[0].device
        self.master = torch.empty(sum(sizes), device=device)
        self.grad = torch.zeros(sum(sizes), device=device)
        self.first = torch.zeros(sum(sizes), device=device)
        self.second = torch.zeros(sum(sizes), device=device)
        self.decayed = sizes[0]
        self._host: dict[str, Tensor] = {}
        self._places: list[tuple[nn.Parameter, slice]] = []
        self.kinds: dict[int, list[slice]] = {}
        offset = 0
        for parameter in (*groups[0], *groups[1]):
            place = slice(offset, offset + parameter.numel())
            offset = place.stop
            same = self.kinds.setdefault(kind(parameter), [])
            if same and same[-1].stop == place.start:
                same[-1] = slice(same[-1].start, place.stop)
            else:
                same.append(place)
            self.master[place] = parameter.detach().reshape(-1).float()
            if parameter.dtype == torch.float32:
                parameter.data = self.master[place].view(parameter.shape)
                parameter.grad = self.grad[place].view(parameter.shape)
            else:
                _accumulate(parameter, self.grad[place].view(parameter.shape))
            self._places.append((parameter, place))
        self._place_of = {id(parameter): place for parameter, place in self._places}

    def view(self, buffer: str, parameter: Tensor) -> Tensor | None:
        """The part of `master`, `first` or `second` that belongs to a parameter, in its shape; None if it has none."""
        place = self._place_of.get(id(parameter))
        return None if place is None else getattr(self, buffer)[place].view(parameter.shape)

    def zero_grad(self) -> None:
        self.grad.zero_()
        for parameter, place in self._places:
            if parameter.grad is None and parameter.dtype == torch.float32:
                parameter.grad = self.grad[place].view(parameter.shape)

    @property
    def rate(self) -> float:
        return learning_rate(self.config, self.step_count, self.total_steps)

    @torch.no_grad()
    def step(self, norm: float) -> None:
        """One update from the flat gradient, scaled so that its norm stays below clip_grad_norm. norm: its norm."""
        config, rate = self.config, self.rate
        if norm > config.clip_grad_norm:
            self.grad.mul_(config.clip_grad_norm / (norm + 1e-6))
        self.step_count += 1
        for part, decay in ((slice(0, self.decayed), config.weight_decay), (slice(self.decayed, None), 0.0)):
            torch._fused_adamw_(
                [self.master[part]],
                [self.grad[part]],
                [self.first[part]],
                [self.second[part]],
                [],
                [torch.tensor(float(self.step_count), device=self.master.device)],
                lr=rate,
                beta1=config.beta1,
                beta2=config.beta2,
                weight_decay=decay,
                eps=config.eps,
                amsgrad=False,
                maximize=False,
            )
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
        """Gives parameters that are not float32 the values of their master copies."""
        for parameter, place in self._places:
            if parameter.dtype != torch.float32:
                parameter.data.copy_(self.master[place].view(parameter.shape))


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
