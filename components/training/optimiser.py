"""AdamW on flat float32 buffers, warm-up and cosine schedule, and the router's expert bias update.

One buffer for all gradients makes data parallelism one all-reduce, clipping one norm and the update two fused kernels.
Matrices decay, norms do not. The expert bias is moved by megatron's rule, b += u * sign(mean load - load), instead of
an auxiliary loss (Ling 2.0 report; DeepSeek-V3, arXiv 2412.19437); RL keeps it fixed (Ring-1T report, 2.3.4).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
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

    float32 parameters become views of the buffers; others keep a float32 master copy there.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], config: OptimiserConfig, total_steps: int) -> None:
        self.config, self.total_steps, self.step_count = config, total_steps, 0
        parameters = list(parameters)
        self.groups = [
            [parameter for parameter in parameters if parameter.dim() > 1],
            [parameter for parameter in parameters if parameter.dim() <= 1],
        ]
        sizes = [sum(parameter.numel() for parameter in group) for group in self.groups]
        device = parameters[0].device
        self.master = torch.empty(sum(sizes), device=device)
        self.grad = torch.zeros(sum(sizes), device=device)
        self.first = torch.zeros(sum(sizes), device=device)
        self.second = torch.zeros(sum(sizes), device=device)
        self.decayed = sizes[0]
        self._places: list[tuple[nn.Parameter, slice]] = []
        offset = 0
        for parameter in (*self.groups[0], *self.groups[1]):
            place = slice(offset, offset + parameter.numel())
            offset = place.stop
            self.master[place] = parameter.detach().reshape(-1).float()
            if parameter.dtype == torch.float32:
                parameter.data = self.master[place].view(parameter.shape)
                parameter.grad = self.grad[place].view(parameter.shape)
            self._places.append((parameter, place))

    def zero_grad(self) -> None:
        self.grad.zero_()
        for parameter, place in self._places:
            if parameter.dtype != torch.float32:
                parameter.grad = None
            elif parameter.grad is None:
                parameter.grad = self.grad[place].view(parameter.shape)

    def gather_grad(self) -> Tensor:
        """The flat gradient [parameters], float32; the buffer itself, so an all-reduce on it is the reduction."""
        for parameter, place in self._places:
            if parameter.dtype != torch.float32 and parameter.grad is not None:
                self.grad[place] = parameter.grad.reshape(-1).float()
        return self.grad

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
        for parameter, place in self._places:
            if parameter.dtype != torch.float32:
                parameter.data.copy_(self.master[place].view(parameter.shape))

    def state(self) -> dict[str, Any]:
        return {
            "master": self.master,
            "first": self.first,
            "second": self.second,
            "step": self.step_count,
            "total_steps": self.total_steps,
            "config": self.config.model_dump(),
        }

    @torch.no_grad()
    def load(self, state: dict[str, Any]) -> None:
        for name in ("master", "first", "second"):
            getattr(self, name).copy_(state[name])
        self.step_count = int(state["step"])
        for parameter, place in self._places:
            if parameter.dtype != torch.float32:
                parameter.data.copy_(self.master[place].view(parameter.shape))


@torch.no_grad()
def update_expert_bias(bias: Tensor, load: Tensor, rate: float) -> None:
    """b += rate * sign(mean load - load), in place. bias, load: [experts]; load in tokens over all ranks."""
    bias.add_(torch.sign(load.mean() - load), alpha=rate)
