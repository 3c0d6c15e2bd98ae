"""The Ling 2.0 architecture (BailingMoeV2) as one typed value, with the presets a recipe names.

Every number of the published models is from the Ling 2.0 report (arXiv 2510.22115, table 1) and the BailingMoeV2
configuration; `nano` and `smoke` keep each mechanism (sigmoid router with groups, expert bias, shared expert, QK norm,
partial rotary, grouped queries, leading dense layers) at a size two CPU cores can train.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from components.failures import BadInput
from components.recipe.base import StrictModel
from components.recipe.model import ModelConfig

NANO_VOCABULARY = 112


class YarnScaling(StrictModel):
    """YaRN context extension (arXiv 2309.00071), as Ring releases do from 64K to 128K."""

    factor: float = Field(gt=1)
    original_max_position: int = Field(ge=1)


class LingSpec(StrictModel):
    """Shape of one Ling 2.0 model. Names follow the Hugging Face configuration where it has one."""

    name: str
    vocab_size: int = Field(ge=8)
    num_hidden_layers: int = Field(ge=1)
    hidden_size: int = Field(ge=8)
    intermediate_size: int = Field(ge=8, description="FFN width of the leading dense layers")
    moe_intermediate_size: int = Field(ge=8, description="FFN width of one expert, and of one shared expert")
    num_attention_heads: int = Field(ge=1)
    num_key_value_heads: int = Field(ge=1)
    head_dim: int = Field(ge=2)
    num_experts: int = Field(default=256, ge=1)
    num_experts_per_tok: int = Field(default=8, ge=1)
    num_shared_experts: int = Field(default=1, ge=0)
    n_group: int = Field(default=8, ge=1)
    topk_group: int = Field(default=4, ge=1)
    first_k_dense_replace: int = Field(default=1, ge=0)
    num_nextn_predict_layers: int = Field(
        default=0, ge=0, le=1, description="Layers after the last one that predict the token after the next (MTP)"
    )
    routed_scaling_factor: float = Field(default=2.5, gt=0)
    score_function: Literal["sigmoid"] = "sigmoid"
    norm_topk_prob: Literal[True] = True
    moe_router_enable_expert_bias: Literal[True] = True
    router_dtype: Literal["fp32"] = "fp32"
    use_qk_norm: Literal[True] = True
    partial_rotary_factor: float = Field(default=0.5, gt=0, le=1)
    rope_theta: float = Field(default=600_000.0, gt=0)
    rms_norm_eps: float = Field(default=1e-6, gt=0)
    max_position_embeddings: int = Field(default=65_536, ge=16)
    yarn: YarnScaling | None = None
    tie_word_embeddings: Literal[False] = False
    initializer_range: float = Field(default=0.006, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> LingSpec:
        def need(condition: bool, problem: str) -> None:
            if not condition:
                raise ValueError(f"model {self.name}: {problem}")

        need(
            self.num_attention_heads % self.num_key_value_heads == 0,
            f"num_attention_heads {self.num_attention_heads} is not a multiple of "
            f"num_key_value_heads {self.num_key_value_heads}",
        )
        need(
            self.num_experts % self.n_group == 0, f"num_experts {self.num_experts} is not a multiple of {self.n_group}"
        )
        need(self.topk_group <= self.n_group, f"topk_group {self.topk_group} exceeds n_group {self.n_group}")
        # Megatron scores a group by its top (topk // topk_group) experts, vLLM and HF by its top 2: they route alike
        # only when the quotient is 2.
        need(
            self.num_experts_per_tok == 2 * self.topk_group,
            f"num_experts_per_tok {self.num_experts_per_tok} must be twice topk_group {self.topk_group}, or the "
            "trainer and the engine choose different expert groups",
        )
        need(
            self.num_experts // self.n_group >= 2,
            f"a group needs two experts, has {self.num_experts // self.n_group}",
        )
        need(self.first_k_dense_replace <= self.num_hidden_layers, "more dense layers than layers")
        need(self.rotary_dim % 2 == 0, f"rotary dimension {self.rotary_dim} is odd")
        return self

    @property
    def rotary_dim(self) -> int:
        return int(self.head_dim * self.partial_rotary_factor)

    def is_dense(self, layer: int) -> bool:
        """Whether layer `layer` (from 0) has one dense FFN in place of experts."""
        return layer < self.first_k_dense_replace

    @property
    def mtp_prefix(self) -> str:
        """Of the names of the MTP layer's tensors, also where the model has none."""
        return f"model.layers.{self.num_hidden_layers}."

    def without_mtp(self) -> LingSpec:
        """The model as engines run it, and as it is trained without a loss on the token after the next."""
        return self.model_copy(update={"num_nextn_predict_layers": 0}) if self.num_nextn_predict_layers else self

    def parameter_count(self) -> tuple[int, int]:
        """(total, active per token), both with the input and output embeddings and without the MTP layer, as the Ling
        2.0 report counts them."""
        embeddings = 2 * self.vocab_size * self.hidden_size
        queries, keys = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        attention = self.hidden_size * (queries + 2 * keys) + queries * self.hidden_size + 2 * self.head_dim
        norms = 2 * self.hidden_size
        dense = 3 * self.hidden_size * self.intermediate_size
        expert = 3 * self.hidden_size * self.moe_intermediate_size
        router = self.num_experts * self.hidden_size + self.num_experts
        sparse_layers = self.num_hidden_layers - self.first_k_dense_replace
        common = embeddings + self.num_hidden_layers * (attention + norms) + self.hidden_size
        common += self.first_k_dense_replace * dense + sparse_layers * (router + self.num_shared_experts * expert)
        return (
            common + sparse_layers * self.num_experts * expert,
            common + sparse_layers * self.num_experts_per_tok * expert,
        )

    def mtp_parameters(self) -> int:
        """Of the MTP layer: a sparse layer, a projection of two hidden states to one, and three norms."""
        if not self.num_nextn_predict_layers:
            return 0
        one = self.model_copy(update={"num_hidden_layers": 1, "first_k_dense_replace": 0, "vocab_size": 0})
        return one.parameter_count()[0] + 2 * self.hidden_size**2 + 2 * self.hidden_size


PRESETS: dict[str, LingSpec] = {
    spec.name: spec
    for spec in (
        # 1.6M parameters; the shape a long trial found able to learn in minutes (matrices drawn with std 0.05).
        LingSpec(
            name="nano",
            vocab_size=NANO_VOCABULARY,
            num_hidden_layers=4,
            hidden_size=128,
            intermediate_size=256,
            moe_intermediate_size=64,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            num_experts=16,
            num_experts_per_tok=4,
            n_group=4,
            topk_group=2,
            max_position_embeddings=512,
            initializer_range=0.05,
        ),
        # For continuous integration: every mechanism, a quarter of nano's work.
        LingSpec(
            name="smoke",
            vocab_size=NANO_VOCABULARY,
            num_hidden_layers=2,
            hidden_size=64,
            intermediate_size=128,
            moe_intermediate_size=32,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=32,
            num_experts=8,
            num_experts_per_tok=4,
            n_group=4,
            topk_group=2,
            max_position_embeddings=512,
            initializer_range=0.05,
        ),
        # 0.1B parameters: between a laptop's and a cluster's, to measure exchange, memory and layouts with.
        LingSpec(
            name="small",
            vocab_size=NANO_VOCABULARY,
            num_hidden_layers=8,
            hidden_size=512,
            intermediate_size=1024,
            moe_intermediate_size=256,
            num_attention_heads=8,
            num_key_value_heads=4,
            head_dim=64,
            num_experts=32,
            max_position_embeddings=512,
            initializer_range=0.02,
        ),
        LingSpec(
            name="ring-mini-2.0",
            vocab_size=157_184,
            num_hidden_layers=20,
            hidden_size=2048,
            intermediate_size=5120,
            moe_intermediate_size=512,
            num_attention_heads=16,
            num_key_value_heads=4,
            head_dim=128,
        ),
        LingSpec(
            name="ring-flash-2.0",
            vocab_size=157_184,
            num_hidden_layers=32,
            hidden_size=4096,
            intermediate_size=9216,
            moe_intermediate_size=1024,
            num_attention_heads=32,
            num_key_value_heads=4,
            head_dim=128,
        ),
        LingSpec(
            name="ring-1t",
            vocab_size=157_184,
            num_hidden_layers=80,
            hidden_size=8192,
            intermediate_size=18_432,
            moe_intermediate_size=2048,
            num_attention_heads=64,
            num_key_value_heads=8,
            head_dim=128,
            first_k_dense_replace=4,
        ),
    )
}


def extended(spec: LingSpec, factor: float | None) -> LingSpec:
    """The same weights with YaRN: `factor` times the context (Ring releases: 64K to 128K). None changes nothing.

    Raises:
        BadInput: the model is stretched already.
    """
    if factor is None:
        return spec
    if spec.yarn is not None:
        raise BadInput(f"{spec.name} has YaRN already (factor {spec.yarn.factor:g})", where="evaluate.yarn_factor")
    length = spec.max_position_embeddings
    yarn = YarnScaling(factor=factor, original_max_position=length)
    return spec.model_copy(update={"yarn": yarn, "max_position_embeddings": int(length * factor)})


def spec_for(config: ModelConfig) -> LingSpec:
    """The architecture a recipe's `model` section names.

    Raises:
        BadInput: the preset is unknown.
    """
    spec = PRESETS.get(config.preset)
    if spec is None:
        raise BadInput(
            "the model is left to a base that is not read here"
            if config.preset == "base"
            else f"unknown preset {config.preset!r}",
            where="model.preset",
            remedy=f"Use one of {', '.join(PRESETS)}",
        )
    if config.max_position is not None:
        spec = spec.model_copy(update={"max_position_embeddings": config.max_position})
    if config.mtp_layers is not None:
        spec = spec.model_copy(update={"num_nextn_predict_layers": config.mtp_layers})
    return spec
