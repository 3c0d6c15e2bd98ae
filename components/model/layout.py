"""How one model is divided over learner processes: tensor, context, pipeline, expert and data parallel.

Ranks are numbered as megatron-core numbers them (order tp-cp-ep-dp-pp): tensor parallel neighbours first, pipeline
stages last. Experts are divided over `expert` neighbouring ranks of one stage, each whole on one rank (expert tensor
parallel size 1), whatever the attention's layout is. Pure arithmetic: `plan` and the controller use it without torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from components.failures import BadInput
from components.model.spec import LingSpec
from components.recipe.execution import ExecutionConfig


@dataclass(frozen=True)
class Place:
    """Where a rank stands: its index along each dimension."""

    tensor: int
    context: int
    data: int
    pipeline: int
    expert: int


@dataclass(frozen=True)
class Layout:
    """world = tensor * context * pipeline * data; `expert` divides tensor * context * data."""

    world: int = 1
    tensor: int = 1
    context: int = 1
    pipeline: int = 1
    expert: int = 1

    @classmethod
    def of(cls, execution: ExecutionConfig) -> Layout:
        return cls(
            execution.learners,
            execution.tensor_parallel,
            execution.context_parallel,
            execution.pipeline_parallel,
            execution.expert_parallel,
        )

    def settings(self) -> dict[str, int]:
        """The keys of the recipe's execution section that say this; the inverse of `of`."""
        return {
            "learners": self.world,
            "tensor_parallel": self.tensor,
            "context_parallel": self.context,
            "pipeline_parallel": self.pipeline,
            "expert_parallel": self.expert,
        }

    @property
    def replica(self) -> int:
        """Ranks that together hold and run one copy of the model's dense part."""
        return self.tensor * self.context * self.pipeline

    @property
    def data(self) -> int:
        """Data-parallel replicas: each gets its own share of the sequences."""
        return self.world // self.replica

    @property
    def divided(self) -> bool:
        """Whether a rank holds or runs less than the whole model."""
        return self.replica > 1 or self.expert > 1

    def place(self, rank: int) -> Place:
        tensor, rest = rank % self.tensor, rank // self.tensor
        context, rest = rest % self.context, rest // self.context
        data, pipeline = rest % self.data, rest // self.data
        return Place(tensor, context, data, pipeline, rank % (self.world // self.pipeline) % self.expert)

    def speaks(self, rank: int) -> bool:
        """Whether this rank reports for its replica: the first of the last pipeline stage."""
        place = self.place(rank)
        return place.tensor == place.context == 0 and place.pipeline == self.pipeline - 1

    def speakers(self) -> list[int]:
        """The reporting rank of each replica, in the order of the replicas."""
        return [rank for rank in range(self.world) if self.speaks(rank)]

    def check(self, spec: LingSpec) -> None:
        """Whether `spec` can be divided so.

        Raises:
            BadInput: naming the execution key and what it has to divide.
        """
        keys_here = max(1, spec.num_key_value_heads // self.tensor)
        shared = spec.moe_intermediate_size * spec.num_shared_experts
        sparse = spec.num_hidden_layers > spec.first_k_dense_replace or spec.num_nextn_predict_layers
        if spec.num_nextn_predict_layers and self.pipeline > 1:
            # It reads the embedding of the first stage and the last one's hidden states.
            raise BadInput(
                "the layer that predicts the token after the next is not divided over pipeline stages",
                where="execution.pipeline_parallel",
                remedy="Use 1, or set model.mtp_layers to 0",
            )
        for key, parts, what, count in (
            ("learners", self.replica, "execution.learners", self.world),
            ("tensor_parallel", self.tensor, "attention heads", spec.num_attention_heads),
            ("tensor_parallel", self.tensor, "key-value heads", spec.num_key_value_heads),
            ("tensor_parallel", self.tensor, "vocabulary rows", spec.vocab_size),
            ("tensor_parallel", self.tensor, "columns of a dense FFN", spec.intermediate_size),
            ("tensor_parallel", self.tensor, "columns of the shared experts", shared),
            ("pipeline_parallel", self.pipeline, "layers", spec.num_hidden_layers),
            ("expert_parallel", self.expert, "experts", spec.num_experts if sparse else self.expert),
            ("expert_parallel", self.expert, "learners of a pipeline stage", self.world // self.pipeline),
            ("context_parallel", self.context, "attention heads of a rank", spec.num_attention_heads // self.tensor),
        ):
            if count % parts:
                name = "tensor_parallel x context_parallel x pipeline_parallel" if key == "learners" else key
                raise BadInput(
                    f"{count} {what} cannot be divided by {name} = {parts}",
                    where=f"execution.{key}",
                    remedy=f"Use a multiple of {parts}" if key == "learners" else f"Use a divisor of {count}",
                )
        if keys_here % self.context and self.context % keys_here:
            raise BadInput(
                f"{keys_here} key-value heads of a rank can be neither divided by nor repeated to "
                f"context_parallel = {self.context}",
                where="execution.context_parallel",
                remedy=f"Use a divisor or a multiple of {keys_here}",
            )


UNDIVIDED = Layout()
