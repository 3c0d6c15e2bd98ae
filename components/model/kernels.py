"""Forward and backward passes written out where autograd's own are slow on CPU: norm, rotary embedding, experts.

A decomposed norm or gated expert makes three to four times the memory passes it needs; at a million parameters those
passes, not the matrix products, are the time of a step. Everything is plain torch and runs on any device.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

TINY = torch.finfo(torch.float32).tiny


class RMSNormFunction(Function):
    """y = w * x / sqrt(mean(x^2) + eps) over the last dimension, in float32."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
        x = hidden.float()
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        normed = x * scale
        ctx.save_for_backward(normed, scale, weight)
        ctx.dtype = hidden.dtype
        return (normed * weight).to(hidden.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        normed, scale, weight = ctx.saved_tensors
        width = normed.shape[-1]
        product = grad.float() * normed
        weight_grad = product.reshape(-1, width).sum(0).to(weight.dtype)
        # d(hidden) = scale * (g w - normed * mean(g w normed))
        shared = torch.mv(product.reshape(-1, width), weight.float()).div_(-width).view(scale.shape)
        out = grad.float() * weight
        out.addcmul_(normed, shared).mul_(scale)
        return out.to(ctx.dtype), weight_grad, None


class RotaryFunction(Function):
    """RoPE (arXiv 2104.09864) on the leading dimensions of a head, halves paired as in GPT-NeoX; the rest passes."""

    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x [tokens, heads, dim]; cos, sin [tokens, 1, rotary dimension / 2]."""
        ctx.save_for_backward(cos, sin)
        return _rotate(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        cos, sin = ctx.saved_tensors
        return _rotate(grad, cos, -sin), None, None


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = cos.shape[-1]
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    a, b = x[..., :half], x[..., half : 2 * half]
    torch.mul(a, cos, out=out[..., :half]).addcmul_(b, sin, value=-1)
    torch.mul(b, cos, out=out[..., half : 2 * half]).addcmul_(a, sin)
    out[..., 2 * half :] = x[..., 2 * half :]
    return out


class PadFunction(Function):
    """Stream to padded documents. Padding repeats a token but nothing reads it, so the gradient is a plain read too."""

    @staticmethod
    def forward(ctx, x: Tensor, gather: Tensor, places: Tensor) -> Tensor:
        """x [tokens, ...]; gather [places] names the token of each place; places [tokens] the place of each token."""
        ctx.save_for_backward(places)
        return x.index_select(0, gather)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        (places,) = ctx.saved_tensors
        return grad.index_select(0, places), None, None


class UnpadFunction(Function):
    """Padded documents back to the stream; the gradient of padding is 0."""

    @staticmethod
    def forward(ctx, x: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.shape = x.shape
        return x.index_select(0, places)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        (places,) = ctx.saved_tensors
        return grad.new_zeros(ctx.shape).index_copy_(0, places, grad), None


class ExpertsFunction(Function):
    """Sum over a token's experts of p_e * fc2_e (silu(gate_e x) * up_e x), tokens grouped by expert."""

    @staticmethod
    def forward(ctx, hidden: Tensor, probs: Tensor, chosen: Tensor, fc1: Tensor, fc2: Tensor, topk: int) -> Tensor:
        """hidden [tokens, hidden]; probs [tokens, experts]; chosen [tokens, experts] bool, topk True in each row."""
        by_expert = chosen.t().contiguous()
        ends = by_expert.sum(1).cumsum(0).to(torch.int32)
        source = by_expert.nonzero()[:, 1]
        rank = torch.empty(by_expert.shape, dtype=torch.int64, device=hidden.device)
        rank[by_expert] = torch.arange(len(source), device=hidden.device)
        back = rank.t()[chosen]
        weight = probs.t()[by_expert].to(hidden.dtype).unsqueeze(1)
        grouped = hidden.index_select(0, source)
        out, *saved = _ffn(grouped, weight, fc1, fc2, ends)
        ctx.save_for_backward(grouped, *saved, weight, by_expert, source, back, ends, fc1, fc2)
        ctx.topk = topk
        return out.index_select(0, back).view(-1, topk, hidden.shape[1]).sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        grouped, wide, sigmoid, inner, weight, by_expert, source, back, ends, fc1, fc2 = ctx.saved_tensors
        upstream = grad.index_select(0, source)
        grouped_grad, weight_grad, fc1_grad, fc2_grad = _ffn_backward(
            upstream, grouped, wide, sigmoid, inner, weight, fc1, fc2, ends
        )
        hidden_grad = grouped_grad.index_select(0, back).view(-1, ctx.topk, grad.shape[1]).sum(1)
        probs_grad = torch.zeros(by_expert.shape, dtype=torch.float32, device=grad.device)
        probs_grad[by_expert] = weight_grad.float()
        return hidden_grad, probs_grad.t(), None, fc1_grad, fc2_grad, None


class GroupedFfnFunction(Function):
    """p * fc2_e (silu(gate_e x) * up_e x) of rows that are grouped by expert already, as a token dispatcher does it."""

    @staticmethod
    def forward(ctx, grouped: Tensor, probs: Tensor, fc1: Tensor, fc2: Tensor, ends: Tensor) -> Tensor:
        """grouped [rows, hidden]; probs [rows]; ends [experts] int32, row after the last one of each expert."""
        weight = probs.to(grouped.dtype).unsqueeze(1)
        out, *saved = _ffn(grouped, weight, fc1, fc2, ends)
        ctx.save_for_backward(grouped, *saved, weight, fc1, fc2, ends)
        ctx.dtype = probs.dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        grouped, wide, sigmoid, inner, weight, fc1, fc2, ends = ctx.saved_tensors
        grouped_grad, weight_grad, fc1_grad, fc2_grad = _ffn_backward(
            grad.contiguous(), grouped, wide, sigmoid, inner, weight, fc1, fc2, ends
        )
        return grouped_grad, weight_grad.to(ctx.dtype), fc1_grad, fc2_grad, None


def _ffn(grouped: Tensor, weight: Tensor, fc1: Tensor, fc2: Tensor, ends: Tensor) -> tuple[Tensor, ...]:
    """(rows out, what the backward pass needs: wide, sigmoid, inner). weight: [rows, 1]."""
    wide = torch._grouped_mm(grouped, fc1.transpose(1, 2), offs=ends)
    gate, up = wide.chunk(2, dim=1)
    sigmoid = torch.sigmoid(gate)
    inner = (sigmoid * gate).mul_(up).mul_(weight)
    return torch._grouped_mm(inner, fc2.transpose(1, 2), offs=ends), wide, sigmoid, inner


def _ffn_backward(
    upstream: Tensor,
    grouped: Tensor,
    wide: Tensor,
    sigmoid: Tensor,
    inner: Tensor,
    weight: Tensor,
    fc1: Tensor,
    fc2: Tensor,
    ends: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of (grouped, weight [rows], fc1, fc2)."""
    gate, up = wide.chunk(2, dim=1)
    fc2_grad = torch._grouped_mm(upstream.t(), inner, offs=ends)
    inner_grad = torch._grouped_mm(upstream, fc2, offs=ends)
    # inner = weight * silu(gate) * up
    # A weight can underflow to 0, and inner with it: 0 / tiny is 0.
    weight_grad = torch.linalg.vecdot(inner_grad, inner).div_(weight.squeeze(1).clamp(min=TINY))
    inner_grad.mul_(weight)
    wide_grad = torch.empty_like(wide)
    gate_grad, up_grad = wide_grad.chunk(2, dim=1)
    torch.mul(inner_grad, sigmoid, out=up_grad)
    # silu'(gate) = sigmoid * (1 + gate * (1 - sigmoid)) = sigmoid + silu * (1 - sigmoid)
    torch.addcmul(up_grad, up_grad, torch.rsub(sigmoid, 1).mul_(gate), out=gate_grad)
    gate_grad.mul_(up)
    up_grad.mul_(gate)
    fc1_grad = torch._grouped_mm(wide_grad.t(), grouped, offs=ends)
    return torch._grouped_mm(wide_grad, fc1, offs=ends), weight_grad, fc1_grad, fc2_grad
