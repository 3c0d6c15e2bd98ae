"""The float32 LM head on tensor cores, where the rest of the model is bfloat16.

A float32 product runs at a fifteenth of a Hopper GPU's bfloat16 rate, and the head of a small model is a fifth of its
operations: it would be most of a step. In TF32 (10 bits of mantissa, float32 sums) the hidden states, which come from
bfloat16 (7 bits), are exact, and the weights keep 3 bits more than bfloat16 leaves them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def use_tensor_cores(head: nn.Module) -> None:
    """Forward and backward products of `head` in TF32, all others as they were."""
    before: list[bool] = []

    def on(*_: Any) -> None:
        before.append(torch.backends.cuda.matmul.allow_tf32)
        torch.backends.cuda.matmul.allow_tf32 = True

    def off(*_: Any) -> None:
        torch.backends.cuda.matmul.allow_tf32 = before.pop()

    head.register_forward_pre_hook(on)
    head.register_forward_hook(off, always_call=True)
    head.register_full_backward_pre_hook(on)
    head.register_full_backward_hook(off)
