"""What FP8 products ask of a model's shape: Transformer Engine takes matrices whose sides are multiples of 16
(`assert_dim_for_fp8_exec`, 2.20.2). Megatron-core fills up the rows of an expert; a stream is filled up to whole blocks
of 128 tokens a rank, or tensor parallel ranks would round what they gather twice (`_all_gather_fp8_blockwise`)."""

from __future__ import annotations

from components.failures import BadInput
from components.model.layout import Layout
from components.model.spec import LingSpec

FP8_SIDE, FP8_ROWS = 16, 128


def check_shapes(spec: LingSpec, layout: Layout, dtype: str) -> None:
    """Whether the products of `spec`, divided so, can be taken in `dtype` (execution.learner_dtype).

    Raises:
        BadInput: naming the field of the model and the side that does not fit.
    """
    if dtype != "fp8":
        return
    tensor = layout.tensor
    sides = {
        "hidden_size": spec.hidden_size,
        "num_attention_heads x head_dim": spec.num_attention_heads * spec.head_dim // tensor,
        "num_key_value_heads x head_dim": spec.num_key_value_heads * spec.head_dim // tensor,
    }
    if spec.first_k_dense_replace:
        sides["intermediate_size"] = spec.intermediate_size // tensor
    if spec.first_k_dense_replace < spec.num_hidden_layers or spec.num_nextn_predict_layers:
        sides["moe_intermediate_size"] = spec.moe_intermediate_size
        if spec.num_shared_experts:
            shared = spec.moe_intermediate_size * spec.num_shared_experts // tensor
            sides["moe_intermediate_size x num_shared_experts"] = shared
    if spec.num_nextn_predict_layers:
        sides["hidden_size of a tensor parallel rank"] = spec.hidden_size // tensor
    for name, side in sides.items():
        if side % FP8_SIDE:
            raise BadInput(
                f"FP8 products need sides that are multiples of {FP8_SIDE}: {name} of {spec.name} is {side}"
                f"{f' on each of {tensor} tensor parallel ranks' if tensor > 1 else ''}",
                where="execution.learner_dtype",
                remedy="Set it to bfloat16" + (", or lower execution.tensor_parallel" if tensor > 1 else ""),
            )
